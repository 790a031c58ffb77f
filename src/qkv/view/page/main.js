// The page: controls, views and keys.

import { makeScale, cssColour } from "./colours.js";
import { element, findRange, formatWeight, loadMatrix, measureNames, subtract, traces } from "./data.js";
import { showDocument } from "./document_view.js";
import { exportMatrix } from "./export.js";
import { HeatMap } from "./heatmap.js";
import { showImage } from "./image_view.js";
import {
  VIEWS, currentExample, currentWeights, exampleB, onChange, parseHead, restore, state, update, weightsB,
} from "./state.js";
import { showTable } from "./table.js";
import { showText, togglePlay } from "./text_view.js";
import { showWall } from "./wall.js";

/** @typedef {import("./data.js").Matrix} Matrix */

const SELECTS = ["trace", "example", "layer", "head", "compare", "traceB", "layerB", "headB", "sort", "overlay", "scale", "theme"];
const NUMBERS = new Set(["trace", "example", "traceB"]);

const maps = [new HeatMap(element("map"), select), new HeatMap(element("map-b"), select)];
/** @type {Matrix[]} */
let shown = [];
let drawing = 0; // the number of the latest drawing: an older one stops

/** @param {number} row @param {number} column */
function select(row, column) {
  update({ row, column });
}

/** Draw what the state says. */
async function draw() {
  const number = ++drawing;
  showControls();
  const weights = currentWeights();
  if (!weights || !weights.shape.every(Boolean)) {
    element("empty").hidden = false;
    element("views").hidden = true;
    return;
  }
  const options = { merge: state.merge, special: state.special };
  const first = await loadMatrix(currentExample(), weights, parseHead(state.head), options);
  const matrices = [first];
  if (state.compare !== "none" && state.view === "matrix" && weightsB()) {
    matrices.push(await loadMatrix(exampleB(), weightsB(), parseHead(state.headB), options));
  }
  if (number !== drawing) return;
  shown = combine(matrices);
  element("empty").hidden = shown[0].values.length > 0;
  element("views").hidden = shown[0].values.length === 0;
  if (shown[0].values.length) await showView();
  document.body.dataset.ready = String(number);
}

/** @param {Matrix[]} matrices @returns {Matrix[]} */
function combine(matrices) {
  element("mismatch").hidden = true;
  if (state.compare !== "difference" || matrices.length < 2) return matrices;
  const difference = subtract(matrices[0], matrices[1]);
  if (difference) return [difference];
  element("mismatch").hidden = false;
  return matrices;
}

async function showView() {
  const [matrix] = shown;
  if (state.view === "matrix") showMatrices();
  else if (state.view === "text") await showText(matrix);
  else if (state.view === "wall") await showWall();
  else if (state.view === "document") showDocument(matrix);
  else if (state.view === "image") await showImage(matrix);
  else showTable(matrix);
  showReadout();
}

function showMatrices() {
  element("figure-b").hidden = shown.length < 2;
  element("maps").classList.toggle("two", shown.length > 1);
  shown.forEach((matrix, i) => {
    const [low, high] = limits(matrix);
    maps[i].row = state.row;
    maps[i].column = state.column;
    maps[i].show(matrix, low, high);
    const name = shown.length < 2 ? "" : `${"AB"[i]}, ${traces[i ? state.traceB : state.trace].name}: `;
    element(i ? "title-b" : "title-a").textContent = `${name}${matrix.title}: ${matrix.rows.axis.name} (queries) over ${matrix.columns.axis.name} (keys)`;
    drawBar(element(i ? "bar-b" : "bar-a"), low, high);
    maps[i].canvas.setAttribute("aria-label", `Heat map of ${matrix.title}, ${matrix.rows.labels.length} queries by ${matrix.columns.labels.length} keys. Arrow keys move the selected cell, plus and minus zoom.`);
  });
}

