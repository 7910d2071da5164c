"""The notebook of docs/ runs from top to bottom, on a small run in the folders that it names."""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "python.ipynb"


def cells() -> list[str]:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_runs(tiny_run, tiny_sample, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    for name, target in (("outputs/quickstart", tiny_run), ("data/sample", tiny_sample[0].partition("=")[2])):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    shown = []
    for source in cells():
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "notebook", "exec"), space)
        if last is not None:
            shown.append(repr(eval(compile(ast.Expression(last.value), "notebook", "eval"), space)))
    assert shown[0].startswith("<Model NNStreamLSTM: ")
    assert len(space["table"]) == 3 * len(space["videos"]) > 0
    assert space["axes"].get_ylabel() == "probability"


def test_the_notebook_shows_results():
    """Its outputs are stored, for those who read it without running it; none is an error."""
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in code)
    assert {output["output_type"] for cell in code for output in cell["outputs"]} <= {
        "execute_result",
        "display_data",
    }
