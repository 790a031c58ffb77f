// The state of the page, which the hash of its address holds.

import { traces } from "./data.js";

/**
 * @typedef {{view: string, trace: number, example: number, layer: string, head: string, merge: boolean,
 *   special: boolean, row: number, column: number, compare: string, traceB: number, layerB: string,
 *   headB: string, sort: string, overlay: string, scale: string, theme: string}} State
 */

export const VIEWS = ["matrix", "text", "wall", "document", "image", "table"];
const LONG = 1000; // tokens; more do not fit beside a matrix

/** @type {State} */
const DEFAULTS = {
  view: chooseView(), trace: 0, example: 0, layer: "", head: "mean", merge: false, special: true, row: -1,
  column: -1, compare: "none", traceB: Math.min(1, traces.length - 1), layerB: "", headB: "mean",
  sort: "layer", overlay: "smooth", scale: "largest", theme: "auto",
};

/** @type {State} */
export const state = { ...DEFAULTS };

/** @type {((changed: string[]) => void)[]} */
const listeners = [];

/** @param {(changed: string[]) => void} listener */
export function onChange(listener) {
  listeners.push(listener);
}

/**
 * Change the state, write it to the address, and draw again.
 * @param {Partial<State>} changes
 */
export function update(changes) {
  const changed = Object.entries(changes).filter(([name, value]) => state[/** @type {keyof State} */ (name)] !== value);
  if (!changed.length) return;
  Object.assign(state, changes);
  complete();
  const hash = formatHash();
  // In the frame of a notebook the address cannot change.
  if (location.protocol !== "about:" && location.hash.slice(1) !== hash) history.replaceState(null, "", `#${hash}`);
  for (const listener of listeners) listener(changed.map(([name]) => name));
}

/** Read the state from the address. */
export function restore() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const values = /** @type {any} */ ({ ...DEFAULTS });
  for (const [name, fallback] of Object.entries(DEFAULTS)) {
    const text = parameters.get(name);
    if (text === null) continue;
    if (typeof fallback === "boolean") values[name] = text === "1";
    else if (typeof fallback === "number") values[name] = Number.isInteger(Number(text)) ? Number(text) : fallback;
    else values[name] = text;
  }
  Object.assign(state, values);
  complete();
  for (const listener of listeners) listener(Object.keys(DEFAULTS));
}

/** @returns {string} */
function formatHash() {
  const parts = new URLSearchParams();
  for (const [name, fallback] of Object.entries(DEFAULTS)) {
    const value = state[/** @type {keyof State} */ (name)];
    if (value !== fallback) parts.set(name, typeof value === "boolean" ? String(Number(value)) : String(value));
  }
  return parts.toString();
}

/** Replace choices that the traces do not have. */
function complete() {
  if (!VIEWS.includes(state.view)) state.view = DEFAULTS.view;
  if (!traces[state.trace]) state.trace = 0;
  if (!traces[state.traceB]) state.traceB = 0;
  if (!currentExample().weights.length) return;
  if (!traces[state.trace].examples[state.example]) state.example = 0;
  if (!findWeights(currentExample(), state.layer)) state.layer = chooseLayer(currentExample());
  if (!findWeights(exampleB(), state.layerB)) {
    state.layerB = findWeights(exampleB(), state.layer) ? state.layer : chooseLayer(exampleB());
  }
  state.head = validHead(state.head, currentWeights().shape[0]);
  state.headB = validHead(state.headB, weightsB()?.shape[0] ?? 0);
}

/** @param {string} head @param {number} count */
function validHead(head, count) {
  return /^\d+$/.test(head) && Number(head) < count ? head : "mean";
}

/**
 * The last layer between two axes that is not causal, or the last of all.
 * @param {import("./data.js").Example} example
 */
function chooseLayer(example) {
  const layers = example.weights.filter((weights) => weights.kind === "attention");
  const cross = layers.filter((weights) => weights.rows !== weights.columns && !weights.causal);
  return (cross.at(-1) ?? layers.at(-1) ?? example.weights[0])?.name ?? "";
}

/** The view that the page opens with: pictures and long texts are no matrices that one can read. */
function chooseView() {
  const example = traces[0]?.examples[0];
  const weights = example && findWeights(example, chooseLayer(example));
  if (!weights) return "matrix";
  const keys = example.axes[weights.columns];
  if (keys.grid?.image) return "image";
  return keys.labels.length > LONG ? "document" : "matrix";
}

/** @param {import("./data.js").Example} example @param {string} name */
export function findWeights(example, name) {
  return example.weights.find((weights) => weights.name === name);
}

export function currentExample() {
  const examples = traces[state.trace].examples;
  return examples[state.example] ?? examples[0];
}

export function exampleB() {
  const examples = traces[state.traceB].examples;
  return examples[state.example] ?? examples[0];
}

export function currentWeights() {
  return /** @type {import("./data.js").Weights} */ (findWeights(currentExample(), state.layer));
}

export function weightsB() {
  return /** @type {import("./data.js").Weights} */ (findWeights(exampleB(), state.layerB));
}

/** @param {string} head @returns {number | "mean"} */
export function parseHead(head) {
  return head === "mean" ? "mean" : Number(head);
}