/** The weights of the first and last colour. @param {Matrix} matrix @returns {[number, number]} */
function limits(matrix) {
  if (state.scale === "one") return [matrix.low < -1e-3 ? -1 : 0, 1];
  if (state.scale === "row" && state.row >= 0) {
    const width = matrix.columns.labels.length;
    return findRange(matrix.values.subarray(state.row * width, (state.row + 1) * width));
  }
  return [matrix.low, matrix.high];
}

/** @param {HTMLElement} bar @param {number} low @param {number} high */
function drawBar(bar, low, high) {
  const scale = makeScale(low, high);
  const stops = [...Array(9).keys()].map((i) => cssColour(scale, scale.low + ((scale.high - scale.low) * i) / 8));
  const [least, most] = [scale.low, scale.high].map(formatWeight);
  const gradient = document.createElement("span");
  gradient.className = "gradient";
  gradient.style.backgroundImage = `linear-gradient(to right, ${stops.join(",")})`;
  bar.replaceChildren(least, gradient, most);
}

/** The number of the selected cell. */
function showReadout() {
  const texts = shown.map((matrix) => {
    const width = matrix.columns.labels.length;
    const isInside = state.row >= 0 && state.column >= 0 && state.row < matrix.rows.labels.length && state.column < width;
    if (!isInside) return "";
    const value = formatWeight(matrix.values[state.row * width + state.column]);
    return `\u2068${matrix.rows.texts[state.row]}\u2069 → \u2068${matrix.columns.texts[state.column]}\u2069: ${value}`;
  });
  const prefix = texts.length > 1 ? ["A: ", "B: "] : [""];
  const text = texts.map((line, i) => (line ? prefix[i] + line : "")).filter(Boolean).join(" · ");
  const hint = state.view === "document" ? "Point at a word to read its weight." : "Point at a cell, or use the arrow keys, to read a weight.";
  element("readout").textContent = text || hint;
}

function showControls() {
  document.documentElement.dataset.theme = state.theme;
  for (const view of VIEWS) {
    element(`view-${view}`).hidden = view !== state.view;
    element(`tab-${view}`).setAttribute("aria-selected", String(view === state.view));
    element(`tab-${view}`).tabIndex = view === state.view ? 0 : -1;
  }
  const example = currentExample();
  fill("trace", traces.map((trace, i) => [String(i), trace.name]));
  fill("example", traces[state.trace].examples.map((entry, i) => [String(i), `${i + 1}: ${entry.title}`]));
  fill("layer", example.weights.map((weights) => [weights.name, weights.name]));
  fill("head", listHeads(currentWeights()));
  fill("traceB", traces.map((trace, i) => [String(i), trace.name]));
  fill("layerB", exampleB().weights.map((weights) => [weights.name, weights.name]));
  fill("headB", listHeads(weightsB()));
  element("field-trace").hidden = traces.length < 2;
  element("field-example").hidden = traces[state.trace].examples.length < 2;
  const isMatrix = state.view === "matrix";
  element("field-compare").hidden = !isMatrix;
  element("fields-b").hidden = !isMatrix || state.compare === "none";
  element("readout").hidden = !isMatrix && state.view !== "document";
  element("field-sort").hidden = state.view !== "wall";
  element("field-overlay").hidden = state.view !== "image";
  element("field-scale").hidden = !isMatrix;
  for (const name of SELECTS) element(name).value = String(/** @type {any} */ (state)[name]);
  for (const name of ["merge", "special"]) element(name).checked = /** @type {any} */ (state)[name];
  showKind();
}

/** What the weights are, in one sentence. */
function showKind() {
  const weights = currentWeights();
  if (!weights) return;
  const sentences = {
    occlusion: "Not attention: how much the log-probability of each emitted token falls when this source word is left out (positive: the word helped).",
    attention: weights.normalised ? "" : "These weights need not sum to 1: a feature map implies them, or the mechanism does not normalise.",
  };
  element("kind").textContent = sentences[/** @type {"occlusion" | "attention"} */ (weights.kind)] ?? "";
}

