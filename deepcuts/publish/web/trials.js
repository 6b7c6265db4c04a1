// Makes the table of trials: search it, sort it by any column, open a row.
// What the eye looks for comes first: a narrow window shows the first three.
const SHOWN = [
  ['arm', 'arm'], ['pruned to', 'compression'], ['retrained', 'retrained'], ['seed', 'seed'], ['dataset', 'dataset'], ['status', 'status'],
  ['dense', 'dense'], ['pruned', 'pruned'], ['rewound', 'rewound'], ['sparsity', 'sparsity'], ['seconds', 'total_seconds'], ['trial', 'trial_id'],
];
const NUMBERS = new Set(['compression', 'seed', 'dense', 'pruned', 'rewound', 'retrained', 'sparsity', 'total_seconds']);
const PAGE = 100;
const tableState = {
  sort: recall('sort', (name) => SHOWN.some(([, column]) => column === name), null), down: address.has('down'),
  words: address.get('search') ?? '', most: PAGE, open: new Set(recallList('open')),
};
const cellOf = (row, name) => row[TRIAL[name]];
const askedOf = (row) => asked(cellOf(row, 'compression'), cellOf(row, 'sparsity_asked')) || '–';
const haystack = data.trials.rows.map((row) => [...row.filter((value) => typeof value === 'string'), askedOf(row), `seed ${cellOf(row, 'seed')}`].join(' ').toLowerCase());

function trialText(row, name) {
  const value = cellOf(row, name);
  if (name === 'compression') return askedOf(row);
  if (name === 'sparsity') return value === null ? '–' : `${(100 * value).toFixed(1)} %`;
  if (name === 'total_seconds') return value === null ? '–' : value.toFixed(1);
  if (['dense', 'pruned', 'rewound', 'retrained'].includes(name)) return fixed(value);
  return value === null ? '–' : String(value);
}

function foundTrials() {
  const words = tableState.words.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = data.trials.rows.filter((row, index) => words.every((word) => haystack[index].includes(word)));
  if (tableState.sort === null) return rows;
  const key = (row) => cellOf(row, tableState.sort) ?? (tableState.sort === 'compression' ? cellOf(row, 'sparsity_asked') : null);
  const compare = (a, b) => {
    const [one, other] = [key(a), key(b)];
    if (one === null || other === null) return (one === null) - (other === null);
    const order = typeof one === 'string' ? one.localeCompare(other, 'en', { numeric: true }) : one - other;
    return tableState.down ? -order : order;
  };
  return [...rows].sort(compare);
}

function headCell([title, name]) {
  const sorted = tableState.sort === name;
  const sort = () => {
    Object.assign(tableState, sorted ? { down: !tableState.down } : { sort: name, down: false });
    drawTrials();
    document.querySelector(`#trial-table [data-column="${name}"]`).focus();
  };
  return el('th', { scope: 'col', class: NUMBERS.has(name) ? 'number' : null, 'aria-sort': sorted ? (tableState.down ? 'descending' : 'ascending') : 'none' },
    el('button', { type: 'button', 'data-column': name, onclick: sort }, title));
}

function bodyRows(row) {
  const id = cellOf(row, 'trial_id'), open = tableState.open.has(id);
  const toggle = (event) => {
    open ? tableState.open.delete(id) : tableState.open.add(id);
    drawTrials();
    [...document.querySelectorAll('#trial-table .id')].find((button) => button.dataset.trial === id)?.focus();
    event.preventDefault();
  };
  const content = (name) => {
    if (name === 'arm') return el('button', { type: 'button', class: 'id', 'data-trial': id, 'aria-expanded': String(open), onclick: toggle }, trialText(row, name));
    if (name === 'status') return el('span', { class: cellOf(row, 'status') === 'failed' ? 'state failed' : 'state' }, trialText(row, name));
    return trialText(row, name);
  };
  const cells = SHOWN.map(([, name]) => el('td', { class: NUMBERS.has(name) ? 'number' : null }, content(name)));
  return open ? [el('tr', {}, cells), moreRow(row, id)] : [el('tr', {}, cells)];
}

// Returns the settings of a trial as [name, value], those that differ between trials first.
function settingsOf(id) {
  const { same, differ, values, trials } = data.settings;
  const own = (trials[id] ?? []).flatMap((at, index) => (at < 0 ? [] : [[differ[index], values[index][at], values[index].length > 1]]));
  return [...own.filter(([, , several]) => several), ...own.filter(([, , several]) => !several), ...Object.entries(same)];
}

function moreRow(row, id) {
  const list = (pairs) => el('dl', {}, pairs.map(([name, value, strong]) => el('div', {}, el('dt', {}, strong ? el('strong', {}, name) : name), el('dd', {}, value))));
  const facts = data.trials.columns.filter((name) => cellOf(row, name) !== null).map((name) => [name.replaceAll('_', ' '), String(cellOf(row, name))]);
  const settings = settingsOf(id), charts = trialCharts(row);
  return el('tr', { class: 'more' }, el('td', { colspan: SHOWN.length }, el('div', { class: 'inside' },
    ...(charts.length ? [el('h4', {}, 'Training'), el('div', { class: 'small-charts' }, charts)] : []),
    ...(settings.length ? [el('h4', {}, 'Settings', el('small', {}, settings.some(([, , strong]) => strong) ? ' (bold: those that differ between trials)' : '')), list(settings)] : []),
    el('h4', {}, 'Results'), list(facts), el('pre', {}, `deepcuts show ${data.shell} ${id}`))));
}

function drawTrials() {
  const found = foundTrials(), shown = found.slice(0, tableState.most);
  const caption = 'Trials. The button of a column sorts by it; the arm of a trial opens its training, settings and results';
  byId('trial-count').textContent = `${found.length.toLocaleString('en')} of ${data.trials.rows.length.toLocaleString('en')} trials${shown.length < found.length ? `, the first ${shown.length} shown` : ''}`;
  const table = el('table', {}, el('caption', {}, caption), el('thead', {}, el('tr', {}, SHOWN.map(headCell))), el('tbody', {}, shown.flatMap(bodyRows)));
  const all = el('button', { type: 'button', class: 'button', onclick: () => { tableState.most = Infinity; drawTrials(); } }, `Show all ${found.length.toLocaleString('en')}`);
  byId('trial-table').replaceChildren(el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption }, table), ...(shown.length < found.length ? [all] : []));
  keep({ sort: [tableState.sort ?? '', ''], down: [tableState.down, false], search: [tableState.words, ''], open: [unpacked(tableState.open), ''] });
}

const search = el('input', { type: 'search', value: tableState.words, placeholder: 'failed, cola, LayerSNIP, seed 1 …', oninput: () => { Object.assign(tableState, { words: search.value, most: PAGE }); drawTrials(); } });
byId('trial-controls').append(el('label', {}, 'Search: a trial must contain every word', search));
drawTrials();
