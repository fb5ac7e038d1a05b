// The page: a query, its hits as a grid and on the map, and files of them.

import { byId, make, overlay, plural, rectanglesOf } from './dom.js';
import { countFilters, offerFilters, readFilters, setPlace } from './filters.js';
import { highlight, showOnMap, view } from './map.js';
import { call, imageAddress, onLocked, openSession } from './server.js';
import { openViewer } from './viewer.js';

let info = null;
let image = null; // name and content of the one to search for
let answered = null; // the query of the hits that are shown
let hits = [];
let pending = null;

// what is asked

function query() {
  const asked = image ? { image: image.content } : { sentence: byId('sentence').value.trim() };
  if (!image && !asked.sentence) throw new Error('type a sentence first, or choose an image');
  if (!image && asked.sentence.length > info.limits.sentence) {
    throw new Error(`the sentence has ${asked.sentence.length} characters, at most ${info.limits.sentence} are accepted`);
  }
  asked.topk = Number(byId('topk').value);
  asked.where = readFilters();
  if (byId('rerank').value && !byId('order').hidden) asked.rerank = byId('rerank').value;
  return asked;
}

async function search() {
  pending?.abort();
  const mine = new AbortController();
  pending = mine;
  problem(null);
  try {
    await ready; // a quick hand asks before the server has said what it holds
    const asked = query();
    working(`Searching ${plural(info.images, 'image')}\u2026`);
    const found = await (await call('/api/search', asked, mine.signal)).json();
    answered = asked;
    show(found);
  } catch (error) {
    if (error.name !== 'AbortError') problem(error);
  } finally {
    if (pending === mine) working(null);
  }
}

function working(words) {
  byId('progress').hidden = words === null;
  byId('results').setAttribute('aria-busy', String(words !== null));
  if (words !== null) byId('status').textContent = words;
}

function problem(error) {
  byId('problem').hidden = error === null;
  byId('problem').textContent = error === null ? '' : `${error.message[0].toUpperCase()}${error.message.slice(1)}.`;
  if (error !== null) byId('status').textContent = '';
}

// what is shown

function show(found) {
  hits = found.hits.map((hit, index) => ({ ...hit, rank: index + 1 }));
  const words = image ? image.name : `\u201c${answered.sentence}\u201d`;
  byId('status').textContent = `${plural(hits.length, 'hit')} in ${found.milliseconds} ms`;
  byId('results').hidden = hits.length === 0;
  byId('empty').hidden = hits.length !== 0;
  byId('title').textContent = `Hits for ${words}`;
  if (hits.length === 0) {
    byId('empty-title').textContent = `Nothing was found for ${words}`;
    byId('empty-text').textContent = whyNothing(found.passing);
    return;
  }
  byId('hits').replaceChildren(...hits.map(card));
  showOnMap(hits, (tileId) => open(hits.findIndex((hit) => hit.tile_id === tileId)));
}

function whyNothing(passing) {
  if (info.tiles === 0) return 'The archive holds no image.';
  if (passing === 0) return 'No image passes the filters. Take one of them away, or widen it.';
  return `Of ${passing.toLocaleString('en')} images or parts that pass the filters, none is as similar as was asked for.`;
}

function card(hit) {
  const picture = make('img', { src: imageAddress(hit.tile_id, 'small'), alt: '', loading: 'lazy', decoding: 'async' });
  const frame = make('span', { className: 'frame' }, picture, overlay(hit.window, rectanglesOf(hit)));
  frame.style.aspectRatio = `${hit.window[2] - hit.window[0]} / ${hit.window[3] - hit.window[1]}`;
  picture.addEventListener('error', () => frame.classList.add('missing'));
  const bar = make('span', { className: 'bar-of-score' }, make('span'));
  bar.firstChild.style.width = `${100 * Math.max(0, Math.min(1, hit.score))}%`;
  const place = hit.whole ? [] : [`part ${hit.window.join(', ')}`];
  const details = [...place, hit.time?.slice(0, 10), hit.platform].filter(Boolean).join(' \u00b7 ');
  const button = make('button', { type: 'button', className: 'card' },
    frame,
    make('span', { className: 'line' }, make('span', { className: 'rank' }, String(hit.rank)),
      bar, make('span', { className: 'score' }, hit.score.toFixed(3))),
    make('span', { className: 'name', title: hit.path }, hit.path),
    make('span', { className: 'details' }, details));
  button.setAttribute('aria-label', `Hit ${hit.rank}: ${hit.path}, similarity ${hit.score.toFixed(3)}. ${details}`);
  button.addEventListener('click', () => open(hit.rank - 1));
  for (const [kind, on] of [['mouseenter', true], ['focus', true], ['mouseleave', false], ['blur', false]]) {
    button.addEventListener(kind, () => highlight(hit.tile_id, on));
  }
  return make('li', {}, button);
}

