// Sort a table by the column whose heading is clicked. Cells without a value stay last; numbers are in data-value.
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

// Take the charts' colors from the style sheet, for the scheme that is in force.
function paint(charts) {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  const soft = color("soft"), ink = color("ink"), rule = color("rule");
  const font = "system-ui, sans-serif";
  const note = { text_color: soft, text_font_size: "12px", text_font: font };
  const heading = { ...note, text_color: ink };
  const tick = { ...heading, background_fill_color: color("card"), background_fill_alpha: 0.8, padding: 2 };
  const inks = { axis: { line_color: soft }, note, heading, tick };
  for (const chart of charts) {
    for (const axis of [...chart.above, ...chart.below, ...chart.left, ...chart.right]) {
      if (!("axis_label_text_color" in axis)) continue;
      axis.setv({
        axis_label_text_color: soft, axis_label_text_font: font, axis_label_text_font_style: "normal",
        axis_label_text_font_size: "12px", major_label_text_color: soft, major_label_text_font: font,
        major_label_text_font_size: "11px", axis_line_color: soft, major_tick_line_color: soft, minor_tick_line_color: null,
      });
    }
    for (const grid of chart.center) if ("grid_line_color" in grid) grid.grid_line_color = rule;
    for (const { name, glyph, data_source } of chart.renderers) {
      if (name !== "runs") {
        glyph.setv(inks[name]);
        continue;
      }
      const colors = [...data_source.data.hue].map((hue) => (hue < 0 ? soft : color(`hue-${hue}`)));
      data_source.data = { ...data_source.data, color: colors };
      glyph[glyph.type === "MultiLine" ? "line_color" : "fill_color"] = { field: "color" };
    }
  }
}

// Fade the other runs in every chart and legend while the pointer is over one.
function focusOn(charts, rank) {
  for (const chart of charts) {
    for (const { name, data_source } of chart.renderers) {
      const { data } = data_source;
      if (name !== "runs" || !data.rank) continue;
      data.full ??= [...data.strength];
      data_source.data = {
        ...data,
        strength: [...data.rank].map((of, row) => data.full[row] * (rank === undefined || of === rank ? 1 : 0.1)),
      };
    }
  }
}

async function drawCharts() {
  Bokeh.logger.set_level("warn");
  const items = [...document.querySelectorAll(".chart")].map((box) => {
    const item = JSON.parse(box.querySelector("script").textContent);
    return Bokeh.embed.embed_item(item, box);
  });
  const charts = (await Promise.all(items)).map((views) => views.roots[0].model);
  // On a touch screen a finger on a chart scrolls the page, until a tool is picked.
  if (matchMedia("(pointer: coarse)").matches) for (const chart of charts) chart.toolbar.active_drag = null;
  paint(charts);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => paint(charts));
  let focused;
  document.addEventListener("pointerover", ({ target }) => {
    const named = target.closest("[data-run]");
    const rank = named ? Number(named.dataset.run) : undefined;
    if (rank !== focused) focusOn(charts, (focused = rank));
  });
  document.documentElement.dataset.charts = "drawn";
}
if (globalThis.Bokeh) drawCharts();
