// The text view: tokens of queries and keys, lines or shading between them, the steps of a translation.

import { cssColour, makeScale, palette, textColour } from "./colours.js";
import { element, findRange, formatWeight, loadMatrix } from "./data.js";
import { currentExample, state, update } from "./state.js";

/** @typedef {import("./data.js").Matrix} Matrix */

const MOST_LINES = 24;
const LINES_BELOW = 150; // tokens: longer sequences are only shaded
const MOST_TOKENS = 3000; // longer ones are left to the document view
/** @type {number | undefined} */
let player;

/**
 * @param {Matrix} matrix
 */
export async function showText(matrix) {
  const isOneText = matrix.rows.axis === matrix.columns.axis && matrix.rows.axis.grid === null;
  const row = clampRow(matrix);
  const stage = element("text-stage");
  const isLong = matrix.rows.labels.length + matrix.columns.labels.length > MOST_TOKENS;
  for (const id of ["text-stage", "text-steps"]) element(id).hidden = isLong;
  element("text-long").hidden = !isLong;
  if (isLong) return;
  const scale = makeScale(matrix.low, matrix.high);
  const rows = makeTokens(matrix.rows, (i) => update({ row: i, column: -1 }));
  const columns = makeTokens(matrix.columns, (i) => update({ column: i }));
  element("text-rows").replaceChildren(...rows);
  element("text-columns").replaceChildren(...columns);
  element("text-rows-name").textContent = `${matrix.rows.axis.name} (queries)`;
  element("text-columns-name").textContent = `${matrix.columns.axis.name} (keys)`;
  stage.classList.toggle("one-text", isOneText);
  shade(matrix, scale, row, rows, columns);
  const count = rows.length + columns.length;
  if (count <= LINES_BELOW) drawLines(matrix, row, rows, columns);
  else element("text-lines").replaceChildren();
  setSlider(matrix, row);
  await showOcclusion(matrix, row);
}

/** @param {Matrix} matrix */
export function clampRow(matrix) {
  return Math.min(Math.max(state.row, 0), matrix.rows.labels.length - 1);
}

/**
 * One element for every token.
 * @param {import("./data.js").Side} side @param {(index: number) => void} onSelect
 * @returns {HTMLElement[]}
 */
function makeTokens(side, onSelect) {
  return side.texts.map((text, i) => {
    const token = document.createElement("span");
    token.className = side.opensWord[i] ? "token" : "token piece";
    token.dir = "auto";
    token.textContent = text;
    token.addEventListener("pointerenter", () => onSelect(i));
    token.addEventListener("click", () => onSelect(i));
    return token;
  });
}

/**
 * Shade the keys by the weights of the selected query, or the queries by the weights of the selected key.
 * @param {Matrix} matrix @param {import("./colours.js").Scale} scale @param {number} row
 * @param {HTMLElement[]} rows @param {HTMLElement[]} columns
 */
function shade(matrix, scale, row, rows, columns) {
  const width = columns.length;
  const isByKey = state.column >= 0 && state.column < width;
  const targets = isByKey ? rows : columns;
  targets.forEach((token, i) => {
    const value = isByKey ? matrix.values[i * width + state.column] : matrix.values[row * width + i];
    token.style.backgroundColor = cssColour(scale, value);
    token.style.color = textColour(scale, value);
    token.title = formatWeight(value);
  });
  rows[row]?.classList.toggle("selected", !isByKey);
  if (isByKey) columns[state.column].classList.add("selected");
  rows.forEach((token, i) => token.classList.toggle("later", !isByKey && i > row));
}

/**
 * Lines from the selected query to its strongest keys, as wide as the weights.
 * @param {Matrix} matrix @param {number} row @param {HTMLElement[]} rows @param {HTMLElement[]} columns
 */
