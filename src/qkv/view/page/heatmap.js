// A heat map on a canvas: labels that stay in view, zoom and pan, and the selected row and column.

import { makeScale, paintWeights, palette } from "./colours.js";

/** @typedef {import("./data.js").Matrix} Matrix */

const FONT = 12;
const LABEL_SHARE = 0.3; // of the canvas that labels may take
const SMALLEST_CELL = 0.5;

export class HeatMap {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {(row: number, column: number) => void} onSelect is called with the cell under the pointer
   */
  constructor(canvas, onSelect) {
    this.canvas = canvas;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    this.onSelect = onSelect;
    /** @type {Matrix | null} */
    this.matrix = null;
    this.row = -1;
    this.column = -1;
    this.zoom = 1;
    this.offset = { x: 0, y: 0 };
    this.area = { left: 0, top: 0, width: 0, height: 0, cell: 1 };
    this.listen();
  }

  /**
   * Show a matrix. The zoom stays where the shape stays.
   * @param {Matrix} matrix @param {number} low @param {number} high
   */
  show(matrix, low, high) {
    const before = this.matrix;
    const isSameShape = before && before.rows.labels.length === matrix.rows.labels.length &&
      before.columns.labels.length === matrix.columns.labels.length;
    this.matrix = matrix;
    this.scale = makeScale(low, high);
    this.pixels = paintWeights(matrix.values, matrix.rows.labels.length, matrix.columns.labels.length, this.scale);
    if (!isSameShape) this.resetZoom();
    this.draw();
  }

  resetZoom() {
    this.zoom = 1;
    this.offset = { x: 0, y: 0 };
  }

  /** @param {number} row @param {number} column */
  select(row, column) {
    if (row === this.row && column === this.column) return;
    this.row = row;
    this.column = column;
    this.draw();
  }

  /**
   * Zoom about a point of the canvas.
   * @param {number} factor @param {{x: number, y: number} | null} point null is the centre
   */
  zoomBy(factor, point = null) {
    const { left, top, width, height } = this.area;
    const centre = point ?? { x: left + width / 2, y: top + height / 2 };
    const zoom = Math.min(Math.max(this.zoom * factor, 1), 200);
    const ratio = zoom / this.zoom;
    this.offset.x = (this.offset.x + centre.x - left) * ratio - (centre.x - left);
    this.offset.y = (this.offset.y + centre.y - top) * ratio - (centre.y - top);
    this.zoom = zoom;
    this.draw();
  }

  /** Scroll so that the selected cell is in view. */
  reveal() {
    const { width, height, cell } = this.area;
    const x = (this.column + 0.5) * cell;
    const y = (this.row + 0.5) * cell;
    if (x < this.offset.x + cell || x > this.offset.x + width - cell) this.offset.x = x - width / 2;
    if (y < this.offset.y + cell || y > this.offset.y + height - cell) this.offset.y = y - height / 2;
    this.draw();
  }

  draw() {
    const matrix = this.matrix;
    if (!matrix || !this.canvas.clientWidth) return;
    this.layOut(matrix);
    const { context, area } = this;
    const theme = palette();
    context.fillStyle = theme.paper;
    context.fillRect(0, 0, this.canvas.clientWidth, this.canvas.clientHeight);
    context.save();
    context.beginPath();
    context.rect(area.left, area.top, area.width, area.height);
    context.clip();
    context.imageSmoothingEnabled = false;
    const pixels = /** @type {HTMLCanvasElement} */ (this.pixels);
    const [x, y] = [area.left - this.offset.x, area.top - this.offset.y];
    context.drawImage(pixels, x, y, pixels.width * area.cell, pixels.height * area.cell);
    if (area.cell >= 10) this.drawLines(matrix, x, y);
    this.drawSelection(matrix, x, y);
    context.restore();
    context.strokeStyle = theme.frame;
    context.lineWidth = 1;
    context.strokeRect(area.left - 0.5, area.top - 0.5, area.width + 1, area.height + 1);
    this.drawLabels(matrix);
  }

