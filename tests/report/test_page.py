"""The report's page: its text, and how it looks and works in a browser, wide and narrow, light and dark."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.browser import console_of, needs_browser, open_page, probe
from tests.report.run_folder import write_run
from yt8m.labels import ClassInfo
from yt8m.metrics import MAP
from yt8m.report.leaderboard import Leaderboard
from yt8m.report.page import render
from yt8m.report.per_class import ClassCounts, ClassStats
from yt8m.report.runs import find_runs

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
CONFIG = "model: {{_target_: yt8m.models.{model}.X}}\noptimizer: {{_target_: torch.optim.Adam, lr: {lr}}}\n"


def class_stats() -> ClassStats:
    rng = np.random.default_rng(0)
    verticals = [("Games",), ("Pets & Animals",), ("Games", "Food"), ()]
    classes = [ClassInfo(n, f"class number {n} of a long name", verticals[n % 4]) for n in range(60)]
    scores = torch.from_numpy(rng.random((300, 60), dtype=np.float32))
    labels = torch.from_numpy(rng.random((300, 60)) < 0.05)
    counts, genres = ClassCounts(60), MAP()
    counts.update(scores, labels)
    genres.update(scores[:, :3], labels[:, :3])
    return counts.stats(classes, genres)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Fourteen runs of a sweep, with one that failed, one unreadable, and names that try to be scripts."""
    folder = tmp_path_factory.mktemp("page")
    for number in range(14):
        model, lr = ("nn", "nn_stream_lstm")[number % 2], 0.0005 * (1 + number // 2)
        metrics = {
            f"{part}/{key}": 0.9 - 0.05 * number for part in ("val", "test") for key in ("gap", "hit1", "map")
        }
        metrics |= {
            "val/loss": 1.0 + number,
            "params": 10**8 + number,
            "lr": lr,
            "epochs": 5,
            "best_epoch": 4,
        }
        metrics |= {"model": model, "dataset": EVIL if number == 0 else "sample", "batch_size": 64}
        rows = ["epoch,step,seconds,train/loss_step,val/gap,val/loss"]
        for step in range(1, 200):
            rows.append(f"0,{step},{step / 2},{5 / step + number},,")
            if step % 40 == 0:
                rows.append(f"0,{step},{step / 2},,{0.9 - 0.05 * number - 1 / step},{1 + number + 1 / step}")
        write_run(
            folder / f"{number}_optimizer.lr={lr},model={model},some.quite.long.override.of.a.sweep={number}",
            config=CONFIG.format(model=model, lr=lr),
            overrides=f"- model={model}\n- optimizer.lr={lr}\n",
            metrics=metrics,
            logged="\n".join(rows) + "\n",
        )
    write_run(folder / "failed", config=CONFIG.format(model="nn", lr=9), log=f"[t][x][ERROR] {EVIL}\n")
    write_run(folder / "huge", metrics=f'{{"val/gap": {"9" * 400}}}')
    board = Leaderboard.of(find_runs([folder]), "val/gap")
    (folder / "report.html").write_text(render(board, class_stats()))
    return folder / "report.html"


def test_the_page_is_one_small_file_that_runs_no_script_of_a_run(page):
    source = page.read_text()
    assert len(source) < 3_000_000
    assert "<script>document.title='owned'" not in source
    # The failed run's reason, and the best run's dataset: in its tile, its cell, and the cell's tooltip.
    assert source.count("document.title=&#39;owned&#39;") == 4
    own = re.sub(r"<script.*?</script>", "", source, flags=re.DOTALL)  # Bokeh's license names addresses
    assert not re.search(r"url\(|@import|https?:|<iframe|<img", own)
    assert re.findall(r'(?:src|href)="(.*?)"', own) == ["data:,"]


def test_runs_are_told_apart_everywhere_and_scores_come_first(page):
    source = page.read_text()
    assert re.findall(r"<figcaption>(.*?)</figcaption>", source)[:4] == [
        f"{what} over {axis}" for what in ("GAP", "Loss") for axis in ("steps", "time")
    ]
    table = source[source.index("<h2>Leaderboard") : source.index("<h2>Not finished")]
    headings = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<button>(.*?)</button>", table)]
    assert headings[:3] == ["Run", "GAP", "Hit@1"]
    assert {"Test GAP", "Best epoch", "Learning rate"} <= set(headings)
    labels = re.findall(r"</svg>(.*?)</th>", table)
    assert labels[:3] == ["nn lr=0.0005", "nn_stream_lstm lr=0.0005", "nn lr=0.001"]
    assert len(set(labels)) == 14
    curves = [json.loads(text) for text in re.findall(r'application/json">(.*?)</script>', source)]
    for chart in curves[:5]:
        assert set(labels) <= set(re.findall(r'"((?:nn|nn_stream_lstm) lr=.*?)"', json.dumps(chart)))
    assert "None" not in re.sub(r"<script.*?</script>", "", source, flags=re.DOTALL)
    assert "val/gap: expected a number below 1e+100" in source


# Waits for the charts; the bars' widths are those of elements as wide as their backgrounds.
PROBE = """
while (document.documentElement.dataset.charts !== "drawn") await new Promise((done) => setTimeout(done, 50));
await new Promise((done) => setTimeout(done, 500));
const table = document.querySelector(".sortable");
const heading = [...table.tHead.rows[0].cells].find((th) => th.textContent.startsWith("Loss"));
const values = () => [...table.tBodies[0].rows].map((row) => row.cells[heading.cellIndex].dataset.value);
const click = () => heading.querySelector("button").click();
click(); seen.up = values();
click(); seen.down = values();
seen.charts = [...document.querySelectorAll(".chart > *:not(script)")].map((one) => one.getBoundingClientRect())
  .map(({ width, height }) => width > 250 && height > 200);
const box = table.closest(".scroll");
box.scrollLeft = 1e5;
seen.scrolled = box.scrollLeft > 0;
seen.runColumn = [...table.rows].every(({ cells: [cell] }) => {
  const { left, right } = cell.getBoundingClientRect();
  return left >= 0 && right < innerWidth;
});
seen.covered = [...document.querySelectorAll("td.bar")].filter((cell) => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  const bar = cell.appendChild(document.createElement("i"));
  cell.style.position = "relative";
  const size = getComputedStyle(cell).backgroundSize;
  bar.style.cssText = `position: absolute; width: ${size.slice(0, size.lastIndexOf(" "))}`;
  const end = cell.getBoundingClientRect().left + 8 + bar.getBoundingClientRect().width;
  bar.remove();
  return end > range.getBoundingClientRect().left;
}).length;
seen.bars = document.querySelectorAll("td.bar").length;
const colors = Bokeh.documents[0].roots()[0].renderers[0].data_source.data.color;
seen.hue = getComputedStyle(document.documentElement).getPropertyValue("--hue-0").trim();
seen.best = colors.at(-1);
"""


@pytest.mark.slow
@needs_browser
def test_the_page_fits_wide_and_narrow_screens_in_both_schemes(page, tmp_path):
    for width, dark in ((360, False), (360, True), (1280, True)):
        seen = probe(page, tmp_path, PROBE, width=width, dark=dark)
        case = f"{width} pixels, dark: {dark}"
        assert (seen["width"], seen["overflow"], seen["outside"]) == (width, 0, []), case
        assert seen["charts"] == [True] * 6, case  # four of curves, the hyperparameters, the calibration
        assert (seen["scrolled"], seen["runColumn"]) == (True, True), case
        assert seen["bars"] > 40, case
        assert seen["covered"] == 0, case
        up = [float(value) for value in seen["up"]]
        assert up == sorted(up), case
        assert seen["down"] == seen["up"][::-1], case
        assert seen["background"] == ("rgb(20, 23, 26)" if dark else "rgb(251, 251, 250)"), case
        assert seen["best"] == seen["hue"] == ("#4aa6de" if dark else "#0072b2"), case


# Moves the pointer to the last point of the best run's line, then drags a box.
POINTER = """
while (document.documentElement.dataset.charts !== "drawn") await new Promise((done) => setTimeout(done, 50));
await new Promise((done) => setTimeout(done, 500));
const model = Bokeh.documents[0].roots()[0];
const view = [...Bokeh.index.roots].find((one) => one.model === model);
const { data } = model.renderers[0].data_source;
const x = data.xs.at(-1).at(-1), y = data.ys.at(-1).at(-1);
const events = view.canvas_view.events_el, at = events.getBoundingClientRect();
const fire = (type, left, top, buttons = 0) => events.dispatchEvent(new PointerEvent(type, {
  bubbles: true, composed: true, pointerId: 1, isPrimary: true, button: buttons ? 0 : -1, buttons,
  clientX: at.left + left, clientY: at.top + top, pointerType: "mouse" }));
const wait = () => new Promise((done) => setTimeout(done, 400));
fire("pointerenter", 5, 5);
const sx = view.frame.x_scale.compute(x), sy = view.frame.y_scale.compute(y);
fire("pointermove", sx - 1, sy + 1); await wait();
fire("pointermove", sx, sy); await wait();
const texts = (root) => [...root.querySelectorAll("*")].flatMap((one) => [
  one.matches(".bk-tooltip-row-value, .bk-tooltip-row-label") ? one.textContent : [],
  one.shadowRoot ? texts(one.shadowRoot) : []].flat());
seen.tooltip = texts(document);
const before = [model.x_range.start, model.x_range.end];
fire("pointerdown", 120, 100, 1); fire("pointermove", 150, 130, 1); fire("pointermove", 200, 160, 1); await wait();
fire("pointerup", 200, 160); await wait();
seen.zoomed = [model.x_range.start, model.x_range.end].map((end, n) => n ? end < before[1] : end > before[0]);
"""


@pytest.mark.slow
@needs_browser
def test_hover_names_the_run_and_a_drag_zooms(page, tmp_path):
    seen = probe(page, tmp_path, POINTER, width=1000)
    tooltip = " ".join(seen["tooltip"])
    assert "#1 nn lr=0.0005" in tooltip
    assert "optimizer step" in tooltip
    assert "@" not in tooltip  # a placeholder that Bokeh did not fill in
    assert seen["zoomed"] == [True, True]


@pytest.mark.slow
@needs_browser
def test_the_page_opens_without_a_message_in_the_console(page, tmp_path):
    shown = open_page(page, tmp_path / "profile")
    assert console_of(shown) == []
    assert "<title>Report: 14 finished" in shown.stdout
    assert 'data-charts="drawn"' in shown.stdout
