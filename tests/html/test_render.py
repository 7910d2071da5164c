"""The shared page: escaping, the content security policy, colors."""

import base64
import hashlib
import json
import re
from pathlib import Path

from yt8m import html
from yt8m.explore import plots
from yt8m.html.render import render

TEMPLATE = """{% extends "base.html" %}
{% block title %}{{ text }}{% endblock %}
{% block header %}<h1>{{ text }}</h1>{% endblock %}
{% block main %}<script type="application/json">{{ data|json_block }}</script>{% endblock %}
"""
EVIL = "</script><script>alert(1)</script>"


def page(folder: Path, *scripts: str) -> str:
    (folder / "page.html").write_text(TEMPLATE)
    return render(folder / "page.html", scripts=scripts, text=EVIL, data={"x": EVIL})


def test_values_are_escaped_and_json_cannot_end_its_element(tmp_path):
    text = page(tmp_path)
    assert EVIL not in text
    block = re.search(r'<script type="application/json">(.*?)</script>', text)[1]
    assert json.loads(block) == {"x": EVIL}


def test_only_the_given_scripts_may_run_and_nothing_is_fetched(tmp_path):
    for scripts in ((), ("let a = 1 < 2", "let b")):
        policy = re.search(r'Security-Policy" content="(.*?)"', page(tmp_path, *scripts))[1]
        hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]
        sources = " ".join(f"'sha256-{one}'" for one in hashes) or "'none'"
        assert policy == (
            f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {sources}"
        )


def test_there_is_one_style_sheet_and_plots_use_its_colors():
    root = Path(html.__file__).parents[1]
    assert [path.name for path in root.rglob("*.css")] == ["style.css"]
    assert not [
        path for path in root.rglob("*.html") if "<style" in path.read_text() and path.name != "base.html"
    ]
    light, dark = re.findall(r"--card: (#\w+); --ink: (#\w+)", (root / "html" / "style.css").read_text())
    assert (plots._LIGHT[:2], plots._DARK[:2]) == (light, dark)