  /** @param {Matrix} matrix */
  layOut(matrix) {
    const { canvas, context } = this;
    const width = canvas.clientWidth;
    const ratio = window.devicePixelRatio || 1;
    const [rows, columns] = [matrix.rows.labels.length, matrix.columns.labels.length];
    context.font = `${FONT}px system-ui, sans-serif`;
    const left = Math.ceil(Math.min(measure(context, matrix.rows.labels), width * LABEL_SHARE)) + 8;
    const label = Math.min(measure(context, matrix.columns.labels), width * LABEL_SHARE);
    const fitted = Math.min((width - left - 2) / columns, 40);
    const isFlat = label + 6 <= fitted;
    this.isFlat = isFlat;
    const beyond = isFlat ? 0 : Math.min(label * 0.75, 60);
    const cellToFit = Math.min((width - left - 2 - (columns < 60 ? beyond : 0)) / columns, 40);
    const top = Math.ceil(isFlat ? FONT + 8 : label * 0.78 + FONT) + 6;
    const limit = Math.max(320, Math.min(window.innerHeight * 0.72, 900));
    const cell = Math.max(SMALLEST_CELL, Math.min(cellToFit, Math.max((limit - top) / rows, 14))) * this.zoom;
    const height = Math.min(limit, top + rows * cell + 2);
    if (canvas.style.height !== `${Math.round(height)}px`) canvas.style.height = `${Math.round(height)}px`;
    const [pixelWidth, pixelHeight] = [Math.round(width * ratio), Math.round(Math.round(height) * ratio)];
    if (canvas.width !== pixelWidth || canvas.height !== pixelHeight) {
      canvas.width = pixelWidth;
      canvas.height = pixelHeight;
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.font = `${FONT}px system-ui, sans-serif`;
    const area = {
      left, top, cell,
      width: Math.min(columns * cell, width - left - 1),
      height: Math.min(rows * cell, Math.round(height) - top - 1),
    };
    this.area = area;
    this.offset.x = Math.min(Math.max(this.offset.x, 0), Math.max(columns * cell - area.width, 0));
    this.offset.y = Math.min(Math.max(this.offset.y, 0), Math.max(rows * cell - area.height, 0));
  }

  /**
   * Lines between cells, darker ones between words.
   * @param {Matrix} matrix @param {number} x @param {number} y
   */
  drawLines(matrix, x, y) {
    const { context, area } = this;
    const theme = palette();
    const [rows, columns] = [matrix.rows, matrix.columns];
    context.lineWidth = 1;
    for (const isWord of [false, true]) {
      context.strokeStyle = isWord ? theme.word : theme.cell;
      context.beginPath();
      for (let c = 1; c < columns.labels.length; c++) {
        if ((columns.opensWord[c] && columns.opensWord.includes(false)) !== isWord) continue;
        const at = Math.round(x + c * area.cell) + 0.5;
        context.moveTo(at, area.top);
        context.lineTo(at, area.top + area.height);
      }
      for (let r = 1; r < rows.labels.length; r++) {
        if ((rows.opensWord[r] && rows.opensWord.includes(false)) !== isWord) continue;
        const at = Math.round(y + r * area.cell) + 0.5;
        context.moveTo(area.left, at);
        context.lineTo(area.left + area.width, at);
      }
      context.stroke();
    }
  }

  /** @param {Matrix} matrix @param {number} x @param {number} y */
  drawSelection(matrix, x, y) {
    const { context, area } = this;
    context.strokeStyle = palette().accent;
    context.lineWidth = 1.5;
    if (this.row >= 0 && this.row < matrix.rows.labels.length) {
      context.strokeRect(x - 2, y + this.row * area.cell, matrix.columns.labels.length * area.cell + 4, Math.max(area.cell, 2));
    }
    if (this.column >= 0 && this.column < matrix.columns.labels.length) {
      context.strokeRect(x + this.column * area.cell, y - 2, Math.max(area.cell, 2), matrix.rows.labels.length * area.cell + 4);
    }
  }

  /** @param {Matrix} matrix */
  drawLabels(matrix) {
    const { context, area } = this;
    const theme = palette();
    const step = Math.ceil((FONT + 3) / area.cell);
    context.textBaseline = "middle";
    const rowLabels = matrix.rows.labels;
    for (const r of visible(this.offset.y, area.height, area.cell, rowLabels.length, step, this.row)) {
      context.fillStyle = r === this.row ? theme.accent : theme.ink;
      context.textAlign = "right";
      const y = area.top - this.offset.y + (r + 0.5) * area.cell;
      context.fillText(fit(context, rowLabels[r], area.left - 8), area.left - 6, y);
    }
    const columnLabels = matrix.columns.labels;
    const columnStep = this.isFlat ? 1 : step;
    for (const c of visible(this.offset.x, area.width, area.cell, columnLabels.length, columnStep, this.column)) {
      context.fillStyle = c === this.column ? theme.accent : theme.ink;
      context.save();
      context.translate(area.left - this.offset.x + (c + 0.5) * area.cell, area.top - (this.isFlat ? 12 : 6));
      if (!this.isFlat) context.rotate(-Math.PI / 4);
      context.textAlign = this.isFlat ? "center" : "left";
      context.fillText(fit(context, columnLabels[c], this.isFlat ? 200 : (area.top - FONT) / 0.78), 0, 0);
      context.restore();
    }
  }

  /**
   * The cell at a point of the page, or null outside of the matrix.
   * @param {{clientX: number, clientY: number}} event
   * @returns {{row: number, column: number} | null}
   */
  findCell(event) {
    const box = this.canvas.getBoundingClientRect();
    const { left, top, width, height, cell } = this.area;
    const [x, y] = [event.clientX - box.left - left, event.clientY - box.top - top];
    if (x < 0 || y < 0 || x >= width || y >= height) return null;
    return { row: Math.floor((y + this.offset.y) / cell), column: Math.floor((x + this.offset.x) / cell) };
  }

  listen() {
    const { canvas } = this;
    /** @type {{x: number, y: number} | null} */
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (this.zoom > 1) {
        drag = { x: event.clientX + this.offset.x, y: event.clientY + this.offset.y };
        canvas.setPointerCapture(event.pointerId);
      }
    });
    canvas.addEventListener("pointerup", () => (drag = null));
    canvas.addEventListener("pointermove", (event) => {
      if (drag) {
        this.offset = { x: drag.x - event.clientX, y: drag.y - event.clientY };
        this.draw();
        return;
      }
      const cell = this.findCell(event);
      if (cell) this.onSelect(cell.row, cell.column);
    });
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && this.zoom === 1 && !event.shiftKey) return;
      event.preventDefault();
      const box = canvas.getBoundingClientRect();
      const point = { x: event.clientX - box.left, y: event.clientY - box.top };
      this.zoomBy(Math.exp(-event.deltaY / 300), point);
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => {
      const box = canvas.getBoundingClientRect();
      this.zoomBy(2, { x: event.clientX - box.left, y: event.clientY - box.top });
    });
  }
}