function open(index) {
  openViewer(hits, index, answered.sentence ?? '');
}

async function download(kind) {
  problem(null);
  try {
    working('Writing the file\u2026');
    const content = await (await call(`/api/export/${kind}`, answered)).blob();
    const address = URL.createObjectURL(content);
    make('a', { href: address, download: `hits.${kind}` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
    byId('status').textContent = `${plural(hits.length, 'hit')} written to hits.${kind}`;
  } catch (error) {
    problem(error);
  } finally {
    working(null);
  }
}

// an image as the query

async function setImage(file) {
  problem(null);
  await ready;
  if (file.size > info.limits.upload) {
    problem(new Error(`${file.name} has ${file.size} bytes, at most ${info.limits.upload} are accepted`));
    return;
  }
  const address = await new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  }).catch(() => null);
  if (address === null) {
    problem(new Error(`${file.name} cannot be read`));
    return;
  }
  image = { name: file.name, content: address.slice(address.indexOf(',') + 1) };
  byId('sentence').value = '';
  byId('image-name').textContent = file.name;
  URL.revokeObjectURL(byId('preview').src);
  byId('preview').src = URL.createObjectURL(file);
  byId('chip').hidden = false;
  offerOrders();
  await search();
}

function removeImage() {
  image = null;
  byId('chip').hidden = true;
  byId('file').value = '';
  offerOrders();
}

function offerOrders() {
  const methods = info.rerank[image ? 'image' : 'sentence'];
  byId('order').hidden = methods.length === 0;
}

byId('preview').addEventListener('error', () => byId('preview').removeAttribute('src')); // a kind that browsers do not draw
byId('pick').addEventListener('click', () => byId('file').click());
byId('file').addEventListener('change', () => { if (byId('file').files.length) setImage(byId('file').files[0]).catch(problem); });
byId('remove').addEventListener('click', () => {
  removeImage();
  byId('sentence').focus();
});
byId('sentence').addEventListener('input', () => { if (image) removeImage(); });
let inside = 0;
addEventListener('dragenter', () => { inside += 1; byId('drop').hidden = false; });
addEventListener('dragleave', () => { inside -= 1; byId('drop').hidden = inside > 0 ? false : true; });
addEventListener('dragover', (event) => event.preventDefault());
addEventListener('drop', (event) => {
  event.preventDefault();
  inside = 0;
  byId('drop').hidden = true;
  const [file] = event.dataTransfer.files;
  if (file) setImage(file).catch(problem);
  else problem(new Error('what was dropped is not a file; save the image first'));
});

// the rest of the form

byId('search').addEventListener('submit', (event) => {
  event.preventDefault();
  search();
});
byId('objects').addEventListener('change', () => byId('hits').classList.toggle('plain', !byId('objects').checked));
byId('rerank').addEventListener('change', () => { if (answered) search(); });
byId('topk').addEventListener('change', () => { if (answered) search(); });
byId('use-view').addEventListener('click', () => {
  setPlace(view());
  search();
});
for (const button of document.querySelectorAll('[data-export]')) {
  button.addEventListener('click', () => download(button.dataset.export));
}
addEventListener('keydown', (event) => {
  const writing = ['INPUT', 'SELECT', 'TEXTAREA'].includes(document.activeElement?.tagName);
  if (event.key === '/' && !writing && !document.querySelector('dialog[open]')) {
    event.preventDefault();
    byId('sentence').focus();
  }
});

// the start

onLocked(() => new Promise((done) => {
  byId('locked').showModal();
  byId('token-form').onsubmit = async (event) => {
    event.preventDefault();
    if (await openSession(byId('token').value)) {
      byId('locked').close();
      byId('token').value = '';
      done();
    } else {
      byId('locked-text').textContent = 'That is not the token. It stands behind the # of the address that was printed.';
    }
  };
}));
byId('locked').addEventListener('cancel', (event) => event.preventDefault());

async function start() {
  const token = decodeURIComponent(location.hash.slice(1));
  if (token) {
    history.replaceState(null, '', location.pathname); // it does not stay in the address
    await openSession(token);
  }
  info = await (await call('/api/info')).json();
  const parts = info.tiles === info.images ? [] : [plural(info.tiles, 'tile')];
  byId('about').textContent = [plural(info.images, 'image'), ...parts, info.model].join(' \u00b7 ');
  byId('with-objects').hidden = !info.boxes;
  offerFilters(info);
  offerOrders();
  countFilters();
}

const ready = start();
ready.catch(problem);
