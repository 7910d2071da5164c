"""Render a page as a single HTML file: styles, scripts, and images are inline, and nothing is fetched."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDER = Path(__file__).parent


def render(template: Path, *, scripts: Sequence[str] = (), **values: Any) -> str:
    """Fill in a template that extends `base.html`.

    All values are escaped. The page's content security policy blocks every request and every script that is not in
    `scripts`, so text from a run folder or a dataset can never run as code.

    Args:
        template: the template's file.
        scripts: JavaScript sources, run in order at the end of the page.
        values: the template's variables.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, _FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["json_block"] = _json_block
    return environment.get_template(template.name).render(
        css=Markup((_FOLDER / "style.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        script_sources=[f"'sha256-{_digest(script)}'" for script in scripts] or ["'none'"],
        **values,
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _json_block(value: Any) -> Markup:
    """JSON for a `<script type="application/json">`; without `<`, no text in it can end the element."""
    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))