/** @param {CanvasRenderingContext2D} context @param {string[]} labels */
function measure(context, labels) {
  let longest = 0;
  const step = Math.ceil(labels.length / 400);
  for (let i = 0; i < labels.length; i += step) {
    longest = Math.max(longest, context.measureText(labels[i]).width);
  }
  return longest;
}

/** @param {CanvasRenderingContext2D} context @param {string} text @param {number} width */
function fit(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let length = text.length;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > width) length--;
  return `${text.slice(0, length)}…`;
}

/**
 * The positions whose labels are written: every `step`-th in view, without those that the selected label covers.
 * @param {number} offset @param {number} length @param {number} cell @param {number} count
 * @param {number} step @param {number} selected
 */
function visible(offset, length, cell, count, step, selected) {
  const positions = [];
  const first = Math.max(Math.floor(offset / cell), 0);
  const last = Math.min(Math.ceil((offset + length) / cell), count);
  const isVisible = selected >= first && selected < last;
  for (let i = Math.ceil(first / step) * step; i < last; i += step) {
    const centre = (i + 0.5) * cell - offset;
    const isCovered = isVisible && i !== selected && Math.abs(i - selected) < step;
    if (centre >= 0 && centre <= length && !isCovered) positions.push(i);
  }
  if (isVisible && !positions.includes(selected)) positions.push(selected);
  return positions;
}
