// Small helpers of the document. Text of the server is only ever set as text.

export const byId = (id) => document.getElementById(id);

/** An element with properties and children; a child that is a string is text. */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** An element of SVG with attributes. */
export function makeSvg(name, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Part of an image with boxes over it: the objects of a hit in pixels of the image, seen through a window. */
export function overlay(window, rectangles) {
  const [left, top, right, bottom] = window;
  const drawn = rectangles.map(({ bbox, label, kind }) => {
    const [x, y, x2, y2] = bbox;
    const shape = makeSvg('rect', { x, y, width: x2 - x, height: y2 - y, class: kind ?? 'object' });
    if (label) shape.append(makeSvg('title', {}, label));
    return shape;
  });
  const view = [left, top, right - left, bottom - top].join(' ');
  return makeSvg('svg', { viewBox: view, class: 'overlay', 'aria-hidden': 'true' }, ...drawn);
}

const SURE = 0.3; // score of an object that is shown

/** The objects of a hit that are worth a look. */
export const objectsOf = (hit) => hit.boxes.filter(({ score }) => score >= SURE);
/** Their boxes, for an overlay. */
export const rectanglesOf = (hit) => objectsOf(hit).map(({ bbox, label, score }) => (
  { bbox, label: `${label} ${score.toFixed(2)}` }));
export const plural = (count, word) => `${count.toLocaleString('en')} ${word}${count === 1 ? '' : 's'}`;