/** @param {import("./data.js").Weights | undefined} weights @returns {string[][]} */
function listHeads(weights) {
  const count = weights ? weights.shape[0] : 0;
  const heads = [...Array(count).keys()].map((head) => [String(head), `head ${head}`]);
  return [["mean", count > 1 ? `mean of ${count}` : "the only head"], ...(count > 1 ? heads : [])];
}

/** @param {string} id @param {string[][]} options */
function fill(id, options) {
  const key = JSON.stringify(options);
  const control = element(id);
  if (control.dataset.key === key) return;
  control.dataset.key = key;
  control.replaceChildren(...options.map(([value, text]) => {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = text;
    return option;
  }));
}

function listen() {
  for (const name of SELECTS) {
    element(name).addEventListener("change", () => {
      const { value } = element(name);
      update({ [name]: NUMBERS.has(name) ? Number(value) : value, ...(name === "layer" || name === "example" ? { row: -1, column: -1 } : {}) });
    });
  }
  for (const name of ["merge", "special"]) {
    element(name).addEventListener("change", () => update({ [name]: element(name).checked, row: -1, column: -1 }));
  }
  for (const view of VIEWS) element(`tab-${view}`).addEventListener("click", () => update({ view }));
  element("tabs").addEventListener("keydown", moveTab);
  for (const map of maps) map.canvas.addEventListener("keydown", (event) => moveCell(event, map));
  for (const id of ["step", "document-step"]) {
    element(id).addEventListener("input", () => update({ row: Number(element(id).value), column: -1 }));
  }
  element("play").addEventListener("click", togglePlay);
  element("zoom-in").addEventListener("click", () => maps.forEach((map) => map.zoomBy(1.6)));
  element("zoom-out").addEventListener("click", () => maps.forEach((map) => map.zoomBy(1 / 1.6)));
  for (const format of ["png", "svg", "csv"]) {
    element(`export-${format}`).addEventListener("click", () => exportMatrix(shown[0], format, ...limits(shown[0])));
  }
  addEventListener("hashchange", restore);
  addEventListener("resize", () => draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
}

/** @param {KeyboardEvent} event */
function moveTab(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const view = VIEWS[(VIEWS.indexOf(state.view) + step + VIEWS.length) % VIEWS.length];
  update({ view });
  element(`tab-${view}`).focus();
}

/** @param {KeyboardEvent} event @param {HeatMap} map */
function moveCell(event, map) {
  const matrix = map.matrix;
  if (!matrix || event.ctrlKey || event.metaKey || event.altKey) return;
  const [rows, columns] = [matrix.rows.labels.length, matrix.columns.labels.length];
  /** @type {{[key: string]: [number, number]}} */
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -columns], End: [0, columns], PageUp: [-rows, 0], PageDown: [rows, 0] };
  if (event.key === "+" || event.key === "=") maps.forEach((other) => other.zoomBy(1.3));
  else if (event.key === "-") maps.forEach((other) => other.zoomBy(1 / 1.3));
  else if (event.key === "0") maps.forEach((other) => { other.resetZoom(); other.draw(); });
  else if (moves[event.key]) {
    const [down, right] = moves[event.key];
    const row = Math.min(Math.max(Math.max(state.row, 0) + (state.row < 0 ? 0 : down), 0), rows - 1);
    const column = Math.min(Math.max(Math.max(state.column, 0) + (state.column < 0 ? 0 : right), 0), columns - 1);
    update({ row, column });
    maps.forEach((other) => other.reveal());
  } else return;
  event.preventDefault();
}

/** A change of the selected cell alone draws less. @param {string[]} changed */
function respond(changed) {
  const isSelection = changed.every((name) => name === "row" || name === "column");
  if (!isSelection || !shown.length) draw();
  else if (state.view === "matrix" && state.scale !== "row") {
    maps.forEach((map) => map.select(state.row, state.column));
    showReadout();
  } else if (state.view === "document" && changed.every((name) => name === "column")) showReadout();
  else showView();
}

for (const name of measureNames) {
  const option = document.createElement("option");
  option.value = option.textContent = name;
  element("sort").append(option);
}
listen();
onChange(respond);
restore();
