// The document view: the text of the keys, shaded by the weights of one query; only the part in view is built.

import { cssColour, makeScale, textColour } from "./colours.js";
import { element, findRange, formatWeight, rankKeys } from "./data.js";
import { clampRow } from "./text_view.js";
import { update } from "./state.js";

/** @typedef {import("./data.js").Matrix} Matrix */

const CHUNK = 250; // tokens that are built together
const STRONGEST = 12;

/** @type {IntersectionObserver | null} */
let observer = null;

/** @param {Matrix} matrix */
export function showDocument(matrix) {
  const row = clampRow(matrix);
  const width = matrix.columns.labels.length;
  const values = matrix.values.subarray(row * width, (row + 1) * width);
  const scale = makeScale(...findRange(values));
  observer?.disconnect();
  observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const block = /** @type {HTMLElement} */ (entry.target);
      if (entry.isIntersecting && !block.childElementCount) fillBlock(block, matrix, values, scale);
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
  listStrongest(matrix, row, blocks);
}

/**
 * @param {HTMLElement} block @param {Matrix} matrix @param {Float32Array} values
 * @param {import("./colours.js").Scale} scale
 */
function fillBlock(block, matrix, values, scale) {
  const start = Number(block.dataset.start);
  const parts = document.createDocumentFragment();
  for (let i = start; i < Math.min(start + CHUNK, values.length); i++) {
    if (matrix.columns.opensWord[i] && i > start) parts.append(" ");
    const token = document.createElement("span");
    token.className = "word";
    token.dir = "auto";
    token.textContent = matrix.columns.texts[i];
    token.title = formatWeight(values[i]);
    token.style.backgroundColor = cssColour(scale, values[i]);
    token.style.color = textColour(scale, values[i]);
    token.addEventListener("pointerenter", () => update({ column: i }));
    parts.append(token);
  }
  block.append(parts);
  block.style.minHeight = "";
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
      update({ column });
    });
    item.append(button);
    return item;
  });
  element("document-strongest").replaceChildren(...items);
  element("document-row").textContent = `${matrix.rows.axis.name}: ${matrix.rows.texts[row]}`;
}
