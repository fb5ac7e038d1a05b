// The map of hits: outlines of land and a graticule of our own, since tiles of a map would come from another machine.

import { byId, make } from './dom.js';
import { imageAddress } from './server.js';

const STEPS = [45, 30, 15, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001];
const APART = [90, 48]; // pixels between meridians, and between parallels
const MERCATOR = 85; // degrees of latitude that the map reaches
let map = null;
let hitLayer = null;
let graticule = null;
let pins = new Map();

/** Draw hits that have a place; `open` is called with the tile id of one that is chosen. */
export function showOnMap(hits, open) {
  const placed = hits.filter((hit) => hit.footprint);
  byId('map-side').hidden = placed.length === 0;
  if (placed.length === 0) return;
  byId('map-note').textContent = placed.length === hits.length ? '' : `${placed.length} of ${hits.length} have a place.`;
  if (map === null) makeMap();
  map.invalidateSize();
  hitLayer.clearLayers();
  pins = new Map();
  const shape = L.geoJSON(placed.map((hit) => ({ type: 'Feature', geometry: hit.footprint, properties: hit })), {
    style: { className: 'footprint' },
    onEachFeature: (feature, layer) => layer.on('click', () => open(feature.properties.tile_id)),
  });
  for (const hit of [...placed].reverse()) {
    const box = uprightBox(hit.footprint);
    if (box) L.imageOverlay(imageAddress(hit.tile_id, 'small'), box, { alt: '' }).addTo(hitLayer);
    const pin = L.marker(centerOf(hit.footprint), {
      icon: L.divIcon({ className: 'pin', html: make('span', {}, String(hit.rank)), iconSize: [26, 26] }),
      keyboard: false, // the grid has the same hits
      zIndexOffset: 1000 - hit.rank,
    }).on('click', () => open(hit.tile_id)).addTo(hitLayer);
    pins.set(hit.tile_id, pin);
  }
  shape.addTo(hitLayer);
  map.fitBounds(shape.getBounds(), { padding: [32, 32], maxZoom: 15, animate: false });
}

/** Let the pin of a hit stand out. */
export function highlight(tileId, on) {
  const pin = pins.get(tileId);
  pin?.getElement()?.classList.toggle('chosen', on);
  pin?.setZIndexOffset(on ? 5000 : 0);
}

/** West, south, east, north of what is seen. */
export function view() {
  const bounds = map.getBounds();
  const cut = (value, limit) => Math.max(-limit, Math.min(limit, Number(value.toFixed(5))));
  return [
    cut(bounds.getWest(), 180), cut(bounds.getSouth(), 90), cut(bounds.getEast(), 180), cut(bounds.getNorth(), 90),
  ];
}

function makeMap() {
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  map = L.map('map', {
    attributionControl: false, minZoom: 1, maxZoom: 20, zoomAnimation: !still, fadeAnimation: !still,
    maxBounds: [[-89, -190], [89, 190]], maxBoundsViscosity: 1, zoomControl: false,
  });
  L.control.zoom({ position: 'topright' }).addTo(map);
  map.createPane('ground').style.zIndex = 250; // below the images of hits
  graticule = L.layerGroup().addTo(map);
  hitLayer = L.layerGroup().addTo(map);
  map.on('moveend', drawGraticule);
  map.setView([20, 0], 1);
  fetch('/static/land.json').then((answer) => answer.json()).then((land) => {
    L.geoJSON(land, { pane: 'ground', interactive: false, style: { className: 'land' } }).addTo(map).bringToBack();
  }).catch(() => { byId('map-note').textContent += ' The outlines of land could not be loaded.'; });
}

function drawGraticule() {
  graticule.clearLayers();
  const bounds = map.getBounds().pad(0.05);
  const size = map.getSize();
  const across = stepOf(bounds.getEast() - bounds.getWest(), size.x, APART[0]);
  const down = stepOf(bounds.getNorth() - bounds.getSouth(), size.y, APART[1]);
  const [west, east] = [Math.max(-180, bounds.getWest()), Math.min(180, bounds.getEast())];
  const [south, north] = [Math.max(-MERCATOR, bounds.getSouth()), Math.min(MERCATOR, bounds.getNorth())];
  const corner = map.containerPointToLatLng([4, size.y - 4]);
  for (let n = Math.ceil(west / across); n * across <= east; n += 1) {
    addLine([[south, n * across], [north, n * across]]);
    addLabel([corner.lat, n * across], degrees(n * across, across, 'EW'), 'meridian');
  }
  for (let n = Math.ceil(south / down); n * down <= north; n += 1) {
    addLine([[n * down, west], [n * down, east]]);
    addLabel([n * down, corner.lng], degrees(n * down, down, 'NS'), 'parallel');
  }
}

/** The smallest step whose lines stand so many pixels apart. */
function stepOf(span, pixels, apart) {
  return STEPS.findLast((step) => (step / span) * pixels >= apart) ?? STEPS[0];
}

function addLine(points) {
  L.polyline(points, { pane: 'ground', className: 'graticule', interactive: false }).addTo(graticule);
}

function addLabel(point, text, kind) {
  const icon = L.divIcon({ className: `degrees ${kind}`, html: make('span', {}, text), iconSize: [0, 0] });
  L.marker(point, { icon, interactive: false, keyboard: false }).addTo(graticule);
}

function degrees(value, step, names) {
  const digits = Math.max(0, Math.ceil(-Math.log10(step)));
  const rounded = Math.abs(value).toFixed(digits);
  return `${rounded}\u00b0${Number(rounded) === 0 ? '' : names[value < 0 ? 1 : 0]}`;
}

function ringOf(geometry) {
  return geometry.type === 'MultiPolygon' ? geometry.coordinates[0][0] : geometry.coordinates[0];
}

function centerOf(geometry) {
  return L.latLngBounds(ringOf(geometry).map(([x, y]) => [y, x])).getCenter();
}

/** Bounds of a footprint that is a box of degrees, in which an image can be drawn. */
function uprightBox(geometry) {
  const ring = geometry.type === 'Polygon' ? ringOf(geometry) : [];
  const isBox = ring.length === 5 && new Set(ring.map(([x]) => x)).size === 2 && new Set(ring.map(([, y]) => y)).size === 2;
  return isBox ? ring.map(([x, y]) => [y, x]) : null;
}
