// The data of the page: traces as Python packed them, and matrices as the views show them.

/**
 * @typedef {{name: string, labels: string[], starts: number[], special: number[],
 *   grid: {height: number, width: number, area: number[], image: string | null} | null}} Axis
 * @typedef {{name: string, rows: string, columns: string, causal: boolean, shape: number[], chunk: string,
 *   scales: number[], levels: number, signed: boolean, normalised: boolean, measures: (number | null)[][],
 *   kind: string}} Weights
 * @typedef {{title: string, axes: {[name: string]: Axis}, weights: Weights[], logProbs: number[] | null,
 *   logProbsAxis: string | null, points: number[][] | null, map: number[] | null}} Example
 * @typedef {{name: string, kind: string, examples: Example[]}} Trace
 * @typedef {{labels: string[], texts: string[], groups: number[][], opensWord: boolean[], axis: Axis}} Side
 * @typedef {{values: Float32Array, rows: Side, columns: Side, low: number, high: number, title: string,
 *   weights: Weights}} Matrix
 */

const LONGEST_LABEL = 28; // letters of a label beside a matrix; other views show the whole text

const payload = JSON.parse(/** @type {string} */ (element("qkv-data").textContent));

/** @type {Trace[]} */
export const traces = payload.traces;
/** @type {{[theme: string]: {[name: string]: any}}} */
export const themes = payload.themes;
/** @type {string[]} */
export const measureNames = payload.measures;

/** @type {Map<string, Promise<Uint8Array>>} */
const chunks = new Map();

/**
 * The element with an id.
 * @param {string} id
 * @returns {any}
 */
export function element(id) {
  return document.getElementById(id);
}

/**
 * Unpack the codes of one array of weights, once.
 * @param {Weights} weights
 * @returns {Promise<Uint8Array>}
 */
export function loadCodes(weights) {
  let codes = chunks.get(weights.chunk);
  if (!codes) {
    codes = inflate(element(weights.chunk).textContent);
    chunks.set(weights.chunk, codes);
  }
  return codes;
}