function drawLines(matrix, row, rows, columns) {
  const svg = element("text-lines");
  const box = svg.getBoundingClientRect();
  const width = columns.length;
  const isByKey = state.column >= 0 && state.column < width;
  const pairs = (isByKey ? rows : columns).map((_, i) => {
    const [r, c] = isByKey ? [i, state.column] : [row, i];
    return { r, c, value: matrix.values[r * width + c] };
  });
  pairs.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const strongest = Math.max(matrix.high, -matrix.low) || 1;
  const theme = palette();
  const lines = pairs.slice(0, MOST_LINES).filter((pair) => Math.abs(pair.value) > 0.02 * strongest).map((pair) => {
    const [from, to] = [rows[pair.r].getBoundingClientRect(), columns[pair.c].getBoundingClientRect()];
    const [x1, x2] = [from.left + from.width / 2 - box.left, to.left + to.width / 2 - box.left];
    const [y1, y2] = [from.bottom - box.top, to.top - box.top];
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", `M${x1} ${y1}C${x1} ${(y1 + y2) / 2} ${x2} ${(y1 + y2) / 2} ${x2} ${y2}`);
    path.setAttribute("stroke", pair.value < 0 ? theme.falling.at(-2) : theme.accent);
    path.setAttribute("stroke-width", String(0.8 + 5 * Math.abs(pair.value) / strongest));
    path.setAttribute("stroke-opacity", String(0.25 + 0.75 * Math.abs(pair.value) / strongest));
    return path;
  });
  svg.replaceChildren(...lines);
}

/** @param {Matrix} matrix @param {number} row */
function setSlider(matrix, row) {
  const slider = element("step");
  slider.max = String(matrix.rows.labels.length - 1);
  slider.value = String(row);
  element("step-text").textContent = describeStep(matrix, row);
  slider.setAttribute("aria-valuetext", element("step-text").textContent);
}

/** The number and the text of a query, with its probability where the trace has it. @param {Matrix} matrix @param {number} row */
export function describeStep(matrix, row) {
  const example = currentExample();
  const probabilities = example.logProbsAxis === matrix.weights.rows ? example.logProbs : null;
  const group = matrix.rows.groups[row] ?? [];
  const sum = probabilities ? group.reduce((total, i) => total + probabilities[i], 0) : null;
  const probability = sum === null ? "" : `, log p ${formatWeight(sum)}`;
  return `${row + 1} of ${matrix.rows.labels.length}: ${matrix.rows.texts[row]}${probability}`;
}

/** Play or stop the steps. */
export function togglePlay() {
  const button = element("play");
  if (player !== undefined) {
    clearInterval(player);
    player = undefined;
    button.textContent = "Play";
    return;
  }
  button.textContent = "Stop";
  const last = Number(element("step").max);
  if (Number(element("step").value) >= last) update({ row: 0, column: -1 });
  player = window.setInterval(() => {
    const next = Number(element("step").value) + 1;
    if (next > last) togglePlay();
    else update({ row: next, column: -1 });
  }, 700);
}

/**
 * The effect of leaving out every key, where the trace holds it, beside the weights.
 * @param {Matrix} matrix @param {number} row
 */
async function showOcclusion(matrix, row) {
  const example = currentExample();
  const effects = example.weights.find((weights) => weights.kind === "occlusion" &&
    weights.rows === matrix.weights.rows && weights.columns === matrix.weights.columns);
  const panel = element("occlusion");
  panel.hidden = !effects || matrix.weights.kind === "occlusion";
  if (!effects || panel.hidden) return;
  const dropped = await loadMatrix(example, effects, "mean", { merge: state.merge, special: state.special });
  const width = matrix.columns.labels.length;
  const inRow = (/** @type {Float32Array} */ values) => findRange(values.subarray(row * width, (row + 1) * width));
  const [mostWeight, mostEffect] = [matrix.values, dropped.values].map((values) => {
    const [low, high] = inRow(values);
    return Math.max(high, -low) || 1;
  });
  const entries = matrix.columns.texts.map((text, c) => {
    const [weight, effect] = [matrix.values[row * width + c], dropped.values[row * width + c]];
    const line = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.dir = "auto";
    name.textContent = text;
    line.append(name, makeBar(weight, mostWeight), makeBar(effect, mostEffect));
    return line;
  });
  element("occlusion-word").textContent = matrix.rows.texts[row];
  element("occlusion-rows").replaceChildren(...entries);
}

/** @param {number} value @param {number} most */
function makeBar(value, most) {
  const cell = document.createElement("td");
  const bar = document.createElement("span");
  bar.className = value < 0 ? "bar negative" : "bar";
  bar.style.width = `${(Math.abs(value) / most) * 60}px`;
  cell.append(bar, ` ${formatWeight(value)}`);
  return cell;
}
