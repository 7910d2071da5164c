"""Compare runs: `python -m yt8m.report RUN [RUN ...]`, folders of runs or multiruns."""

import re
from pathlib import Path

from yt8m.cli import command

# Hydra's flags that take the next argument for their value.
_TAKE_A_VALUE = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"}
_TAKE_A_VALUE |= {"--config-dir", "-cd"}


def as_overrides(arguments: list[str]) -> list[str]:
    """The arguments with all folders gathered into one `runs=[...]`, quoted for Hydra's grammar.

    What exists is a folder, even with a `=` in its name, as the jobs of a multirun have.
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
    # Backslashes are themselves except before a single quote, and `${` would begin an interpolation.
    text = text.replace("${", "\\${")
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


main = command("report", "yt8m.report.report:report", rewrite=as_overrides)

if __name__ == "__main__":
    main()