/** @param {string} text @returns {Promise<Uint8Array>} */
async function inflate(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * The value of every code of one head.
 * @param {Weights} weights @param {number} head
 * @returns {Float32Array}
 */
export function makeDecodingTable(weights, head) {
  const table = new Float32Array(256);
  const zero = weights.signed ? 128 : 0;
  for (let code = 0; code < 256; code++) {
    const root = (code - zero) / weights.levels;
    table[code] = Math.sign(root) * root * root * weights.scales[head];
  }
  return table;
}

/**
 * The weights of one head, or their mean over all heads, as [rows * columns].
 * @param {Weights} weights @param {Uint8Array} codes @param {number | "mean"} head
 * @returns {Float32Array}
 */
export function decode(weights, codes, head) {
  const [count, rows, columns] = weights.shape;
  const values = new Float32Array(rows * columns);
  const heads = head === "mean" ? [...Array(count).keys()] : [head];
  for (const h of heads) {
    const table = makeDecodingTable(weights, h);
    const start = h * rows * columns;
    for (let r = 0; r < rows; r++) {
      let sum = 0;
      const first = start + r * columns;
      if (weights.normalised) for (let c = 0; c < columns; c++) sum += table[codes[first + c]];
      const factor = (sum > 0 ? 1 / sum : 1) / heads.length;
      for (let c = 0; c < columns; c++) values[r * columns + c] += table[codes[first + c]] * factor;
    }
  }
  return values;
}

/** @param {string} text @returns {string} */
function shorten(text) {
  const letters = [...text];
  return letters.length > LONGEST_LABEL ? `${letters.slice(0, LONGEST_LABEL - 1).join("")}…` : text;
}

/**
 * The side of a matrix along an axis: tokens, or words, with or without special tokens.
 * @param {Axis} axis @param {{merge: boolean, special: boolean}} options
 * @returns {Side}
 */
export function makeSide(axis, options) {
  const count = axis.labels.length;
  const starts = new Set(axis.starts.length ? axis.starts : [...Array(count).keys()]);
  const special = new Set(options.special ? [] : axis.special);
  /** @type {number[][]} */
  const groups = [];
  /** @type {boolean[]} */
  const opensWord = [];
  let mayJoin = false;
  for (let i = 0; i < count; i++) {
    if (special.has(i)) {
      mayJoin = false;
      continue;
    }
    if (options.merge && mayJoin && !starts.has(i)) groups[groups.length - 1].push(i);
    else {
      groups.push([i]);
      opensWord.push(starts.has(i));
    }
    mayJoin = true;
  }
  const texts = groups.map((group) => group.map((i) => axis.labels[i]).join(""));
  const hasPieces = opensWord.includes(false);
  const labels = texts.map((text, i) => {
    const isMarked = hasPieces && opensWord[i] && text !== "␣" && !axis.special.includes(groups[i][0]);
    return (isMarked ? "␣" : "") + shorten(text);
  });
  return { labels, texts, groups, opensWord, axis };
}

/**
 * The matrix that a choice of layer and head shows. Keys of a word are summed, its queries averaged.
 * @param {Example} example @param {Weights} weights @param {number | "mean"} head
 * @param {{merge: boolean, special: boolean}} options
 * @returns {Promise<Matrix>}
 */
export async function loadMatrix(example, weights, head, options) {
  const values = decode(weights, await loadCodes(weights), head);
  const columns = weights.shape[2];
  const rowSide = makeSide(example.axes[weights.rows], options);
  const columnSide = makeSide(example.axes[weights.columns], options);
  const merged = mergeValues(values, columns, rowSide.groups, columnSide.groups);
  const [low, high] = findRange(merged);
  const heads = weights.shape[0];
  const name = head === "mean" ? (heads > 1 ? `mean of ${heads} heads` : "head 0") : `head ${head}`;
  const title = `${weights.name}, ${name}`;
  return { values: merged, rows: rowSide, columns: columnSide, low, high, title, weights };
}

/**
 * The lowest (at most 0) and highest value.
 * @param {Float32Array} values
 * @returns {[number, number]}
 */
export function findRange(values) {
  let low = 0;
  let high = 0;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

/**
 * @param {Float32Array} values @param {number} width @param {number[][]} rows @param {number[][]} columns
 * @returns {Float32Array}
 */
function mergeValues(values, width, rows, columns) {
  if (rows.length * width === values.length && columns.length === width) return values;
  const merged = new Float32Array(rows.length * columns.length);
  rows.forEach((rowGroup, r) => {
    columns.forEach((columnGroup, c) => {
      let sum = 0;
      for (const row of rowGroup) for (const column of columnGroup) sum += values[row * width + column];
      merged[r * columns.length + c] = sum / rowGroup.length;
    });
  });
  return merged;
}

/**
 * The difference of two matrices of one shape: the second minus the first.
 * @param {Matrix} first @param {Matrix} second
 * @returns {Matrix | null}
 */
export function subtract(first, second) {
  const isSame = first.rows.labels.length === second.rows.labels.length &&
    first.columns.labels.length === second.columns.labels.length;
  if (!isSame) return null;
  const values = second.values.map((value, i) => value - first.values[i]);
  const [low, high] = findRange(values);
  return { ...first, values, low, high, title: `${second.title} (B) minus ${first.title} (A)` };
}

/**
 * The strongest keys of a row.
 * @param {Matrix} matrix @param {number} row @param {number} count
 * @returns {{column: number, value: number}[]}
 */
export function rankKeys(matrix, row, count) {
  const width = matrix.columns.labels.length;
  const entries = [];
  for (let column = 0; column < width; column++) {
    entries.push({ column, value: matrix.values[row * width + column] });
  }
  return entries.sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, count);
}

/** @param {number} value @returns {string} */
export function formatWeight(value) {
  const size = Math.abs(value);
  const text = size === 0 ? "0" : size < 0.001 ? value.toExponential(1) : value.toFixed(3);
  return text.replaceAll("-", "−");
}
