// Draws curves over seeds. A point is [sparsity, compression, n, mean, low, high, values].
const [SPARSITY, COMPRESSION, COUNT, MEAN, LOW, HIGH, VALUES] = [0, 1, 2, 3, 4, 5, 6];
const STAGES = [['retrained', 'retrained'], ['rewound', 'rewound, before retraining'], ['pruned', 'pruned, before the rewind']];
const facetTask = (facet) => [facet.model, facet.dataset].filter(Boolean).join(' · ');
const curveState = {
  facet: Math.max(0, data.facets.findIndex((each) => facetTask(each) === address.get('task') && each.metric === (address.get('metric') ?? each.metric))),
  stage: recall('network', (name) => STAGES.some(([key]) => key === name), 'retrained'),
  axis: recall('across', (name) => ['compression', 'sparsity'].includes(name), null),
  scale: recall('scale', (name) => name === 'log', 'linear'),
  relative: address.has('relative'), seeds: address.has('seeds'), hidden: new Set(recallList('hidden')), at: null,
};

function keepCurves() {
  const facet = facetNow();
  keep({
    task: [facetTask(facet), facetTask(data.facets[0])], metric: [facet.metric, data.facets.find((each) => facetTask(each) === facetTask(facet)).metric],
    network: [curveState.stage, 'retrained'], across: [curveState.axis ?? facet.axis, facet.axis], scale: [curveState.scale, 'linear'],
    relative: [curveState.relative, false], seeds: [curveState.seeds, false], hidden: [unpacked(curveState.hidden), ''],
  });
}

const facetNow = () => data.facets[curveState.facet];
const stageNow = () => facetNow().stages[curveState.stage];
const axisNow = () => curveState.axis ?? facetNow().axis;
const placeOf = (point) => point[axisNow() === 'sparsity' ? SPARSITY : COMPRESSION];
const placeText = (place) => (axisNow() === 'sparsity' ? percent(place) : `${short(place)}x`);
const base = () => (curveState.relative ? stageNow().dense ?? 0 : 0);
// Two seeds have an interval of ± 12.7 standard errors: their two values say more.
const dotted = (point) => curveState.seeds || point[COUNT] === 2;
const shownLines = () => Object.entries(stageNow().lines).filter(([name]) => !curveState.hidden.has(name));

function drawCurveControls() {
  const form = byId('curve-controls'), facet = facetNow();
  const change = (key) => (value) => { curveState[key] = value; curveState.at = null; drawCurves(); };
  const tasks = unique(data.facets.map(facetTask));
  const metrics = data.facets.map((each, index) => [index, each.metric, facetTask(each)]).filter((each) => each[2] === facetTask(facet));
  const stages = STAGES.filter(([key]) => facet.stages[key]);
  const toTask = (task) => {
    const same = data.facets.findIndex((each) => facetTask(each) === task && each.metric === facet.metric);
    change('facet')(same >= 0 ? same : data.facets.findIndex((each) => facetTask(each) === task));
  };
  keepFocus(form, () => form.replaceChildren(
    select('Dataset', tasks, facetTask(facet), toTask),
    select('Metric', metrics.map(([index, name]) => [index, name]), curveState.facet, (value) => change('facet')(Number(value))),
    select('Network', stages, curveState.stage, change('stage')),
    select('Across', [['compression', 'compression'], ['sparsity', 'sparsity']], axisNow(), change('axis')),
    select('Scale', [['linear', 'linear'], ['log', 'logarithmic']], curveState.scale, change('scale')),
    checkbox('relative to dense', curveState.relative, change('relative')),
    checkbox('every seed', curveState.seeds, change('seeds'))));
}

const allWords = () => (curveState.hidden.size ? 'show all' : 'hide all');

function drawLegend() {
  const chips = Object.keys(stageNow().lines).map((name) => {
    const toggle = () => {
      curveState.hidden.has(name) ? curveState.hidden.delete(name) : curveState.hidden.add(name);
      chip.setAttribute('aria-pressed', String(!curveState.hidden.has(name)));
      byId('curve-legend').querySelector('.all')?.replaceChildren(allWords());
      drawChart();
      drawCurveTable();
      keepCurves();
    };
    const highlight = (on) => () => {
      for (const group of document.querySelectorAll('#curve-chart .series'))
        group.classList.toggle('dimmed', on && group.dataset.arm !== name);
    };
    const swatch = svg('svg', { width: 26, height: 12, viewBox: '-13 -6 26 12', class: 'series', vars: colours(name), 'aria-hidden': 'true' },
      svg('path', { d: 'M-13,0H13', class: 'curve', 'stroke-dasharray': look(name).dashes || null }), marker(name, 0, 0));
    const chip = el('button', { type: 'button', class: 'chip', 'aria-pressed': String(!curveState.hidden.has(name)), onclick: toggle,
      onmouseenter: highlight(true), onmouseleave: highlight(false), onfocus: highlight(true), onblur: highlight(false) }, swatch, name);
    return chip;
  });
  const all = el('button', { type: 'button', class: 'chip all', onclick: () => {
    const names = Object.keys(stageNow().lines);
    curveState.hidden = new Set(curveState.hidden.size ? [] : names);
    drawCurves();
    byId('curve-legend').lastChild.focus();
  } }, allWords());
  byId('curve-legend').replaceChildren(...chips, ...(chips.length > 1 ? [all] : []));
}

