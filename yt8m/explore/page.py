"""The page about a dataset as a single HTML file."""

from collections.abc import Sequence
from pathlib import Path

from yt8m.explore.sections import Section
from yt8m.html.render import render as render_page


def render(title: str, summary: str, facts: dict[str, str], sections: Sequence[Section]) -> str:
    """The page; all texts are plain text.

    Args:
        title: of the page.
        summary: a sentence or two below it.
        facts: name to value, as text.
        sections: in order, with their plots as PNG.
    """
    return render_page(
        Path(__file__).with_name("page.html"), title=title, summary=summary, facts=facts, sections=sections
    )
