// One hit in full: the image with its objects, what is known of it, and the heat map of a sentence.

import { byId, make, objectsOf, overlay, plural, rectanglesOf } from './dom.js';
import { drawHeat } from './heat.js';
import { call, imageAddress } from './server.js';

const viewer = byId('viewer');
let hits = [];
let at = 0;
let pending = null;

/** Open the viewer at one of the hits of a search for a sentence. */
export function openViewer(list, index, sentence) {
  hits = list;
  byId('heat-sentence').value = sentence;
  if (!viewer.open) viewer.showModal();
  show(index);
}

function show(index) {
  at = (index + hits.length) % hits.length;
  const hit = hits[at];
  byId('viewer-title').textContent = `${hit.rank}. ${hit.path}`;
  showTile();
  byId('facts').replaceChildren(...facts(hit).flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, value)]));
}

function showTile() {
  const hit = hits[at];
  pending?.abort();
  byId('heat-legend').hidden = byId('heat-progress').hidden = true;
  byId('heat-status').textContent = '';
  const boxes = byId('objects').checked ? rectanglesOf(hit) : [];
  const [left, top, right, bottom] = hit.window;
  const names = boxes.map(({ bbox, label }) => {
    const name = make('span', { className: 'object-name' }, label);
    name.style.left = `${(100 * (bbox[0] - left)) / (right - left)}%`;
    name.style.top = `${(100 * (bbox[1] - top)) / (bottom - top)}%`;
    return name;
  });
  stage('large', hit.window, overlay(hit.window, boxes), ...names);
}

function stage(size, [left, top, right, bottom], ...above) {
  const image = make('img', { src: imageAddress(hits[at].tile_id, size), alt: `Image ${hits[at].path}` });
  const frame = make('div', { className: 'frame' }, image, ...above);
  frame.style.aspectRatio = `${right - left} / ${bottom - top}`;
  frame.style.setProperty('--shape', (right - left) / (bottom - top));
  image.addEventListener('error', () => frame.classList.add('missing'));
  byId('stage').replaceChildren(frame);
  return frame;
}

function facts(hit) {
  const known = [['Similarity', hit.score.toFixed(4)]];
  if (hit.rerank_score !== null) known.push(['Re-ranked', hit.rerank_score.toPrecision(4)]);
  const [height, width] = hit.image_size;
  known.push(['Image', `${width} \u00d7 ${height} px`]);
  if (!hit.whole) known.push(['Part', hit.window.join(', ')]);
  if (hit.time) known.push(['Time', hit.time]);
  if (hit.platform) known.push(['Platform', hit.platform]);
  if (hit.gsd) known.push(['Resolution', `${hit.gsd} m`]);
  const objects = objectsOf(hit);
  if (objects.length) known.push(['Objects', counted(objects)]);
  return [...known, ...Object.entries(hit.metadata).map(([name, value]) => [name, String(value)])];
}

function counted(boxes) {
  const counts = new Map();
  for (const { label } of boxes) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts].map(([label, count]) => `${count} ${label}`).join(', ');
}

async function showHeat() {
  const hit = hits[at];
  const sentence = byId('heat-sentence').value.trim();
  if (!sentence) {
    byId('heat-status').textContent = 'Type what to look for.';
    return;
  }
  pending?.abort();
  const mine = new AbortController();
  pending = mine;
  byId('heat-progress').hidden = false;
  byId('heat-status').textContent = 'Comparing the parts of the image\u2026';
  try {
    const found = await (await call('/api/heat', { tile_id: hit.tile_id, sentence }, mine.signal)).json();
    const { canvas, low, high } = drawHeat(found);
    const [height, width] = found.size;
    const whole = [0, 0, width, height];
    canvas.style.opacity = byId('heat-strength').value / 100;
    stage('whole', whole, canvas, hit.whole ? '' : overlay(whole, [{ bbox: hit.window, kind: 'part' }]));
    byId('heat-low').textContent = low.toFixed(3);
    byId('heat-high').textContent = high.toFixed(3);
    byId('heat-legend').hidden = false;
    byId('heat-status').textContent = high - low < 1e-6
      ? 'The image is too small to be cut; there is one value.'
      : `Similarity of \u201c${sentence}\u201d in ${plural(found.windows, 'window')}.`;
  } catch (error) {
    if (error.name !== 'AbortError') byId('heat-status').textContent = `Not possible: ${error.message}.`;
  } finally {
    if (pending === mine) byId('heat-progress').hidden = true;
  }
}

byId('heat').addEventListener('submit', (event) => {
  event.preventDefault();
  showHeat();
});
byId('heat-off').addEventListener('click', showTile);
byId('heat-strength').addEventListener('input', (event) => {
  const canvas = byId('stage').querySelector('canvas');
  if (canvas) canvas.style.opacity = event.target.value / 100;
});
byId('previous').addEventListener('click', () => show(at - 1));
byId('next').addEventListener('click', () => show(at + 1));
byId('close').addEventListener('click', () => viewer.close());
viewer.addEventListener('close', () => pending?.abort());
viewer.addEventListener('click', (event) => { if (event.target === viewer) viewer.close(); });
viewer.addEventListener('keydown', (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step && event.target.tagName !== 'INPUT') show(at + step);
});