function ticks(low, high, count) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((each) => each * power >= rough) ?? 10);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

// Places a value on a scale of 0 to 1. The logarithmic scale of sparsity is that of the fraction kept.
function warp(place) {
  if (curveState.scale === 'linear') return place;
  return axisNow() === 'sparsity' ? -Math.log10(Math.max(1 - place, 1e-9)) : Math.log10(Math.max(place, 1e-9));
}

function frame(lines) {
  const width = Math.max(280, byId('curve-chart').clientWidth || 900), height = width < 600 ? 320 : 440;
  const wide = width >= 720;
  const margin = { left: 68, right: wide ? 188 : 18, top: 18, bottom: 46 };
  const places = unique(lines.flatMap(([, points]) => points.map(placeOf))).sort((a, b) => a - b);
  const ys = lines.flatMap(([, points]) => points.flatMap((point) => [point[MEAN], ...(point[COUNT] > 2 ? [point[LOW], point[HIGH]] : []), ...(dotted(point) ? point[VALUES] : [])]));
  for (const level of [stageNow().dense, stageNow().unpruned]) ys.push(level);
  const means = lines.flatMap(([, points]) => points.map((point) => point[MEAN])).concat(stageNow().dense ?? [], stageNow().unpruned ?? []);
  const spread = Math.max(...means) - Math.min(...means) || 0.02;
  // An interval over three seeds can be wider than the metric itself: it may leave the chart, the means may not.
  const floor = Math.min(...means) - 0.2 * spread, ceiling = Math.max(...means) + 0.2 * spread;
  const kept = ys.filter((value) => value !== null && value >= floor && value <= ceiling);
  let [low, high] = [Math.min(...kept), Math.max(...kept)];
  const pad = high > low ? 0.06 * (high - low) : 0.02;
  [low, high] = [low - pad, high + pad];
  const first = warp(places[0]), span = warp(places.at(-1)) - first;
  const x = (place) => margin.left + 14 + (span ? (warp(place) - first) / span : 0.5) * (width - margin.left - margin.right - 28);
  const y = (value) => margin.top + (1 - (value - low) / (high - low)) * (height - margin.top - margin.bottom);
  // At a single level the arms stand beside each other, in the order of the legend.
  const gap = Math.min(48, (width - margin.left - margin.right - 28) / lines.length);
  const aside = (name) => (span ? 0 : gap * (lines.findIndex(([each]) => each === name) - (lines.length - 1) / 2));
  return { width, height, margin, places, low, high, x, y, aside, wide };
}

function drawChart() {
  const holder = byId('curve-chart'), lines = shownLines();
  if (!lines.length) {
    holder.replaceChildren(el('p', { class: 'note' }, 'Every arm is hidden: choose one below.'));
    return;
  }
  const f = frame(lines), right = f.width - f.margin.right, bottom = f.height - f.margin.bottom;
  const label = `${facetNow().metric} against ${axisNow()}, ${lines.length} arms. The left and right arrow keys move from point to point.`;
  const chart = svg('svg', { class: 'chart', viewBox: `0 0 ${f.width} ${f.height}`, height: f.height, tabindex: 0, role: 'group', 'aria-label': label,
    'aria-roledescription': 'chart', onpointermove: (event) => hover(event, f), onpointerleave: unhover, onblur: unhover, onkeydown: (event) => step(event, f) });
  chart.append(...drawAxes(f, right, bottom), ...drawLevels(f, right));
  const clip = svg('clipPath', { id: 'plot' }, svg('rect', { x: f.margin.left, y: f.margin.top - 6, width: right - f.margin.left, height: bottom - f.margin.top + 12 }));
  chart.append(clip, svg('line', { class: 'guide', y1: f.margin.top, y2: bottom, visibility: 'hidden' }));
  for (const [name, points] of lines) chart.append(drawLine(name, points, f));
  if (f.wide) drawNames(chart, lines, f, right);
  holder.replaceChildren(chart);
}

