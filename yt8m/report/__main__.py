"""Compare training runs: `python -m yt8m.report RUN [RUN ...]`, with folders of runs or multiruns."""

import re
from pathlib import Path

from yt8m.cli import command

# Hydra's flags whose value is the next argument.
_TAKE_A_VALUE = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"}
_TAKE_A_VALUE |= {"--config-dir", "-cd"}


def as_overrides(arguments: list[str]) -> list[str]:
    """Gather all folders into one override `runs=[...]`, quoted for Hydra's grammar.

    An argument that exists as a path is a folder, even with `=` in its name: a multirun names its jobs so.
    """
    folders, others = [], []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_override = re.match(r"[+~]{0,2}[\w.@/]+=", argument) and not Path(argument).exists()
        if is_override or argument.startswith("-") or before in _TAKE_A_VALUE:
            others.append(argument)
        else:
            folders.append(argument)
    return [*others, f"runs=[{','.join(map(_quoted, folders))}]"] if folders else others


def _quoted(text: str) -> str:
    # Hydra unescapes backslashes only before a single quote, and `${` would start an interpolation.
    text = text.replace("${", "\\${")
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


main = command("report", "yt8m.report.report:report", rewrite=as_overrides)

if __name__ == "__main__":
    main()
