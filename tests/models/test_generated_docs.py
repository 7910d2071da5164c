"""Tables of networks and metrics in README.md and docs/ are made from the classes."""

import re

from docs import generate
from tests.models.networks import MODELS, STUDY, arguments


def test_the_pages_are_up_to_date():
    pages = {path.name: path.read_text(encoding="utf-8") for path in generate.PAGES}
    for name, page in pages.items():
        assert generate.filled(page) == page, f"{name}: run `make docs`"
    for part in generate.GENERATED:
        assert sum(f"<!-- {part} (make docs) -->" in page for page in pages.values()) == 1, part


def test_every_network_and_argument_is_described():
    assert list(generate.networks()) == MODELS
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", "\n".join(generate.details()), re.M | re.S))
    assert sorted(sections) == MODELS
    for model, section in sections.items():
        assert re.findall(r"^\| `(\w+)` \| [^|]+ \| \w[^|]+\. \|$", section, re.M) == list(
            arguments(model)
        ), model
        assert section.count("```") == 2, model


def test_every_network_has_one_family():
    assert sorted(name for members in generate.families().values() for name in members) == MODELS
    names = [name for names in generate.FAMILIES.values() for name in names]
    assert len(names) == len(set(names))
    assert set(generate.FAMILIES[generate.STUDY]) == set(STUDY)
