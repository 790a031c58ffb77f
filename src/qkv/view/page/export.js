// Export: the matrix as a picture (PNG, SVG) or as numbers (CSV).

import { cssColour, makeScale, paintWeights, palette } from "./colours.js";

/** @typedef {import("./data.js").Matrix} Matrix */

const CELL = 16; // pixels of a cell; smaller for large matrices
const LARGEST = 4096; // pixels of all cells along one side
const FONT = 11;
const MARGIN = 12;

/**
 * @param {Matrix} matrix @param {string} format @param {number} low @param {number} high
 */
export async function exportMatrix(matrix, format, low, high) {
  const name = matrix.title.replace(/[^A-Za-z0-9.]+/g, "-").replace(/^-|-$/g, "");
  if (format === "csv") save(`${name}.csv`, new Blob([writeCsv(matrix)], { type: "text/csv" }));
  else if (format === "svg") save(`${name}.svg`, new Blob([writeSvg(matrix, low, high)], { type: "image/svg+xml" }));
  else save(`${name}.png`, await drawPng(matrix, low, high));
}

/** @param {string} name @param {Blob} blob */
function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** @param {Matrix} matrix @returns {string} */
export function writeCsv(matrix) {
  // A spreadsheet would run a cell that begins with one of these characters as a formula.
  const quote = (/** @type {string} */ text) => `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
  const width = matrix.columns.texts.length;
  const lines = [["", ...matrix.columns.texts].map(quote).join(",")];
  matrix.rows.texts.forEach((text, r) => {
    const values = matrix.values.subarray(r * width, (r + 1) * width);
    lines.push([quote(text), ...Array.from(values, (value) => String(Number(value.toPrecision(4))))].join(","));
  });
  return `${lines.join("\r\n")}\r\n`;
}

/** Sizes that both pictures share. @param {Matrix} matrix */
function layOut(matrix) {
  const context = /** @type {CanvasRenderingContext2D} */ (document.createElement("canvas").getContext("2d"));
  context.font = `${FONT}px sans-serif`;
  const measure = (/** @type {string[]} */ labels) =>
    labels.reduce((most, label) => Math.max(most, context.measureText(label).width), 0);
  const [rows, columns] = [matrix.rows.labels, matrix.columns.labels];
  const cell = Math.min(CELL, LARGEST / Math.max(rows.length, columns.length));
  const hasLabels = cell >= FONT;
  const left = MARGIN + (hasLabels ? Math.ceil(measure(rows)) + 6 : 0);
  const top = MARGIN + FONT + 10 + (hasLabels ? Math.ceil(measure(columns)) + 6 : 0);
  const width = Math.ceil(left + columns.length * cell + MARGIN);
  const height = Math.ceil(top + rows.length * cell + MARGIN);
  return { cell, hasLabels, left, top, height, width: Math.max(width, Math.ceil(context.measureText(matrix.title).width) + 2 * MARGIN) };
}

/** @param {Matrix} matrix @param {number} low @param {number} high @returns {Promise<Blob>} */
function drawPng(matrix, low, high) {
  const { cell, hasLabels, left, top, width, height } = layOut(matrix);
  const factor = Math.max(width, height) > 2500 ? 1 : 2;
  const canvas = document.createElement("canvas");
  canvas.width = width * factor;
  canvas.height = height * factor;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.scale(factor, factor);
  const theme = palette();
  context.fillStyle = theme.paper;
  context.fillRect(0, 0, width, height);
  const [rows, columns] = [matrix.rows.labels, matrix.columns.labels];
  context.imageSmoothingEnabled = false;
  const pixels = paintWeights(matrix.values, rows.length, columns.length, makeScale(low, high));
  context.drawImage(pixels, left, top, columns.length * cell, rows.length * cell);
  context.strokeStyle = theme.frame;
  context.strokeRect(left - 0.5, top - 0.5, columns.length * cell + 1, rows.length * cell + 1);
  context.fillStyle = theme.ink;
  context.font = `${FONT}px sans-serif`;
  context.fillText(matrix.title, MARGIN, MARGIN + FONT - 2);
  context.textBaseline = "middle";
  if (hasLabels) {
    context.textAlign = "right";
    rows.forEach((label, r) => context.fillText(label, left - 5, top + (r + 0.5) * cell));
    context.textAlign = "left";
    columns.forEach((label, c) => {
      context.save();
      context.translate(left + (c + 0.5) * cell, top - 5);
      context.rotate(-Math.PI / 2);
      context.fillText(label, 0, 0);
      context.restore();
    });
  }
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the picture is too large for this browser"))));
  });
}

/** @param {Matrix} matrix @param {number} low @param {number} high @returns {string} */
export function writeSvg(matrix, low, high) {
  const { cell, hasLabels, left, top, width, height } = layOut(matrix);
  const [theme, scale] = [palette(), makeScale(low, high)];
  const [rows, columns] = [matrix.rows.labels, matrix.columns.labels];
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="${FONT}" fill="${theme.ink}">`,
    `<rect width="100%" height="100%" fill="${theme.paper}"/>`,
    `<text x="${MARGIN}" y="${MARGIN + FONT - 2}">${escape(matrix.title)}</text>`,
  ];
  if (rows.length * columns.length <= 40000) {
    matrix.values.forEach((value, i) => {
      const [x, y] = [left + (i % columns.length) * cell, top + Math.floor(i / columns.length) * cell];
      parts.push(`<rect x="${round(x)}" y="${round(y)}" width="${round(cell)}" height="${round(cell)}" fill="${cssColour(scale, value)}"/>`);
    });
  } else {
    const pixels = paintWeights(matrix.values, rows.length, columns.length, scale).toDataURL("image/png");
    parts.push(`<image x="${left}" y="${top}" width="${round(columns.length * cell)}" height="${round(rows.length * cell)}" preserveAspectRatio="none" style="image-rendering:pixelated" href="${pixels}"/>`);
  }
  if (hasLabels) {
    rows.forEach((label, r) => parts.push(`<text x="${left - 5}" y="${round(top + (r + 0.5) * cell + 4)}" text-anchor="end">${escape(label)}</text>`));
    columns.forEach((label, c) => parts.push(`<text transform="translate(${round(left + (c + 0.5) * cell + 4)} ${top - 5}) rotate(-90)">${escape(label)}</text>`));
  }
  return `${parts.join("\n")}\n</svg>\n`;
}

/** @param {string} text */
function escape(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

/** @param {number} length */
function round(length) {
  return Math.round(length * 100) / 100;
}
