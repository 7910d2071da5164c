"""The page: one HTML file that holds its pictures and asks for nothing else, wide or narrow."""

import base64
from collections.abc import Sequence
from html import escape

from yt8m.explore.sections import Section

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 76rem; padding: 0 0.75rem 3rem; font: 1rem/1.5 system-ui, sans-serif;
       color: #1a1a1a; background: #fff; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 1.5rem 0 0.5rem; }
h2 { font-size: 1.2rem; margin: 0 0 0.25rem; }
p { max-width: 44rem; margin: 0.25rem 0 0.75rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 0.75rem; margin: 1rem 0 2rem; }
dt { font-size: 0.85rem; color: #555; }
dd { margin: 0; font-size: 1.1rem; font-variant-numeric: tabular-nums; }
main { columns: 2 30rem; column-gap: 2.5rem; }
section { border-top: 1px solid #ccc; padding: 1rem 0 2rem; }
section > * { break-inside: avoid; }
img { width: 100%; height: auto; }
"""


def render(title: str, summary: str, figures: dict[str, str], sections: Sequence[Section]) -> str:
    """The whole page; all texts are plain text.

    Args:
        title: of the page.
        summary: a sentence or two below it.
        figures: name to value, as text.
        sections: in order, with their pictures as PNG.
    """
    facts = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in figures.items())
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'  # else browsers ask the server for one
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<p>{escape(summary)}</p>\n<dl>{facts}</dl>\n"
        f"<main>\n{''.join(map(_section, sections))}</main>\n"
        "</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    images = [
        f'<img alt="{escape(about)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">\n'
        for _, about, png in section.pictures
    ]
    head = f"<h2>{escape(section.title)}</h2>\n<p>{escape(section.caption)}</p>\n{''.join(images[:1])}"
    return f"<section>\n<div>{head}</div>\n{''.join(images[1:])}</section>\n"
