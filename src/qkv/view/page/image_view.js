// The image view: weights over the cells of a picture, and a picker of queries that are cells themselves.

import { makeScale, paintWeights, palette } from "./colours.js";
import { element, formatWeight } from "./data.js";
import { clampRow } from "./text_view.js";
import { currentExample, state, update } from "./state.js";

/** @typedef {import("./data.js").Matrix} Matrix */

/** @typedef {{height: number, width: number, area: number[]}} Cells */

const SIDE = 420; // the longer side of a picture on the page
const WHOLE = [0, 0, 1, 1];
const SHADE = [8, 12, 20]; // of cells without weight
const DARKEST = 200; // its opacity, of 255
/** @type {Map<string, HTMLImageElement>} */
const pictures = new Map();

/** @param {Matrix} matrix */
export async function showImage(matrix) {
  const grid = matrix.columns.axis.grid;
  element("image-missing").hidden = grid !== null;
  element("image-stage").hidden = grid === null;
  if (!grid) return;
  const row = clampRow(matrix);
  const picture = grid.image ? await loadPicture(grid.image) : null;
  const width = matrix.columns.labels.length;
  const values = matrix.values.slice(row * width, (row + 1) * width);
  drawOverlay(element("overlay-canvas"), picture, grid, values);
  showQueries(matrix, row, picture);
  const best = findLargest(values);
  element("image-caption").textContent =
    `${matrix.rows.texts[row]}: most at cell ${matrix.columns.labels[best]} with ${formatWeight(values[best])}`;
}

/** @param {Float32Array} values @returns {number} */
function findLargest(values) {
  return values.reduce((top, value, i) => (value > values[top] ? i : top), 0);
}

/** @param {string} address a data: address @returns {Promise<HTMLImageElement>} */
async function loadPicture(address) {
  let picture = pictures.get(address);
  if (!picture) {
    picture = new Image();
    picture.src = address;
    await picture.decode();
    pictures.set(address, picture);
  }
  return picture;
}

/**
 * @param {HTMLCanvasElement} canvas @param {HTMLImageElement | null} picture
 * @param {Cells} grid @param {Float32Array} values
 */
function drawOverlay(canvas, picture, grid, values) {
  const context = prepare(canvas, picture, grid);
  const most = values.reduce((top, value) => Math.max(top, Math.abs(value)), 0) || 1;
  if (state.overlay === "one") {
    shadeAllBut(context, canvas, grid, findLargest(values));
    return;
  }
  context.imageSmoothingEnabled = state.overlay === "smooth";
  context.imageSmoothingQuality = "high";
  const layer = picture ? paintAlpha(values, grid, most)
    : paintWeights(values, grid.height, grid.width, makeScale(Math.min(0, ...values), most));
  const { left, top, width, height } = placeCells(canvas, grid);
  context.drawImage(layer, left, top, width * grid.width, height * grid.height);
  if (picture) shadeOutside(context, canvas, [left, top, width * grid.width, height * grid.height], DARKEST / 255);
}

/**
 * The left and upper edge of the first cell on a canvas, and the size of a cell.
 * @param {HTMLCanvasElement} canvas @param {Cells} grid
 */
function placeCells(canvas, grid) {
  const [left, top, right, bottom] = grid.area;
  return {
    left: left * canvas.width,
    top: top * canvas.height,
    width: ((right - left) * canvas.width) / grid.width,
    height: ((bottom - top) * canvas.height) / grid.height,
  };
}

/**
 * @param {CanvasRenderingContext2D} context @param {HTMLCanvasElement} canvas
 * @param {number[]} box left, top, width and height of what stays as it is @param {number} opacity
 */
function shadeOutside(context, canvas, box, opacity) {
  const [left, top] = [Math.max(box[0], 0), Math.max(box[1], 0)];
  const [right, bottom] = [Math.min(box[0] + box[2], canvas.width), Math.min(box[1] + box[3], canvas.height)];
  context.fillStyle = `rgba(${SHADE},${opacity})`;
  context.beginPath();
  context.rect(0, 0, canvas.width, canvas.height);
  context.rect(left, top, right - left, bottom - top);
  context.fill("evenodd");
}