function drawAxes(f, right, bottom) {
  const values = ticks(f.low, f.high, 6), parts = [];
  const digits = Math.max(2, Math.ceil(-Math.log10(values[1] - values[0]) - 1e-9));
  for (const value of values) {
    const text = curveState.relative ? signed(value - base(), digits) : fixed(value, digits);
    parts.push(svg('line', { class: 'grid', x1: f.margin.left, x2: right, y1: f.y(value), y2: f.y(value) }),
      svg('text', { x: f.margin.left - 10, y: f.y(value) + 4, 'text-anchor': 'end' }, text));
  }
  let last = -Infinity;
  for (const place of f.places) {
    if (f.x(place) - last < 44) continue;
    last = f.x(place);
    parts.push(svg('line', { class: 'axis', x1: last, x2: last, y1: bottom, y2: bottom + 5 }),
      svg('text', { x: last, y: bottom + 19, 'text-anchor': 'middle' }, placeText(place)));
  }
  const metric = facetNow().metric + (curveState.relative ? ' − dense' : '');
  parts.push(svg('line', { class: 'axis', x1: f.margin.left, x2: right, y1: bottom, y2: bottom }),
    svg('text', { x: (f.margin.left + right) / 2, y: f.height - 8, 'text-anchor': 'middle' }, axisNow()),
    svg('text', { transform: `translate(14,${(f.margin.top + bottom) / 2}) rotate(-90)`, 'text-anchor': 'middle' }, metric));
  return parts;
}

function drawLevels(f, right) {
  const levels = [['dense', stageNow().dense], ['unpruned, retrained', stageNow().unpruned], ['most frequent class', facetNow().majority]];
  return levels.filter(([, value]) => value !== null && value >= f.low && value <= f.high).flatMap(([name, value]) => [
    svg('line', { class: 'level', x1: f.margin.left, x2: right, y1: f.y(value), y2: f.y(value) }),
    svg('text', { x: name === 'dense' ? f.margin.left + 6 : right - 6, y: f.y(value) - 6, 'text-anchor': name === 'dense' ? 'start' : 'end' }, `${name} ${fixed(value)}`)]);
}

function drawLine(name, points, f) {
  const sorted = [...points].sort((a, b) => placeOf(a) - placeOf(b));
  const x = (point) => f.x(placeOf(point)) + f.aside(name);
  const at = (point, part) => `${x(point).toFixed(1)},${f.y(point[part]).toFixed(1)}`;
  const group = svg('g', { class: 'series', 'data-arm': name, vars: colours(name), 'clip-path': 'url(#plot)' });
  const banded = sorted.filter((point) => point[LOW] !== null && point[COUNT] > 2);
  if (banded.length > 1) group.append(svg('path', { class: 'band', d: `M${banded.map((point) => at(point, HIGH)).join('L')}L${banded.reverse().map((point) => at(point, LOW)).join('L')}Z` }));
  if (sorted.length === 1 && banded.length) group.append(svg('path', { class: 'curve', d: `M${at(sorted[0], LOW)}L${at(sorted[0], HIGH)}` }));
  group.append(svg('path', { class: 'curve', d: `M${sorted.map((point) => at(point, MEAN)).join('L')}`, 'stroke-dasharray': look(name).dashes || null }));
  for (const point of sorted) {
    if (dotted(point)) for (const value of point[VALUES]) group.append(svg('circle', { class: 'seed', r: 3, cx: x(point), cy: f.y(value) }));
    group.append(marker(name, x(point), f.y(point[MEAN])));
  }
  return group;
}

// Writes names at the ends of the lines, moved apart where they would touch.
function drawNames(chart, lines, f, right) {
  const ends = lines.map(([name, points]) => ({ name, y: f.y(points.reduce((a, b) => (placeOf(b) > placeOf(a) ? b : a))[MEAN]) })).sort((a, b) => a.y - b.y);
  if (ends.length * 14 > f.height - 60) return;
  for (let i = 1; i < ends.length; i += 1) ends[i].y = Math.max(ends[i].y, ends[i - 1].y + 14);
  const over = ends.at(-1).y - (f.height - f.margin.bottom);
  if (over > 0) for (const [i, end] of ends.entries()) end.y = Math.min(end.y, f.height - f.margin.bottom - 14 * (ends.length - 1 - i));
  const texts = shortened(ends.map((end) => end.name), 22);
  for (const end of ends) {
    chart.append(svg('g', { class: 'series', 'data-arm': end.name, vars: colours(end.name) }, svg('text', { x: right + 8, y: end.y + 4 }, texts.get(end.name))));
  }
}

