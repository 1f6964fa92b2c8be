"use strict";
// Tables of class "sortable": a click on a heading sorts, the field above filters.

const number = (text) => parseFloat(text.replace("−", "-"));

function compare(a, b) {
  const [x, y] = [number(a), number(b)];
  if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1; // figures first
  return Number.isNaN(x) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
}

function sortBy(table, heading) {
  const ascending = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const text = (row) => row.cells[heading.cellIndex].textContent;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(text(a), text(b)) * (ascending ? 1 : -1));
  table.tBodies[0].append(...rows);
}

function filterOf(table) {
  const frame = document.createElement("div");
  frame.className = "table-filter";
  frame.innerHTML =
    '<label>Show rows with <input type="search" placeholder="words, such as: 11_audit differs"></label>' +
    '<span role="status"></span>';
  const [field, status] = [frame.querySelector("input"), frame.querySelector("[role=status]")];
  const rows = [...table.tBodies[0].rows];
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    status.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  field.addEventListener("input", show);
  show();
  return frame;
}

for (const table of document.querySelectorAll("table.sortable")) {
  const frame = document.createElement("div");
  frame.className = "sortable-frame";
  table.before(filterOf(table), frame);
  frame.append(table);
  for (const heading of table.tHead.rows[0].cells) {
    heading.tabIndex = 0;
    heading.setAttribute("role", "columnheader");
    heading.addEventListener("click", () => sortBy(table, heading));
    heading.addEventListener("keydown", (event) => {
      if (event.key === "Enter") sortBy(table, heading);
    });
  }
}
