// The document view: the text of the keys, shaded by the weights of one query; only the part in view is built.

import { cssColour, makeScale, textColour } from "./colours.js";
import { element, findRange, formatWeight, rankKeys } from "./data.js";
import { clampRow, describeStep } from "./text_view.js";
import { state, update } from "./state.js";

/** @typedef {import("./data.js").Matrix} Matrix */

const CHUNK = 250; // tokens that are built together
const STRONGEST = 12;

/** @type {IntersectionObserver | null} */
let observer = null;
/** @type {Matrix | null} */
let built = null; // the matrix whose text is in the page

/** @param {Matrix} matrix */
export function showDocument(matrix) {
  const row = chooseRow(matrix);
  if (matrix !== built) buildBlocks(matrix);
  built = matrix;
  const blocks = listBlocks();
  for (const block of blocks) shadeBlock(block, matrix, row);
  showQuery(matrix, row);
  listStrongest(matrix, row, blocks);
}

/** The selected query; before one is selected the last one of a causal layer, which sees most. @param {Matrix} matrix */
function chooseRow(matrix) {
  return state.row < 0 && matrix.weights.causal ? matrix.rows.labels.length - 1 : clampRow(matrix);
}

/** @returns {HTMLElement[]} */
function listBlocks() {
  return [...element("document-text").children];
}

/** An empty paragraph for every part of the text, which is filled when it comes into view. @param {Matrix} matrix */
function buildBlocks(matrix) {
  const width = matrix.columns.labels.length;
  observer?.disconnect();
  observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const block = /** @type {HTMLElement} */ (entry.target);
      if (!entry.isIntersecting || block.childElementCount) continue;
      fillBlock(block, matrix);
      shadeBlock(block, matrix, chooseRow(matrix));
    }
  }, { rootMargin: "600px" });
  const text = element("document-text");
  const blocks = [];
  for (let start = 0; start < width; start += CHUNK) {
    const block = document.createElement("p");
    block.dataset.start = String(start);
    block.style.minHeight = `${Math.ceil((Math.min(CHUNK, width - start) * 52) / Math.max(text.clientWidth, 300)) * 28}px`;
    blocks.push(block);
  }
  text.replaceChildren(...blocks);
  for (const block of blocks) observer.observe(block);
}

/** @param {HTMLElement} block @param {Matrix} matrix */
function fillBlock(block, matrix) {
  const start = Number(block.dataset.start);
  const parts = document.createDocumentFragment();
  const hasQueries = isOneText(matrix);
  for (let i = start; i < Math.min(start + CHUNK, matrix.columns.texts.length); i++) {
    if (matrix.columns.opensWord[i] && i > start) parts.append(" ");
    const token = document.createElement("span");
    token.className = hasQueries ? "word query" : "word";
    token.dir = "auto";
    token.textContent = matrix.columns.texts[i];
    token.addEventListener("pointerenter", () => update({ row: chooseRow(matrix), column: i }));
    if (hasQueries) token.addEventListener("click", () => update({ row: i, column: -1 }));
    parts.append(token);
  }
  block.append(parts);
  block.style.minHeight = "";
}

/** Colour the tokens of a block that is filled. @param {HTMLElement} block @param {Matrix} matrix @param {number} row */
function shadeBlock(block, matrix, row) {
  const [start, width] = [Number(block.dataset.start), matrix.columns.labels.length];
  const values = matrix.values.subarray(row * width, (row + 1) * width);
  const scale = makeScale(...findRange(values));
  const selected = isOneText(matrix) ? row : -1;
  [...block.children].forEach((child, n) => {
    const token = /** @type {HTMLElement} */ (child);
    token.title = formatWeight(values[start + n]);
    token.style.backgroundColor = cssColour(scale, values[start + n]);
    token.style.color = textColour(scale, values[start + n]);
    token.classList.toggle("selected", start + n === selected);
  });
}

/** Whether every key is a query too. @param {Matrix} matrix */
function isOneText(matrix) {
  return matrix.rows.axis === matrix.columns.axis;
}

/** The query, and the slider that chooses another one. @param {Matrix} matrix @param {number} row */
function showQuery(matrix, row) {
  const slider = element("document-step");
  const isOnly = matrix.rows.labels.length < 2;
  element("document-query").hidden = isOnly;
  element("document-row").hidden = !isOnly;
  slider.max = String(matrix.rows.labels.length - 1);
  slider.value = String(row);
  element("document-step-text").textContent = describeStep(matrix, row);
  slider.setAttribute("aria-valuetext", element("document-step-text").textContent);
  element("document-hint").hidden = !isOneText(matrix);
  element("document-row").textContent = `${matrix.rows.axis.name}: ${matrix.rows.texts[row]}`;
}

/** @param {Matrix} matrix @param {number} row @param {HTMLElement[]} blocks */
function listStrongest(matrix, row, blocks) {
  const items = rankKeys(matrix, row, STRONGEST).map(({ column, value }) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.dir = "auto";
    button.textContent = `${matrix.columns.labels[column]} (${column}): ${formatWeight(value)}`;
    button.title = matrix.columns.texts[column];
    button.addEventListener("click", () => {
      blocks[Math.floor(column / CHUNK)].scrollIntoView({ block: "center" });
      update({ row, column });
    });
    item.append(button);
    return item;
  });
  element("document-strongest").replaceChildren(...items);
}
