"""docs/models.md is made from the classes of the networks."""

import re

from docs import generate
from tests.models.networks import MODELS, arguments


def test_the_page_is_up_to_date():
    page = generate.PAGE.read_text(encoding="utf-8")
    assert generate.filled(page) == page, "run `make docs`"


def test_every_network_and_argument_is_described():
    assert list(generate.networks()) == MODELS
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", "\n".join(generate.details()), re.M | re.S))
    assert list(sections) == MODELS
    for model, section in sections.items():
        assert re.findall(r"^\| `(\w+)` \| [^|]+ \| \w[^|]+\. \|$", section, re.M) == list(
            arguments(model)
        ), model
        assert section.count("```") == 2, model
