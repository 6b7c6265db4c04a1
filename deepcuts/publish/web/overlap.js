// Compares masks: all chosen trials as a matrix, then the layers of one pair, by depth and kind.
// A trial is [id, dataset, arm, compression, sparsity asked, seed]; a layer [name, depth, kind].
const MEASURE_NAMES = { kappa: 'kappa (0 = chance)', kept_iou: 'IoU of kept weights', pruned_iou: 'IoU of pruned weights' };
const overlapState = recalledOverlap();

// The pair is kept as the ids of its trials, which say what they are whatever else the page shows.
function recalledOverlap() {
  const state = { set: 0, measure: recall('measure', (name) => name in MEASURE_NAMES, 'kappa'), a: 0, b: 1 };
  const ids = (address.get('pair') ?? '').split(',');
  data.overlaps.forEach((set, index) => {
    const [a, b] = ids.map((id) => set.trials.findIndex((trial) => trial[0] === id));
    if (a >= 0 && b >= 0) Object.assign(state, { set: index, a, b });
  });
  return state;
}

function keepOverlap() {
  const { set, a, b, measure } = overlapState, ids = overlapNow().trials.map(([id]) => id);
  keep({ measure: [measure, 'kappa'], pair: [set || a !== 0 || b !== 1 ? `${ids[a]},${ids[b]}` : '', ''] });
}
const overlapNow = () => data.overlaps[overlapState.set];
const decoded = new Map();