/**
 * Size the canvas and draw the picture, or an empty grid.
 * @param {HTMLCanvasElement} canvas @param {HTMLImageElement | null} picture
 * @param {{height: number, width: number}} grid
 */
function prepare(canvas, picture, grid) {
  const [across, down] = picture ? [picture.naturalWidth, picture.naturalHeight] : [grid.width, grid.height];
  const factor = SIDE / Math.max(across, down);
  canvas.width = Math.round(across * factor);
  canvas.height = Math.round(down * factor);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillStyle = palette().paper;
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (picture) context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return context;
}

/**
 * A layer that darkens cells without weight, so that the others shine.
 * @param {Float32Array} values @param {{height: number, width: number}} grid @param {number} most
 */
function paintAlpha(values, grid, most) {
  const canvas = document.createElement("canvas");
  canvas.width = grid.width;
  canvas.height = grid.height;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(grid.width, grid.height);
  values.forEach((value, i) => {
    image.data.set([...SHADE, Math.round(DARKEST * (1 - Math.abs(value) / most))], 4 * i);
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

/**
 * @param {CanvasRenderingContext2D} context @param {HTMLCanvasElement} canvas
 * @param {Cells} grid @param {number} cell
 */
function shadeAllBut(context, canvas, grid, cell) {
  const { left, top, width, height } = placeCells(canvas, grid);
  const [x, y] = [left + (cell % grid.width) * width, top + Math.floor(cell / grid.width) * height];
  shadeOutside(context, canvas, [x, y, width, height], 0.72);
  context.strokeStyle = palette().falling.at(-2);
  context.lineWidth = 3;
  context.strokeRect(x, y, width, height);
}

/**
 * The queries: words to choose from, or a picture on which a cell is chosen.
 * @param {Matrix} matrix @param {number} row @param {HTMLImageElement | null} picture
 */
function showQueries(matrix, row, picture) {
  const map = findQueryMap(matrix);
  element("picker-figure").hidden = map === null;
  element("image-words").hidden = map !== null;
  if (map) {
    drawPicker(element("picker"), picture, map, row);
    return;
  }
  element("image-words").replaceChildren(...matrix.rows.texts.map((text, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dir = "auto";
    button.className = "token";
    button.textContent = text;
    button.setAttribute("aria-pressed", String(i === row));
    button.addEventListener("click", () => update({ row: i }));
    return button;
  }));
}

/**
 * The cells of the queries on their map: height, width, and the cell of every query.
 * @param {Matrix} matrix
 * @returns {(Cells & {cells: number[]}) | null}
 */
function findQueryMap(matrix) {
  const grid = matrix.rows.axis.grid;
  if (grid) return { ...grid, cells: matrix.rows.labels.map((_, i) => i) };
  const { points, map } = currentExample();
  if (!points || !map || matrix.rows.axis.name !== "query points") return null;
  return { height: map[0], width: map[1], area: WHOLE, cells: points.map(([y, x]) => y * map[1] + x) };
}

/**
 * @param {HTMLCanvasElement} canvas @param {HTMLImageElement | null} picture
 * @param {Cells & {cells: number[]}} map @param {number} row
 */
function drawPicker(canvas, picture, map, row) {
  const context = prepare(canvas, picture, map);
  const theme = palette();
  const { left, top, width, height } = placeCells(canvas, map);
  const isEveryCell = map.cells.length === map.width * map.height;
  context.strokeStyle = theme.frame;
  context.lineWidth = 0.5;
  for (const [i, cell] of map.cells.entries()) {
    const [x, y] = [left + (cell % map.width) * width, top + Math.floor(cell / map.width) * height];
    if (!isEveryCell || width > 6) context.strokeRect(x, y, width, height);
    if (i === row) {
      context.fillStyle = theme.falling.at(-2);
      context.globalAlpha = 0.65;
      context.fillRect(x, y, width, height);
      context.globalAlpha = 1;
    }
  }
  canvas.onpointermove = canvas.onclick = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor((((event.clientX - box.left) / box.width) * canvas.width - left) / width);
    const y = Math.floor((((event.clientY - box.top) / box.height) * canvas.height - top) / height);
    const isInside = x >= 0 && x < map.width && y >= 0 && y < map.height;
    const index = isInside ? map.cells.indexOf(y * map.width + x) : -1;
    if (index >= 0) update({ row: index });
  };
}
