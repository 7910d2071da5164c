"""Charts: positions on axes, thinning, and what of a run's text goes where."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yt8m.report import charts
from yt8m.report.charts import Line, _number_scale, _scale, _thinned
from yt8m.report.hyperparameters import Hyperparameter

NUMBERS = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-6)


@given(st.lists(NUMBERS, min_size=1, max_size=8), st.booleans())
def test_values_and_ticks_are_inside_their_axis(values, log):
    position, ticks = _number_scale(values, log)
    places = [*map(position, values), *(place for place, _ in ticks)]
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert position(min(values)) <= position(max(values))


def test_decades_have_equal_room_and_few_values_equal_distances():
    lr, ticks = _scale(Hyperparameter("lr", [1e-4, 3e-4, 1e-3, 3e-3, 1e-2], None, []))
    assert lr(1e-3) == pytest.approx(0.5)
    assert [text for _, text in ticks][::2] == ["0.0001", "0.001", "0.01"]
    size, ticks = _scale(Hyperparameter("size", [64, 32, "default"], None, []))
    assert [size(value) for value in (32, 64, "default")] == [0, 0.5, 1]
    assert [text for _, text in ticks] == ["32", "64", "default"]


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(-10, 10)), min_size=1, max_size=1000))
def test_a_long_line_becomes_means_of_neighbors(points):
    thinned = _thinned(points)
    assert len(thinned) <= 150
    if len(points) <= 150:
        assert all(math.isclose(a, b, rel_tol=1e-5) for (a, _), (b, _) in zip(thinned, points, strict=True))
    low, high = min(y for _, y in points), max(y for _, y in points)
    assert all(low - 1e-4 <= y <= high + 1e-4 for _, y in thinned)


def test_a_chart_of_many_runs_stays_small_and_holds_the_best():
    points = [(float(step), math.sin(step)) for step in range(5000)]
    chart = charts.line_chart(
        [Line(rank, f"run {rank}", "GAP", points) for rank in range(1, 500)], "step", "GAP"
    )
    text = json.dumps(chart, allow_nan=False)
    assert len(text) < 500_000
    assert '"run 1"' in text
    assert f'"run {charts.MOST_LINES + 1}"' not in text


def test_text_of_runs_is_never_a_title_or_a_tick_where_bokeh_looks_for_tex():
    evil = "$$\\href{x}{y}$$ @rank"
    line = charts.line_chart([Line(1, evil, "GAP", [(0, 0), (1, 1)])], "step", "GAP")
    parallel = charts.parallel_coordinates(
        [Hyperparameter(evil, [evil, 1], None, [])], [2, 1], [evil, "b"], "GAP"
    )
    for chart in (line, parallel):
        for path, text in strings(chart["doc"]):
            if evil[:8] in text:
                assert {"label", "text", "key"} & set(path), path


def strings(tree, path=()):
    """All strings of a JSON tree with the names on the way to them; map entries count as names."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from strings(value, (*path, key))
    elif isinstance(tree, list):
        for value in tree:
            name = tree[0] if len(tree) == 2 and isinstance(tree[0], str) else None
            yield from strings(value, (*path, name) if name else path)
    elif isinstance(tree, str):
        yield path, tree