function hover(event, f) {
  const box = event.currentTarget.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * f.width;
  const place = f.places.reduce((best, each) => (Math.abs(f.x(each) - x) < Math.abs(f.x(best) - x) ? each : best));
  point(event.currentTarget, f, place, event.clientX, event.clientY);
}

function step(event, f) {
  const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
  if (!(event.key in moves)) return;
  event.preventDefault();
  const now = curveState.at === null ? (moves[event.key] > 0 ? -1 : f.places.length) : f.places.indexOf(curveState.at);
  const place = f.places[Math.max(0, Math.min(f.places.length - 1, now + moves[event.key]))];
  const box = event.currentTarget.getBoundingClientRect();
  const said = point(event.currentTarget, f, place, box.left + (f.x(place) / f.width) * box.width, box.top + box.height / 2);
  byId('curve-said').textContent = said;
}

function point(chart, f, place, clientX, clientY) {
  curveState.at = place;
  const guide = chart.querySelector('.guide');
  for (const side of ['x1', 'x2']) guide.setAttribute(side, f.x(place));
  guide.setAttribute('visibility', 'visible');
  const rows = shownLines().flatMap(([name, points]) => points.filter((each) => placeOf(each) === place).map((each) => [name, each]));
  rows.sort((a, b) => b[1][MEAN] - a[1][MEAN]);
  const value = (each) => {
    const mean = curveState.relative ? signed(each[MEAN] - base()) : fixed(each[MEAN]);
    const shown = (number) => (curveState.relative ? signed(number - base()) : fixed(number));
    if (each[LOW] === null) return `${mean} (${each[COUNT] > 1 ? each[VALUES].map(shown).join(', ') : '1 seed'})`;
    return `${mean} (${shown(each[LOW])} to ${shown(each[HIGH])}, ${each[COUNT]} seeds)`;
  };
  showTip(clientX, clientY, el('b', {}, `${axisNow()} ${placeText(place)}`), rows.map(([name, each]) =>
    el('div', { class: 'line' }, el('span', { class: 'swatch', vars: colours(name) }), el('span', {}, name), el('span', { class: 'value' }, value(each)))));
  return `${axisNow()} ${placeText(place)}: ${rows.map(([name, each]) => `${name} ${value(each)}`).join('; ')}`;
}

function unhover(event) {
  event.currentTarget.querySelector('.guide').setAttribute('visibility', 'hidden');
  hideTip();
}

function drawCurveTable() {
  const rows = shownLines().flatMap(([name, points]) => [...points].sort((a, b) => placeOf(a) - placeOf(b)).map((each) =>
    [name, placeText(placeOf(each)), each[COUNT], fixed(each[MEAN]), each[LOW] === null || each[COUNT] < 3 ? '–' : `${fixed(each[LOW])} to ${fixed(each[HIGH])}`, each[VALUES].map((value) => fixed(value)).join(' ')]));
  const head = ['arm', axisNow(), 'seeds', 'mean', '95 % interval', 'values'];
  const caption = `${facetNow().metric} on ${facetTask(facetNow())}, ${curveState.stage}`;
  byId('curve-table').replaceChildren(el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption }, el('table', {}, el('caption', {}, caption),
    el('thead', {}, el('tr', {}, head.map((name) => el('th', { scope: 'col' }, name)))),
    el('tbody', {}, rows.map((row) => el('tr', {}, row.map((cell) => el('td', {}, String(cell)))))))));
}

function drawCurves() {
  if (!facetNow().stages[curveState.stage]) [curveState.stage] = Object.keys(facetNow().stages);
  drawCurveControls();
  drawLegend();
  drawChart();
  drawCurveTable();
  const { metric, dataset, majority } = facetNow(), [, stage] = STAGES.find(([key]) => key === curveState.stage);
  const counts = Object.values(stageNow().lines).flatMap((points) => points.map((each) => each[COUNT]));
  byId('curve-caption').textContent = `${metric} on ${dataset}, ${stage}: mean over seeds. ${Math.max(...counts) > 2 ? 'The band is its 95 % t interval, cut off at the edge of the chart. ' : ''}${
    counts.includes(2) ? 'Where there are two seeds, small dots are their values: they are too few for an interval. ' : ''}${
    majority === null ? '' : `Always predicting the most frequent class: ${fixed(majority)}.`}`;
  keepCurves();
}

if (data.facets.length) {
  drawCurves();
  let width = 0;
  new ResizeObserver(([entry]) => {
    if (Math.abs(entry.contentRect.width - width) < 1) return;
    width = entry.contentRect.width;
    drawChart();
  }).observe(byId('curve-chart'));
} else {
  byId('curve-controls').replaceChildren(el('p', { class: 'quiet' }, 'No curves: no pruned trial has completed yet.'));
}
