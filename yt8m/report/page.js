// A heading's button sorts its table; cells without a value stay last. Numbers lie in data-value.
for (const button of document.querySelectorAll(".sortable button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const body = button.closest("table").tBodies[0];
    const column = heading.cellIndex;
    const sign = heading.ariaSort === "ascending" ? -1 : 1;
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.ariaSort = sign > 0 ? "ascending" : "descending";
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const compare = (a, b) =>
      (a === "") - (b === "") || sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
    body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
  });
}

// A pointer over a run, in the table, the legend or a chart, makes the other runs fade everywhere.
const rank = (target) => {
  const named = target.closest("[data-run]");
  if (named) return named.dataset.run;
  return /run-(\d+)/.exec(target.closest(".run")?.getAttribute("class") ?? "")?.[1];
};
document.addEventListener("pointerover", ({ target }) => {
  const run = rank(target);
  for (const lit of document.querySelectorAll(".lit")) lit.classList.remove("lit");
  document.body.classList.toggle("focus", run !== undefined);
  if (run !== undefined) for (const one of document.querySelectorAll(`.run-${run}`)) one.classList.add("lit");
});