function overlapValues(set) {
  if (!decoded.has(set)) {
    const bytes = Uint8Array.from(atob(data.overlaps[set].values), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const pairs = new Map(data.overlaps[set].pairs.map(([a, b], index) => [a < b ? `${a},${b}` : `${b},${a}`, index]));
    decoded.set(set, { view, pairs });
  }
  return decoded.get(set);
}

// Returns a measure of a pair of trials in a layer (0: the whole network); null where it is undefined.
function measured(a, b, layer, measure) {
  const { measures, layers } = overlapNow(), { view, pairs } = overlapValues(overlapState.set);
  const pair = pairs.get(a < b ? `${a},${b}` : `${b},${a}`);
  if (pair === undefined) return null;
  const raw = view.getUint16(2 * ((pair * (layers.length + 1) + layer) * measures.length + measures.indexOf(measure)), true);
  return raw === 65535 ? null : (2 * raw) / 65534 - 1;
}

const trialName = ([, dataset, arm, compression, sparsity, seed]) => `${dataset} ${asked(compression, sparsity)} ${arm}, seed ${seed}`;

// Sets how strongly a cell is coloured; page.css mixes the colours, for light, dark and print.
function shade(value) {
  if (value === null) return { class: 'shade', vars: { '--strength': '0%' } };
  const strength = Math.min(1, Math.abs(value)) ** 0.8;
  return { class: `shade${strength > 0.5 ? ' strong' : ''}${value < 0 ? ' under' : ''}`, vars: { '--strength': `${(100 * strength).toFixed(1)}%` } };
}

function drawOverlapControls() {
  const form = byId('overlap-controls'), set = overlapNow();
  const change = (key, read = Number) => (value) => { overlapState[key] = read(value); drawOverlap(); };
  const toSet = (value) => { Object.assign(overlapState, { set: Number(value), a: 0, b: 1 }); drawOverlap(); };
  const options = set.trials.map((trial, index) => [index, trialName(trial)]);
  keepFocus(form, () => form.replaceChildren(
    ...(data.overlaps.length > 1 ? [select('Trials of', data.overlaps.map((each, index) => [index, each.set]), overlapState.set, toSet)] : []),
    select('One trial', options, overlapState.a, change('a')), select('Another trial', options, overlapState.b, change('b')),
    select('Measure', Object.entries(MEASURE_NAMES), overlapState.measure, change('measure', String))));
}

function drawMatrix() {
  const { trials } = overlapNow(), n = trials.length, size = 480 / n, names = size >= 14 ? 185 : 110;
  const chart = svg('svg', { class: 'matrix', viewBox: `${-names} 0 ${480 + names} 480`, role: 'img',
    'aria-label': `${MEASURE_NAMES[overlapState.measure]} of all pairs of ${n} trials; choose two above to read one` });
  for (let a = 0; a < n; a += 1) {
    for (let b = 0; b < n; b += 1) {
      const value = a === b ? 1 : measured(a, b, 0, overlapState.measure);
      const chosen = (a === overlapState.a && b === overlapState.b) || (b === overlapState.a && a === overlapState.b);
      const look = a === b ? { class: 'self' } : shade(value);
      const cell = svg('rect', { x: a * size, y: b * size, width: size, height: size, ...look, class: look.class + (chosen ? ' chosen' : ''), 'stroke-width': size > 12 ? 1 : 0.3 });
      if (a !== b) {
        cell.addEventListener('click', () => { Object.assign(overlapState, { a: Math.min(a, b), b: Math.max(a, b) }); drawOverlap(); });
        cell.addEventListener('pointermove', (event) => showTip(event.clientX, event.clientY, el('b', {}, `${MEASURE_NAMES[overlapState.measure]} ${fixed(value)}`), el('div', {}, trialName(trials[a])), el('div', {}, trialName(trials[b]))));
      }
      chart.append(cell);
    }
  }
  for (const [place, words] of matrixNames(trials, size)) chart.append(svg('text', { class: 'name', x: -6, y: place * size + Math.max(size / 2, 5) + 3.5, 'text-anchor': 'end' }, words));
  chart.append(...[...chart.querySelectorAll('.chosen')]);
  chart.addEventListener('pointerleave', hideTip);
  const caption = el('p', { class: 'quiet' }, `Every pair of ${n} trials, the whole network; ordered by dataset, compression or sparsity, arm and seed. Choose a cell to see its layers.`);
  byId('overlap-pairs').replaceChildren(el('h3', {}, 'All pairs'), caption, chart, scaleBar());
}

// Names every row where there is room, else each group of the same dataset and compression or sparsity.
function matrixNames(trials, size) {
  const asks = trials.map(([, dataset, , compression, sparsity]) => `${dataset} ${asked(compression, sparsity)}`);
  const arms = shortened(unique(trials.map(([, , arm]) => arm)), 18), groups = shortened(unique(asks), 15);
  if (size >= 14) return trials.map(([, , arm, compression, sparsity, seed], row) => [row, `${arms.get(arm)} ${asked(compression, sparsity)} ·${seed}`]);
  return asks.flatMap((words, row) => (words !== asks[row - 1] ? [[row, groups.get(words)]] : []));
}

const scaleBar = () => el('div', { class: 'scale', 'aria-hidden': 'true' }, '0', el('span', { class: 'ramp' }), '1');

// Makes a table of layers, by depth and kind; those outside the encoder below. A layer begins with [name, depth, kind].
function layerGrid(caption, layers, cell) {
  const known = (kind) => (data.kinds.indexOf(kind) + 99) % 99;
  const kinds = unique(layers.filter(([, depth]) => depth !== null).map(([, , kind]) => kind)).sort((one, other) => known(one) - known(other));
  const depths = unique(layers.map(([, depth]) => depth)).filter((depth) => depth !== null).sort((one, other) => one - other);
  const at = (depth, kind) => layers.findIndex((each) => each[1] === depth && each[2] === kind);
  const rows = depths.map((depth) => el('tr', {}, el('th', { scope: 'row' }, `layer ${depth}`), kinds.map((kind) => (at(depth, kind) < 0 ? el('td', {}) : cell(at(depth, kind))))));
  const wide = (one) => Object.assign(one, { colSpan: kinds.length }); // of no kind: below all of them
  const outside = layers.flatMap((layer, index) => (layer[1] === null ? [el('tr', {}, el('th', { scope: 'row' }, layer[2]), wide(cell(index)))] : []));
  return el('table', { class: 'layers' }, el('caption', {}, caption), el('thead', {}, el('tr', {}, el('td', {}), kinds.map((kind) => el('th', { scope: 'col' }, kind)))), el('tbody', {}, rows, outside));
}

function drawLayers() {
  const { a, b, measure } = overlapState, { layers, trials } = overlapNow(), holder = byId('overlap-layers');
  if (a === b) {
    holder.replaceChildren(el('h3', {}, 'One pair'), el('p', { class: 'note' }, 'Both are the same trial: choose another.'));
    return;
  }
  const cell = (index) => {
    const layer = index + 1, value = measured(a, b, layer, measure), look = shade(value), chance = measure === 'kappa' ? null : measured(a, b, layer, `${measure}_chance`);
    return el('td', { ...look, class: `cell ${look.class}` }, fixed(value, 2), chance === null ? null : el('small', {}, `chance ${fixed(chance, 2)}`));
  };
  const caption = `${MEASURE_NAMES[measure]}: ${trialName(trials[a])} and ${trialName(trials[b])}`;
  const whole = ['kappa', 'kept_iou', 'kept_iou_chance', 'pruned_iou', 'pruned_iou_chance'].map((name) => fixed(measured(a, b, 0, name)));
  const words = `Whole network: kappa ${whole[0]}; kept IoU ${whole[1]} (chance ${whole[2]}); pruned IoU ${whole[3]} (chance ${whole[4]}).`;
  holder.replaceChildren(el('h3', {}, 'One pair, layer by layer'),
    el('p', { class: 'quiet' }, trialName(trials[a]), el('br'), trialName(trials[b])), el('p', { id: 'overlap-said', 'aria-live': 'polite' }, words),
    el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption }, layerGrid(caption, layers, cell)));
}

function drawOverlap() {
  drawOverlapControls();
  drawMatrix();
  drawLayers();
  keepOverlap();
}

if (data.overlaps.length) drawOverlap();
else byId('overlap-controls').replaceChildren(el('p', { class: 'quiet' }, 'No overlap: it needs the masks of two trials.'));
