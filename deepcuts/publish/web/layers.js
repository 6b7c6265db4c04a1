// Shows where the kept weights are, and what pruning emptied, for one arm at one level; means over its seeds.
// A layer is [name, depth, kind, density, share of dead rows, of dead columns, of dead heads].
const COUNTED = [
  ['density', 'weights kept', 3], ['neurons', 'neurons without an input', 4],
  ['inputs', 'inputs that nothing uses', 5], ['heads', 'attention heads without a weight', 6],
];
const layerTask = (group) => [group.model, group.dataset].filter(Boolean).join(' · ');
const layerArm = (group) => `${group.arm} ${asked(group.compression, group.sparsity_asked)}`;
const layerState = {
  group: Math.max(0, data.layers.findIndex((each) => `${layerTask(each)} ${layerArm(each)}` === address.get('layers'))),
  counted: recall('counted', (name) => COUNTED.some(([key]) => key === name), 'density'),
};

function drawLayerTable() {
  const group = data.layers[layerState.group], [, words, at] = COUNTED.find(([key]) => key === layerState.counted);
  const change = (key, read) => (value) => { layerState[key] = read(value); drawLayerTable(); };
  const toTask = (task) => {
    const same = data.layers.findIndex((each) => layerTask(each) === task && layerArm(each) === layerArm(group));
    layerState.group = same >= 0 ? same : data.layers.findIndex((each) => layerTask(each) === task);
    drawLayerTable();
  };
  const arms = data.layers.flatMap((each, index) => (layerTask(each) === layerTask(group) ? [[index, layerArm(each)]] : []));
  keepFocus(byId('layer-controls'), () => byId('layer-controls').replaceChildren(
    select('Dataset', unique(data.layers.map(layerTask)), layerTask(group), toTask),
    select('Pruned by', arms, layerState.group, change('group', Number)),
    select('Share of', COUNTED.map(([key, name]) => [key, name]), layerState.counted, change('counted', String))));
  const cell = (index) => {
    const value = group.layers[index][at], look = shade(value);
    return el('td', { ...look, class: `cell ${look.class}` }, value === null ? '–' : percent(Number(value.toPrecision(3))));
  };
  const caption = `Share of ${words}: ${layerArm(group)} on ${layerTask(group)}, mean of ${group.n} trial${group.n === 1 ? '' : 's'}`;
  const none = group.layers.every((each) => each[at] === null);
  byId('layer-table').replaceChildren(none ? el('p', { class: 'note' }, 'Not counted for these trials: their masks are not among those that this page reads, or the number of heads is unknown.')
    : el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption }, layerGrid(caption, group.layers, cell)));
  keep({ layers: [layerState.group ? `${layerTask(group)} ${layerArm(group)}` : '', ''], counted: [layerState.counted, 'density'] });
}

if (data.layers.length) drawLayerTable();
