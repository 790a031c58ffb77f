// The table: the strongest keys of every query, for screen readers and for reading numbers.

import { element, formatWeight, rankKeys } from "./data.js";

const STRONGEST = 5;
const MOST_ROWS = 400;

/** @param {import("./data.js").Matrix} matrix */
export function showTable(matrix) {
  const count = matrix.rows.labels.length;
  const note = count > MOST_ROWS ? ` The first ${MOST_ROWS} of ${count} queries.` : "";
  element("table-caption").textContent =
    `${matrix.title}: the strongest keys (${matrix.columns.axis.name}) of every query (${matrix.rows.axis.name}).${note}`;
  const lines = matrix.rows.texts.slice(0, MOST_ROWS).map((text, row) => {
    const line = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.dir = "auto";
    name.textContent = text;
    line.append(name);
    for (const { column, value } of rankKeys(matrix, row, STRONGEST)) {
      const cell = document.createElement("td");
      const word = document.createElement("bdi");
      word.textContent = matrix.columns.texts[column];
      cell.append(word, ` ${formatWeight(value)}`);
      line.append(cell);
    }
    return line;
  });
  element("table-rows").replaceChildren(...lines);
}
