// Colours: the scale from weights to colours, and the theme of the page.

import { themes } from "./data.js";

/** @typedef {{low: number, high: number, bytes: Uint8ClampedArray}} Scale */

const STEPS = 256;

/** @returns {"light" | "dark"} */
export function currentTheme() {
  const chosen = document.documentElement.dataset.theme;
  if (chosen === "light" || chosen === "dark") return chosen;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** The colours of the current theme. */
export function palette() {
  return themes[currentTheme()];
}

/** @param {string} colour @returns {number[]} */
function parseColour(colour) {
  return [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
}

/**
 * The colour at a position of a list of colours that are evenly spaced from 0 to 1.
 * @param {string[]} stops @param {number} position
 * @returns {number[]}
 */
function interpolate(stops, position) {
  const place = Math.min(Math.max(position, 0), 1) * (stops.length - 1);
  const index = Math.min(Math.floor(place), stops.length - 2);
  const [a, b] = [parseColour(stops[index]), parseColour(stops[index + 1])];
  return a.map((value, i) => value + (b[i] - value) * (place - index));
}

/**
 * The scale between two weights. Weights of equal size and opposite sign have colours of equal strength.
 * @param {number} low at most 0 @param {number} high at least 0
 * @returns {Scale}
 */
export function makeScale(low, high) {
  const theme = palette();
  const limit = Math.max(high, -low) || 1;
  const isSigned = low < -1e-3 * high;
  const bytes = new Uint8ClampedArray(STEPS * 3);
  for (let i = 0; i < STEPS; i++) {
    const value = isSigned ? (2 * i) / (STEPS - 1) - 1 : i / (STEPS - 1);
    const stops = value < 0 ? [theme.paper, ...theme.falling] : [theme.paper, ...theme.rising];
    interpolate(stops, Math.abs(value)).forEach((part, channel) => (bytes[3 * i + channel] = part));
  }
  return { low: isSigned ? -limit : 0, high: limit, bytes };
}

/**
 * The index of a weight's colour.
 * @param {Scale} scale @param {number} value
 */
export function colourIndex(scale, value) {
  const place = Math.round(((value - scale.low) / (scale.high - scale.low)) * (STEPS - 1));
  return 3 * Math.min(Math.max(place, 0), STEPS - 1);
}

/**
 * A weight's colour for CSS.
 * @param {Scale} scale @param {number} value
 */
export function cssColour(scale, value) {
  const i = colourIndex(scale, value);
  return `rgb(${scale.bytes[i]},${scale.bytes[i + 1]},${scale.bytes[i + 2]})`;
}

/**
 * The colour of text that is legible on a weight's colour.
 * @param {Scale} scale @param {number} value
 */
export function textColour(scale, value) {
  const i = colourIndex(scale, value);
  const [red, green, blue] = [0, 1, 2].map((channel) => (scale.bytes[i + channel] / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 ? "#101418" : "#ffffff";
}

/**
 * A picture with one pixel for every weight.
 * @param {Float32Array} values @param {number} rows @param {number} columns @param {Scale} scale
 * @returns {HTMLCanvasElement}
 */
export function paintWeights(values, rows, columns, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(columns, rows);
  for (let i = 0; i < values.length; i++) {
    const colour = colourIndex(scale, values[i]);
    image.data[4 * i] = scale.bytes[colour];
    image.data[4 * i + 1] = scale.bytes[colour + 1];
    image.data[4 * i + 2] = scale.bytes[colour + 2];
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
