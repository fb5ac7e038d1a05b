// The filters: fields of the form that become the `where` of a search.

import { byId, make } from './dom.js';

const PLACE = ['west', 'south', 'east', 'north'];
const GSD = ['finest', 'coarsest'];
const MANY = 8; // platforms above which they are a list

/** Fill the form with what the images say of themselves. */
export function offerFilters(info) {
  const boxes = info.platforms.map((name) => make('label', {}, make('input', {
    type: 'checkbox', name: 'platform', value: name,
  }), ` ${name}`));
  byId('platforms').append(...boxes);
  byId('platforms').hidden = boxes.length === 0;
  byId('platforms').classList.toggle('many', boxes.length > MANY);
  Object.entries(info.fields).forEach(([name, values], number) => {
    const list = make('datalist', { id: `values-${number}` }, ...values.map((value) => make('option', { value })));
    const input = make('input', { type: 'text', name: 'field', placeholder: 'any', autocomplete: 'off' });
    input.dataset.field = name;
    input.setAttribute('list', list.id);
    byId('fields').append(make('label', {}, `${name} `, input), list);
  });
  byId('fields').hidden = Object.keys(info.fields).length === 0;
  for (const id of ['start', 'end']) {
    if (info.first) byId(id).min = info.first.slice(0, 10);
    if (info.last) byId(id).max = info.last.slice(0, 10);
  }
  byId('start').closest('fieldset').hidden = !info.first;
  if (info.gsd) GSD.forEach((id, i) => { byId(id).placeholder = info.gsd[i]; });
  byId('finest').closest('fieldset').hidden = !info.gsd;
  byId('west').closest('fieldset').hidden = info.placed === 0;
}

/** The filter, without what is empty.
 *  @throws {Error} in words, where a field makes no sense. */
export function readFilters() {
  for (const input of byId('filters').querySelectorAll('input')) {
    if (!input.validity.valid) {
      const name = input.closest('label').textContent.trim();
      throw new Error(`the filter \u201c${name}\u201d cannot be used: ${input.validationMessage.replace(/\.$/, '')}`);
    }
  }
  const where = {};
  const place = PLACE.map((id) => byId(id).value);
  if (place.some(Boolean)) {
    if (!place.every(Boolean)) throw new Error('of a place, west, south, east and north are needed');
    where.bbox = place.map(Number);
  }
  if (byId('start').value) where.start = byId('start').value;
  if (byId('end').value) where.end = byId('end').value;
  const gsd = GSD.map((id) => (byId(id).value ? Number(byId(id).value) : null));
  if (gsd.some((meters) => meters !== null)) where.gsd = gsd;
  if (byId('min-score').value) where.min_score = Number(byId('min-score').value);
  const platforms = [...document.querySelectorAll('input[name=platform]:checked')].map((input) => input.value);
  if (platforms.length) where.platform = platforms;
  const fields = [...document.querySelectorAll('input[name=field]')].filter((input) => input.value);
  if (fields.length) where.metadata = Object.fromEntries(fields.map((input) => [input.dataset.field, input.value]));
  return where;
}

/** Write how many conditions there are on the button. */
export function countFilters() {
  let count = 0;
  try {
    count = Object.keys(readFilters()).length;
  } catch {
    count = 1;
  }
  byId('filter-button').textContent = count ? `Filters (${count})` : 'Filters';
}

/** Set the place. */
export function setPlace(bounds) {
  PLACE.forEach((id, i) => { byId(id).value = bounds[i]; });
  showFilters(true);
  countFilters();
}

/** Show or hide the form. */
export function showFilters(on) {
  byId('filters').hidden = !on;
  byId('filter-button').setAttribute('aria-expanded', String(on));
}

byId('filter-button').addEventListener('click', () => showFilters(byId('filters').hidden));
byId('filters').addEventListener('input', countFilters);
byId('clear').addEventListener('click', () => {
  for (const input of byId('filters').querySelectorAll('input')) {
    if (input.type === 'checkbox') input.checked = false;
    else input.value = '';
  }
  countFilters();
});
