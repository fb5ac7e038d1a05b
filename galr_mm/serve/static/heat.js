// The heat map of a sentence over an image, drawn from cells between the edges of windows.

const STOPS = [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]]; // inferno
const SIDE = 1024; // pixels of the longer side of what is drawn

/** A canvas of cells, and the lowest and highest similarity in them. */
export function drawHeat({ size, cells, y_edges: ys, x_edges: xs }) {
  const [height, width] = size;
  const scale = SIDE / Math.max(height, width);
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const values = cells.flat().filter((value) => value !== null);
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const context = canvas.getContext('2d');
  cells.forEach((row, y) => row.forEach((value, x) => {
    if (value === null) return;
    context.fillStyle = color((value - low) / (high - low || 1));
    const [left, right, top, bottom] = [xs[x], xs[x + 1], ys[y], ys[y + 1]].map((edge) => Math.round(edge * scale));
    context.fillRect(left, top, right - left, bottom - top);
  }));
  return { canvas, low, high };
}

function color(value) {
  const at = value * (STOPS.length - 1);
  const first = Math.min(Math.floor(at), STOPS.length - 2);
  const mixed = STOPS[first].map((from, i) => Math.round(from + (STOPS[first + 1][i] - from) * (at - first)));
  return `rgb(${mixed.join(' ')})`;
}
