// Makes elements one by one, with text as text: neither this file nor the ones after it parse HTML.
const data = JSON.parse(document.getElementById('data').textContent);
const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'vars') for (const [key, colour] of Object.entries(value)) node.style.setProperty(key, colour);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS('http://www.w3.org/2000/svg', name), attributes, children);

const signed = (value, digits = 3) => (value < 0 ? '−' : '+') + Math.abs(value).toFixed(digits);
const fixed = (value, digits = 3) =>
  value === null || value === undefined ? '–' : (value < 0 ? '−' : '') + Math.abs(value).toFixed(digits);
const short = (value) => String(Number(value.toPrecision(4)));
const percent = (value) => `${short(100 * value)} %`;
const asked = (compression, sparsity) =>
  compression !== null ? `${short(compression)}x` : sparsity !== null ? percent(sparsity) : '';
const unique = (values) => [...new Set(values)];

// The view is kept in the address, as #section?key=value&..., so that a link opens it again; what is as usual is left out.
const address = new URLSearchParams(location.hash.split('?')[1] ?? '');
const place = { section: location.hash.slice(1).split('?')[0] };
const recall = (key, known, usual) => (address.has(key) && known(address.get(key)) ? address.get(key) : usual);
const recallList = (key) => {
  try { return JSON.parse(address.get(key) ?? '[]').map(String); } catch { return []; }
};
function keep(values) {
  for (const [key, [value, usual]] of Object.entries(values)) value === usual ? address.delete(key) : address.set(key, String(value));
  writeAddress();
}
function writeAddress() {
  const words = address.toString(), hash = `#${place.section}${words && `?${words}`}`;
  if (hash !== (location.hash || '#')) history.replaceState(null, '', hash);
}
addEventListener('hashchange', () => {
  if (location.hash.includes('?')) { location.reload(); return; }
  place.section = location.hash.slice(1);
  writeAddress();
});
addEventListener('load', () => { if (place.section && address.size) byId(place.section)?.scrollIntoView({ behavior: 'instant' }); });

function select(label, options, chosen, onchange) {
  const entries = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  const menu = el('select', { onchange: () => onchange(menu.value) },
    entries.map(([value, text]) => el('option', { value, selected: String(value) === String(chosen) }, text)));
  return el('label', {}, label, menu);
}

function checkbox(label, checked, onchange) {
  const box = el('input', { type: 'checkbox', checked, onchange: () => onchange(box.checked) });
  return el('label', { class: 'check' }, box, label);
}

// Redraws a form's controls and keeps the keyboard focus where it was.
function keepFocus(form, draw) {
  const index = [...form.querySelectorAll('select,input')].indexOf(document.activeElement);
  draw();
  if (index >= 0) form.querySelectorAll('select,input')[index]?.focus();
}

function showTip(x, y, ...content) {
  const tip = byId('tip');
  tip.replaceChildren(...content.flat());
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 16 + width > innerWidth ? Math.max(4, x - width - 16) : x + 16;
  tip.style.left = `${left}px`;
  tip.style.top = `${Math.max(4, Math.min(y - height / 2, innerHeight - height - 4))}px`;
}
const hideTip = () => { byId('tip').hidden = true; };
addEventListener('keydown', (event) => { if (event.key === 'Escape') hideTip(); });
// Opens every comparison for printing; other folded parts stay folded.
const folded = () => document.querySelectorAll('#verdicts details');
addEventListener('beforeprint', () => { for (const each of folded()) { each.dataset.was = each.open; each.open = true; } });
addEventListener('afterprint', () => { for (const each of folded()) each.open = each.dataset.was === 'true'; });
for (const form of document.querySelectorAll('form')) form.addEventListener('submit', (event) => event.preventDefault());

const SHAPES = {
  o: 'M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0', s: 'M-3.6,-3.6H3.6V3.6H-3.6Z', '^': 'M0,-4.6L4.4,3.4H-4.4Z',
  v: 'M0,4.6L4.4,-3.4H-4.4Z', '<': 'M-4.6,0L3.4,4.4V-4.4Z', '>': 'M4.6,0L-3.4,4.4V-4.4Z',
  D: 'M0,-5L5,0L0,5L-5,0Z', d: 'M0,-5.4L3.2,0L0,5.4L-3.2,0Z', P: 'M-1.6,-4.6H1.6V-1.6H4.6V1.6H1.6V4.6H-1.6V1.6H-4.6V-1.6H-1.6Z',
  X: 'M-4.4,-2.2L-2.2,-4.4L0,-2.2L2.2,-4.4L4.4,-2.2L2.2,0L4.4,2.2L2.2,4.4L0,2.2L-2.2,4.4L-4.4,2.2L-2.2,0Z',
  h: 'M0,-4.8L4.2,-2.4V2.4L0,4.8L-4.2,2.4V-2.4Z', p: 'M0,-4.8L4.6,-1.5L2.8,3.9H-2.8L-4.6,-1.5Z',
};
// Cuts long names in their middle, so that no two of them end up alike: where their ends are, earlier or around what differs.
const cut = (text, most, head) => (text.length > most ? `${text.slice(0, head)}…${text.slice(head + 1 - most)}` : text);
function shortened(names, most) {
  const differ = (texts) => unique(texts).length === unique(names).length;
  const heads = [0.4, 0.2, 0.6, 0, 0.8].map((share) => Math.ceil(most * share));
  const head = heads.find((each) => differ(names.map((name) => cut(name, most, each))));
  if (head !== undefined) return new Map(names.map((name) => [name, cut(name, most, head)]));
  const first = [...names[0]].findIndex((_, at) => names.some((name) => name[at] !== names[0][at])) - 3;
  const around = names.map((name) => (first > 6 ? `${name.slice(0, 5)}…${name.slice(first, first + most - 7)}…` : name));
  return new Map(names.map((name, at) => [name, differ(around) ? around[at] : name]));
}
const look = (arm) => data.looks[arm] ?? { light: '#666666', dark: '#aaaaaa', lightText: '#555555', darkText: '#bbbbbb', marker: 'o', dashes: '', hollow: false };
const colours = (arm) => {
  const { light, dark, lightText, darkText } = look(arm);
  return { '--light': light, '--dark': dark, '--light-text': lightText, '--dark-text': darkText };
};
const marker = (arm, x, y) =>
  svg('path', { d: SHAPES[look(arm).marker] ?? SHAPES.o, class: look(arm).hollow ? 'mark hollow' : 'mark', transform: `translate(${x},${y})` });
const unpacked = (shown) => (shown.size ? JSON.stringify([...shown]) : '');
