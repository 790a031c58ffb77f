// The wall: a thumbnail of every layer and head, in order of a measure.

import { makeScale, paintWeights } from "./colours.js";
import { element, loadCodes, makeDecodingTable, measureNames } from "./data.js";
import { currentExample, state, update } from "./state.js";

/** @typedef {import("./data.js").Weights} Weights */

const SIDE = 112; // pixels of a thumbnail
let drawing = 0; // the number of the latest drawing: an older one stops

/** Show the thumbnails of the current example. */
export async function showWall() {
  const number = ++drawing;
  const entries = listHeads();
  const wall = element("wall");
  const tiles = entries.map(makeTile);
  wall.replaceChildren(...(state.sort === "layer" ? groupByLayer(entries, tiles) : [makeShelf(tiles)]));
  for (const [i, { weights, head }] of entries.entries()) {
    const codes = await loadCodes(weights);
    if (number !== drawing) return;
    paintThumbnail(tiles[i].canvas, weights, codes, head);
    if (i % 16 === 15) await new Promise((resolve) => setTimeout(resolve));
  }
}

/** @param {{button: HTMLElement}[]} tiles */
function makeShelf(tiles) {
  const shelf = document.createElement("div");
  shelf.className = "shelf";
  shelf.append(...tiles.map((tile) => tile.button));
  return shelf;
}

/** A heading and a row of tiles for every layer. @param {{weights: Weights}[]} entries @param {{button: HTMLElement}[]} tiles */
function groupByLayer(entries, tiles) {
  const layers = [...new Set(entries.map((entry) => entry.weights))];
  return layers.flatMap((weights) => {
    const heading = document.createElement("h2");
    heading.textContent = `${weights.name}: ${weights.rows} over ${weights.columns}`;
    return [heading, makeShelf(tiles.filter((_, i) => entries[i].weights === weights))];
  });
}

/** Every layer and head, sorted. */
function listHeads() {
  const entries = currentExample().weights.flatMap((weights) =>
    weights.measures.map((measures, head) => ({ weights, head, measures })));
  const index = measureNames.indexOf(state.sort);
  if (index >= 0) entries.sort((a, b) => (b.measures[index] ?? -Infinity) - (a.measures[index] ?? -Infinity));
  return entries;
}

/** @param {{weights: Weights, head: number, measures: (number | null)[]}} entry */
function makeTile({ weights, head, measures }) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "tile";
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE; // until it is painted
  const caption = document.createElement("span");
  const index = measureNames.indexOf(state.sort);
  caption.textContent = index < 0 ? `head ${head}` : `${weights.name} · ${head} · ${formatMeasure(measures[index])}`;
  button.title = measureNames.map((name, i) => `${name} ${formatMeasure(measures[i])}`).join("\n");
  button.setAttribute("aria-label", `${weights.name}, head ${head}: ${measureNames.map((name, i) => `${name} ${formatMeasure(measures[i])}`).join(", ")}`);
  button.dataset.name = `${weights.name}/${head}`;
  if (state.layer === weights.name && state.head === String(head)) button.setAttribute("aria-current", "true");
  button.append(canvas, caption);
  button.addEventListener("click", () => update({ layer: weights.name, head: String(head), view: "matrix" }));
  return { button, canvas };
}

/** @param {number | null} value */
function formatMeasure(value) {
  return value === null ? "–" : value.toFixed(2);
}

/**
 * Paint a head; where cells are smaller than pixels, the largest weight of a pixel.
 * @param {HTMLCanvasElement} canvas @param {Weights} weights @param {Uint8Array} codes @param {number} head
 */
function paintThumbnail(canvas, weights, codes, head) {
  const [, rows, columns] = weights.shape;
  const size = Math.max(rows, columns);
  const factor = Math.min(SIDE / size, 1);
  const [height, width] = [Math.max(Math.round(rows * factor), 1), Math.max(Math.round(columns * factor), 1)];
  const strongest = new Uint8Array(height * width);
  const zero = weights.signed ? 128 : 0;
  strongest.fill(zero);
  const start = head * rows * columns;
  for (let r = 0; r < rows; r++) {
    const y = Math.min(Math.floor((r * height) / rows), height - 1) * width;
    for (let c = 0; c < columns; c++) {
      const code = codes[start + r * columns + c];
      const place = y + Math.floor((c * width) / columns);
      if (Math.abs(code - zero) > Math.abs(strongest[place] - zero)) strongest[place] = code;
    }
  }
  const table = makeDecodingTable(weights, head);
  const values = Float32Array.from(strongest, (code) => table[code]);
  const most = weights.scales[head] || 1;
  canvas.width = width;
  canvas.height = height;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.drawImage(paintWeights(values, height, width, makeScale(weights.signed ? -most : 0, most)), 0, 0);
  const shown = SIDE / size;
  canvas.style.width = `${Math.max(columns * shown, 6)}px`;
  canvas.style.height = `${Math.max(rows * shown, 6)}px`;
}
