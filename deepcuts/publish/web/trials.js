// Makes the table of trials: search it, sort it by any column, open a row.
const COLUMN = Object.fromEntries(data.trials.columns.map((name, index) => [name, index]));
const SHOWN = [
  ['trial', 'trial_id'], ['status', 'status'], ['dataset', 'dataset'], ['strategy', 'arm'], ['pruned to', 'compression'], ['seed', 'seed'],
  ['dense', 'dense'], ['pruned', 'pruned'], ['rewound', 'rewound'], ['retrained', 'retrained'], ['sparsity', 'sparsity'], ['seconds', 'total_seconds'],
];
const NUMBERS = new Set(['compression', 'seed', 'dense', 'pruned', 'rewound', 'retrained', 'sparsity', 'total_seconds']);
const PAGE = 100;
const tableState = { sort: null, down: false, words: '', most: PAGE, open: new Set() };
const cellOf = (row, name) => row[COLUMN[name]];
const askedOf = (row) => asked(cellOf(row, 'compression'), cellOf(row, 'sparsity_asked'));
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
    [...document.querySelectorAll('#trial-table .id')].find((button) => button.textContent === id)?.focus();
    event.preventDefault();
  };
  const content = (name) => {
    if (name === 'trial_id') return el('button', { type: 'button', class: 'id', 'aria-expanded': String(open), onclick: toggle }, id);
    if (name === 'status') return el('span', { class: cellOf(row, 'status') === 'failed' ? 'state failed' : 'state' }, trialText(row, name));
    return trialText(row, name);
  };
  const cells = SHOWN.map(([, name]) => el('td', { class: NUMBERS.has(name) ? 'number' : null }, content(name)));
  return open ? [el('tr', {}, cells), moreRow(row, id)] : [el('tr', {}, cells)];
}

function moreRow(row, id) {
  const facts = data.trials.columns.filter((name) => cellOf(row, name) !== null).map((name) =>
    el('div', {}, el('dt', {}, name.replaceAll('_', ' ')), el('dd', {}, String(cellOf(row, name)))));
  return el('tr', { class: 'more' }, el('td', { colspan: SHOWN.length }, el('dl', {}, facts), el('pre', {}, `deepcuts show ${data.shell} ${id}`)));
}

function drawTrials() {
  const found = foundTrials(), shown = found.slice(0, tableState.most);
  const caption = 'Trials. The button of a column sorts by it; the id of a trial shows its details';
  byId('trial-count').textContent = `${found.length.toLocaleString('en')} of ${data.trials.rows.length.toLocaleString('en')} trials${shown.length < found.length ? `, the first ${shown.length} shown` : ''}`;
  const table = el('table', {}, el('caption', {}, caption), el('thead', {}, el('tr', {}, SHOWN.map(headCell))), el('tbody', {}, shown.flatMap(bodyRows)));
  const all = el('button', { type: 'button', class: 'button', onclick: () => { tableState.most = Infinity; drawTrials(); } }, `Show all ${found.length.toLocaleString('en')}`);
  byId('trial-table').replaceChildren(el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption }, table), ...(shown.length < found.length ? [all] : []));
}

const search = el('input', { type: 'search', placeholder: 'failed, cola, LayerSNIP, seed 1 …', oninput: () => { Object.assign(tableState, { words: search.value, most: PAGE }); drawTrials(); } });
byId('trial-controls').append(el('label', {}, 'Search: a trial must contain every word', search));
drawTrials();
