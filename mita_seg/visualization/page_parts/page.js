'use strict';

const images = JSON.parse(document.getElementById('data').textContent);
const find = (id) => document.getElementById(id);
const controls = Object.fromEntries(
  ['image', 'layer', 'head', 'map', 'token', 'strength'].map((id) => [id, find(id)])
);
const canvas = find('canvas');
const context = canvas.getContext('2d');
const VIRIDIS = ['#440154', '#472d7b', '#3b528b', '#2c728e', '#21918c', '#28ae80', '#5ec962',
  '#addc30', '#fde725'];
const INFERNO = ['#000004', '#1b0c41', '#4a0c6b', '#781c6d', '#a52c60', '#cf4446', '#ed6925',
  '#fb9b06', '#f7d13d', '#fcffa4'];
const RAMPS = { share: VIRIDIS, recall: VIRIDIS, use: INFERNO, looks: INFERNO };
const percent = (part) => `${Math.round(100 * part)} %`;

let picture = new Image();
let patch = 0; // the patch that is looked at
let held = false;

// ---- data -------------------------------------------------------------------------------------

const unpacked = new Map();
function unpack(text, kind) {
  if (!unpacked.has(text)) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const size = kind.BYTES_PER_ELEMENT;
    const read = { 1: 'getUint8', 2: 'getUint16', 4: 'getUint32' }[size];
    unpacked.set(
      text, Array.from({ length: bytes.length / size }, (_, i) => view[read](i * size, true))
    );
  }
  return unpacked.get(text);
}

function current() {
  const image = images[controls.image.value];
  const layer = image.layers[controls.layer.value];
  const head = layer.heads[controls.head.value];
  const [height, width] = layer.grid;
  const routes = unpack(head.routes, Uint16Array);
  const keys = unpack(head.keys, Uint32Array);
  const patches = height * width;
  return {
    image, layer, head, height, width, patches,
    expertsOf: (n) => Array.from({ length: layer.routed }, (_, i) => routes[i * patches + n]),
    goesTo: (n, expert) => {
      for (let i = 0; i < layer.routed; i++) if (routes[i * patches + n] === expert) return true;
      return false;
    },
    keysOf: (expert) => keys.slice(expert * layer.topk, (expert + 1) * layer.topk),
    values: (name) => name === 'use' ? unpack(head.use, Uint16Array)
      : name === 'looks'
        ? unpack(head.looks, Uint8Array).slice(controls.token.value * patches).slice(0, patches)
        : unpack(head[name], Uint8Array),
  };
}

// ---- drawing ----------------------------------------------------------------------------------

function ramp(colours, part) {
  const place = Math.min(1, Math.max(0, part)) * (colours.length - 1);
  const low = Math.min(Math.floor(place), colours.length - 2);
  const number = (colour, i) => parseInt(colour.slice(1 + 2 * i, 3 + 2 * i), 16);
  const mixed = [0, 1, 2].map((i) => Math.round(
    number(colours[low], i) + (place - low) * (number(colours[low + 1], i) - number(colours[low], i))
  ));
  return `rgb(${mixed})`;
}

