// Draws training curves: a line per trial. A series is [trial id, stage, metric, split, [epochs done, value] ...].
const TRIAL = Object.fromEntries(data.trials.columns.map((name, index) => [name, index]));
const trialById = new Map(data.trials.rows.map((row) => [row[TRIAL.trial_id], row]));
const seriesOf = data.training.flatMap(([id, stage, metric, split, ...points]) => {
  const row = trialById.get(id);
  const task = [row[TRIAL.model], row[TRIAL.dataset]].filter(Boolean).join(' · ');
  return [{ row, stage, metric, split, points, task, measure: split === 'train' ? 'loss on train' : `${metric} on validation`, level: asked(row[TRIAL.compression], row[TRIAL.sparsity_asked]) || 'not pruned' }];
});
const trainingTasks = unique(seriesOf.map((each) => each.task));
const trainingState = { task: address.get('of'), stage: address.get('stage'), measure: address.get('curve'), level: address.get('level') };

// Draws lines of [x, y] points in a chart of its own; `colour` is the arm whose colour a line has.
function lineChart(lines, label, words, height, wide) {
  const width = Math.max(260, Math.min(wide, innerWidth - 72)), margin = { left: 52, right: 14, top: 12, bottom: 36 };
  const points = lines.flatMap((line) => line.points), xs = points.map(([x]) => x), ys = points.map(([, y]) => y);
  const range = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const [left, right] = range(xs), [bottom, top] = range(ys), pad = top > bottom ? 0.05 * (top - bottom) : 0.02;
  const x = (value) => margin.left + ((value - left) / (right - left || 1)) * (width - margin.left - margin.right);
  const y = (value) => margin.top + (1 - (value - bottom + pad) / (top - bottom + 2 * pad)) * (height - margin.top - margin.bottom);
  const chart = svg('svg', { class: 'chart', viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label });
  for (const value of ticks(bottom - pad, top + pad, 4)) chart.append(svg('line', { class: 'grid', x1: margin.left, x2: width - margin.right, y1: y(value), y2: y(value) }), svg('text', { x: margin.left - 8, y: y(value) + 4, 'text-anchor': 'end' }, short(value)));
  for (const value of ticks(left, right, 8).filter(Number.isInteger)) chart.append(svg('text', { x: x(value), y: height - margin.bottom + 16, 'text-anchor': 'middle' }, String(value)));
  chart.append(svg('text', { x: (margin.left + width - margin.right) / 2, y: height - 4, 'text-anchor': 'middle' }, words));
  for (const line of lines) chart.append(svg('g', { class: 'series', vars: colours(line.colour) },
    svg('path', { class: 'curve', d: `M${line.points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join('L')}`, 'stroke-dasharray': look(line.colour).dashes || null }, svg('title', {}, line.title)),
    ...line.points.map(([a, b]) => svg('circle', { class: 'seed', r: 2.5, cx: x(a), cy: y(b) }))));
  return chart;
}

const STAGE_WORDS = { dense: 'fine-tuning', retrained: 'retraining' };
const known = (values, value) => (values.includes(value) ? value : values[0]);

function drawTraining() {
  const form = byId('training-controls'), change = (key) => (value) => { trainingState[key] = value; drawTraining(); };
  const task = known(trainingTasks, trainingState.task), ofTask = seriesOf.filter((each) => each.task === task);
  const stages = Object.keys(STAGE_WORDS).filter((name) => ofTask.some((each) => each.stage === name)).reverse();
  const stage = known(stages, trainingState.stage), ofStage = ofTask.filter((each) => each.stage === stage);
  const measures = unique(ofStage.map((each) => each.measure)), measure = known(measures, trainingState.measure);
  const levels = stage === 'dense' ? [] : unique(ofStage.map((each) => each.level)), level = known(levels, trainingState.level);
  const found = ofStage.filter((each) => each.measure === measure && (level === undefined || each.level === level));
  keepFocus(form, () => form.replaceChildren(
    select('Dataset', trainingTasks, task, change('task')), select('During', stages.map((name) => [name, STAGE_WORDS[name]]), stage, change('stage')),
    select('Curve', measures, measure, change('measure')), ...(levels.length > 1 ? [select('Pruned to', levels, level, change('level'))] : [])));
  const arm = (each) => (stage === 'dense' ? 'Dense' : each.row[TRIAL.arm]);
  const lines = found.map((each) => ({ points: each.points, colour: arm(each), title: `${arm(each)}, seed ${each.row[TRIAL.seed]}` }));
  const chips = unique(lines.map((line) => line.colour)).map((name) => el('span', { class: 'chip' },
    svg('svg', { width: 26, height: 12, viewBox: '-13 -6 26 12', class: 'series', vars: colours(name), 'aria-hidden': 'true' }, svg('path', { d: 'M-13,0H13', class: 'curve', 'stroke-dasharray': look(name).dashes || null })), name));
  const label = `${measure} during ${STAGE_WORDS[stage]}${level ? ` at ${level}` : ''}: ${lines.length} trial${lines.length === 1 ? '' : 's'}`;
  byId('training-chart').replaceChildren(el('figure', {}, el('figcaption', {}, label), el('div', { class: 'legend' }, chips), lineChart(lines, label, `epochs of ${STAGE_WORDS[stage]}`, 300, 830)));
  keep({ of: [task, trainingTasks[0]], stage: [stage, stages[0]], curve: [measure, measures[0]], level: [level ?? '', levels[0] ?? ''] });
}

// Returns the charts of one trial: its own retraining and the fine-tuning that it began with.
function trialCharts(row) {
  const own = (each) => each.row === row || (each.stage === 'dense' && each.row[TRIAL.dense_id] === row[TRIAL.dense_id]);
  const found = seriesOf.filter(own);
  return found.map((each) => {
    const label = `${each.measure} during ${STAGE_WORDS[each.stage]}`;
    return el('figure', {}, el('figcaption', {}, label), lineChart([{ points: each.points, colour: row[TRIAL.arm], title: label }], `${label}: ${each.points.map(([epoch, value]) => `${epoch}: ${fixed(value)}`).join(', ')}`, 'epochs', 180, 420));
  });
}

if (seriesOf.length) drawTraining();
else byId('training-controls').replaceChildren(el('p', { class: 'quiet' }, 'No curves: no trial has trained for more than one epoch.'));
