"""Output of benchmarks: a table on the terminal, and a section of `results.md` with command, date, and machine."""

import os
import platform
import re
import shlex
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("numpy", "torch", "google-crc32c", "tfrecord")


def spread(values: Sequence[float], form: str) -> str:
    """Minimum, median and maximum."""
    return " – ".join(format(value, form) for value in (min(values), statistics.median(values), max(values)))


def machine() -> str:
    """Hardware and versions that the results depend on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            packages.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    load = os.getloadavg()[0]
    hardware = f"{os.cpu_count()} cores ({cpu}), {memory:.0f} GiB, {platform.system()} {platform.release()}"
    return f"{hardware}, {', '.join(packages)}; load average {load:.1f} at the end"


def memory() -> dict[str, float]:
    """Memory of this process in MB, by kind: VmRSS, VmHWM (its peak), RssAnon (private), ...."""
    status = Path("/proc/self/status")
    lines = re.findall(r"(\w+):\s*(\d+) kB", status.read_text()) if status.exists() else []
    return {name: int(size) / 1000 for name, size in lines}


def command(parser: ArgumentParser, options: Namespace) -> str:
    """The command with these options; paths are replaced by placeholders."""
    words = ["python", f"benchmarks/{Path(parser.prog).name}"]
    # A positional argument has none.
    flags = {action.dest: action.option_strings for action in parser._actions}
    for name, value in vars(options).items():
        if name == "results" or value == parser.get_default(name):
            continue
        words += flags[name][-1:]
        if isinstance(value, Path):
            words.append(name.upper())
        elif value is not True:
            words += map(str, value if isinstance(value, list | tuple) else [value])
    return shlex.join(words)


def report(
    path: Path,
    title: str,
    command: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    note: str = "",
) -> None:
    """Print a table, and replace the section ``title`` of the Markdown file ``path`` with it."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    # Many columns, squeezed into a narrow terminal, cannot be read; the file has them.
    if console.measure(table).minimum <= console.width:
        console.print(table)
    lines = [f"## {title}", "", f"`{command}`, {date.today():%d %B %Y}: {machine()}.", ""]
    if note:
        lines += [note, ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]
    text = path.read_text() if path.exists() else "# Results\n"
    before, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    section = "\n".join(lines) + "\n"
    titles = [one.splitlines()[0] for one in sections]
    if lines[0] in titles:
        sections[titles.index(lines[0])] = section
    else:
        sections.append(section)
    path.write_text("\n".join(part.rstrip() + "\n" for part in (before, *sections)))
    console.print(f"written to {path}")


def add_option(parser) -> None:
    """Add the option of all benchmarks that names the results file."""
    parser.add_argument(
        "--results",
        type=Path,
        default=Path(__file__).with_suffix(".md"),
        help="file whose section is rewritten",
    )