function draw() {
  const shown = current();
  const { height, width, layer } = shown;
  const ratio = window.devicePixelRatio || 1;
  const beside = window.matchMedia('(min-width: 52rem)').matches; // as in the styles
  const room = find('view').clientWidth - (beside ? 20 * 16 : 0);
  const across = Math.min(room, Math.max(320, 0.8 * window.innerHeight * width / height));
  canvas.style.width = `${across}px`;
  canvas.style.height = `${across * height / width}px`;
  canvas.width = Math.round(across * ratio);
  canvas.height = Math.round(across * ratio * height / width);
  const sideX = canvas.width / width;
  const sideY = canvas.height / height;
  const box = (n, margin = 0) => {
    const [left, top] = [(n % width) * sideX, Math.floor(n / width) * sideY];
    return [left + margin, top + margin, sideX - 2 * margin, sideY - 2 * margin];
  };
  const kind = controls.map.value;
  const strength = controls.strength.value / 100;

  context.globalAlpha = 1;
  context.filter = 'grayscale(1)';
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.filter = 'none';
  const mine = shown.expertsOf(patch);
  const values = kind === 'experts' ? null : shown.values(kind);
  const limit = kind === 'use' ? Math.max(1, ...new Set(values)) : 255;
  for (let n = 0; n < shown.patches; n++) {
    const fellow = mine.some((expert) => shown.goesTo(n, expert));
    context.globalAlpha = kind === 'experts' && !fellow ? 0.4 * strength : strength;
    context.fillStyle = kind === 'experts'
      ? layer.colours[shown.expertsOf(n)[0]]
      : ramp(RAMPS[kind], values[n] / limit);
    const [left, top] = box(n).map(Math.floor);
    const [right, bottom] = [box(n)[0] + sideX, box(n)[1] + sideY].map(Math.floor);
    context.fillRect(left, top, right - left, bottom - top);
  }
  context.globalAlpha = 1;

  // A special token looks elsewhere than the patch does.
  const marked = kind === 'looks' ? [] : mine;
  for (const expert of layer.topk ? marked : []) {
    for (const token of shown.keysOf(expert)) {
      const n = token - layer.start;
      if (n < 0 || n >= shown.patches) continue;
      const margin = 0.24 * Math.min(sideX, sideY);
      context.fillStyle = '#fff';
      context.strokeStyle = '#000';
      context.lineWidth = 1.5 * ratio;
      context.fillRect(...box(n, margin));
      context.strokeRect(...box(n, margin));
    }
  }
  for (const expert of marked) {
    const [top, left, bottom, right] = layer.windows[expert];
    const window_ = [left * sideX, top * sideY, (right - left) * sideX, (bottom - top) * sideY];
    outline(window_, 2 * ratio, [5 * ratio, 4 * ratio]);
  }
  outline(box(patch), 3 * ratio, []);
  drawScale(kind, limit);
  find('marks').hidden = !marked.length;
  describe(shown, mine);
}

// A dark line on a light one shows on any picture.
function outline(rectangle, width, dashes) {
  context.setLineDash([]);
  context.lineWidth = 2 * width;
  context.strokeStyle = '#fff';
  context.strokeRect(...rectangle);
  context.setLineDash(dashes);
  context.lineWidth = width;
  context.strokeStyle = '#000';
  context.strokeRect(...rectangle);
  context.setLineDash([]);
}

function element(name, text = '', className = '') {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

function drawScale(kind, limit) {
  const scale = find('scale');
  const { layer } = current();
  if (kind === 'experts') {
    const places = element('span', '', 'places');
    places.style.gridTemplateColumns = `repeat(${layer.landmarks[1]}, auto)`;
    for (const colour of layer.colours) {
      const cell = element('span');
      cell.style.background = colour;
      places.append(cell);
    }
    scale.replaceChildren(places, element('span', 'colour: the place of the landmark'));
    return;
  }
  const bar = element('span', '', 'bar');
  bar.style.background = `linear-gradient(to right, ${RAMPS[kind].join(',')})`;
  const ends = { share: ['0 %', '100 %'], recall: ['0 %', '100 %'], use: ['0', `${limit} experts`],
    looks: ['0', 'most'] }[kind];
  scale.replaceChildren(element('span', ends[0]), bar, element('span', ends[1]));
}

function describe(shown, mine) {
  const { layer, width, head } = shown;
  const rows = [];
  const place = (n) => `row ${Math.floor(n / width) + 1}, column ${(n % width) + 1}`;
  for (const expert of mine) {
    const where = `row ${Math.floor(expert / layer.landmarks[1]) + 1}, ` +
      `column ${(expert % layer.landmarks[1]) + 1}`;
    let fellows = 0;
    for (let n = 0; n < shown.patches; n++) fellows += shown.goesTo(n, expert);
    rows.push([layer.topk ? 'Expert' : 'Closest landmark',
      `${expert + 1} of ${layer.colours.length}, landmark in ${where}`,
      layer.colours[expert]]);
    rows.push(['Patches', `${fellows} of ${shown.patches} go to it`]);
    const others = shown.keysOf(expert).filter((token) => token in layer.special);
    rows.push(['Keys', layer.topk
      ? `${layer.topk}` + (others.length
        ? `, with ${others.map((token) => layer.special[token]).join(', ')}` : '')
      : 'no routed experts here']);
  }
  rows.push(['Shared expert', `${percent(shown.values('share')[patch] / 255)} of its softmax`]);
  rows.push(['Recall', `${percent(shown.values('recall')[patch] / 255)} of full attention's mass`]);
  const use = shown.values('use')[patch];
  rows.push(['As a key', use ? `in ${use} expert${use > 1 ? 's' : ''}` : 'in no expert']);
  const list = element('dl');
  for (const [term, text, colour] of rows) {
    const value = element('dd', text);
    if (colour) {
      const swatch = element('span', '', 'swatch');
      swatch.style.background = colour;
      value.prepend(swatch);
    }
    list.append(element('dt', term), value);
  }
  find('reading').replaceChildren(
    element('h2', `Patch at ${place(patch)}${held ? ' (held)' : ''}`), list
  );
  find('summary').textContent = `This head on average: shared expert ` +
    `${percent(head.meanShare)}, recall ${percent(head.meanRecall)}, ` +
    `${percent(head.unused)} of the tokens in no expert.`;
}

// ---- choices ----------------------------------------------------------------------------------

function fill(select, names) {
  const before = select.selectedOptions[0]?.textContent;
  select.replaceChildren(...names.map((name, i) => {
    const option = element('option', name);
    option.value = i;
    return option;
  }));
  select.value = Math.max(0, names.indexOf(before));
}

function choose() {
  const image = images[controls.image.value];
  fill(controls.layer, image.layers.map((layer) => layer.name));
  const layer = image.layers[controls.layer.value];
  fill(controls.head, layer.heads.map((head) => `${head.head}`));
  fill(controls.token, layer.looks);
  const looks = controls.map.querySelector('[value=looks]');
  looks.disabled = !layer.looks.length;
  if (looks.disabled && controls.map.value === 'looks') controls.map.value = 'experts';
  find('token-choice').hidden = controls.map.value !== 'looks';
  patch = Math.min(patch, layer.grid[0] * layer.grid[1] - 1);
  draw();
}

function chooseImage() {
  const image = images[controls.image.value];
  const [height, width] = image.layers[0].grid;
  patch = Math.floor(height / 2) * width + Math.floor(width / 2);
  held = false;
  picture = new Image();
  picture.addEventListener('load', choose);
  picture.src = image.image;
  find('figures').replaceChildren(...image.figures.map((each) => {
    const figure = element('figure');
    const shown = element('img');
    shown.src = each.image;
    shown.alt = each.caption;
    figure.append(element('figcaption', each.caption), shown);
    return figure;
  }));
}

// ---- pointer and keys -------------------------------------------------------------------------

function patchAt(event) {
  const { height, width } = current();
  const box = canvas.getBoundingClientRect();
  const column = Math.floor(width * (event.clientX - box.left) / box.width);
  const row = Math.floor(height * (event.clientY - box.top) / box.height);
  const inside = column >= 0 && column < width && row >= 0 && row < height;
  return inside ? row * width + column : patch;
}

canvas.addEventListener('pointermove', (event) => {
  const under = patchAt(event);
  if (held || under === patch || event.pointerType === 'touch') return;
  patch = under;
  draw();
});

canvas.addEventListener('click', (event) => {
  const under = patchAt(event);
  held = !(held && under === patch);
  patch = under;
  draw();
});

canvas.addEventListener('keydown', (event) => {
  const { height, width } = current();
  let [row, column] = [Math.floor(patch / width), patch % width];
  const moves = {
    ArrowLeft: () => { column--; },
    ArrowRight: () => { column++; },
    ArrowUp: () => { row--; },
    ArrowDown: () => { row++; },
    Home: () => { column = 0; },
    End: () => { column = width - 1; },
    Enter: () => { held = !held; },
    ' ': () => { held = !held; },
    Escape: () => { held = false; },
  };
  if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  moves[event.key]();
  row = Math.min(height - 1, Math.max(0, row));
  column = Math.min(width - 1, Math.max(0, column));
  patch = row * width + column;
  draw();
});

find('choices').addEventListener('submit', (event) => event.preventDefault());
controls.image.addEventListener('change', chooseImage);
for (const name of ['layer', 'head', 'map', 'token']) controls[name].addEventListener('change', choose);
controls.strength.addEventListener('input', draw);
window.addEventListener('resize', draw);

fill(controls.image, images.map((image) => image.name));
chooseImage();
