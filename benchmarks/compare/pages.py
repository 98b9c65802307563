"""The comparison as files: a page and a figure for each table of the papers."""

from __future__ import annotations

import os
from pathlib import Path

from . import tables as compare_tables
from .figures import draw, is_current
from .published import load_published
from .tables import OTHERS, Measurements, markdown, title

__all__ = ["RESULTS", "block", "figure_name", "outdated_pages", "participating", "write_pages"]

#: Where result files are looked for without an option, relative to the working folder.
RESULTS = Path("benchmarks/results")
EXPERIMENTS = Path("benchmarks/experiments")


def participating() -> list[Path]:
    """The repository's lists that take part in the tables.

    Raises:
        ValueError: the working folder has none.
    """
    lists = compare_tables.participating(EXPERIMENTS)
    if not lists:
        raise ValueError(
            f"no list in '{EXPERIMENTS}' has a profile: name the lists, or run this in a checkout"
        )
    return lists


def names() -> list[str]:
    """All tables: those of the papers, then the rows that none of them has."""
    return [*load_published().names, OTHERS]


def figure_name(number: str) -> str:
    """File name of a table's figure."""
    return f"table_{number.replace('.', '')}.png"


def block(number: str, measurements: Measurements, page: Path, figures: Path) -> str:
    """A table with its figure, as it stands in a page.

    Args:
        number: of the table.
        measurements: what was measured.
        page: file that it stands in.
        figures: folder of the figures.
    """
    text = markdown(number, measurements)
    if number == OTHERS:
        return text
    place = Path(os.path.relpath(figures / figure_name(number), page.parent)).as_posix()
    return text + f"\n![{title(number)}: published and measured values]({place})\n"


def write_pages(measurements: Measurements, output: Path) -> list[str]:
    """Write what is out of date; returns the names of the files written."""
    written = []
    for name, text in _pages(measurements, output).items():
        path = output / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(name)
    return written + draw_figures(measurements, output)


def draw_figures(measurements: Measurements, folder: Path) -> list[str]:
    """Draw the figures whose numbers have changed; returns their names."""
    numbers = load_published().names
    return [figure_name(n) for n in numbers if draw(n, measurements, folder / figure_name(n))]


def outdated_figures(measurements: Measurements, folder: Path) -> list[str]:
    """Names of the figures that show other numbers, or are not there."""
    return [
        figure_name(n)
        for n in load_published().names
        if not is_current(n, measurements, folder / figure_name(n))
    ]


def outdated_pages(measurements: Measurements, output: Path) -> list[str]:
    """Names of the files of ``output`` that are not as they would be written now."""
    old = [
        name
        for name, text in _pages(measurements, output).items()
        if not (output / name).is_file() or (output / name).read_text(encoding="utf-8") != text
    ]
    return old + outdated_figures(measurements, output)


def _pages(measurements: Measurements, output: Path) -> dict[str, str]:
    pages = {}
    lines = ["# Comparison", ""]
    for number in names():
        name = f"table_{number.replace('.', '')}.md" if number != OTHERS else f"{OTHERS}.md"
        text = block(number, measurements, output / name, output)
        pages[name] = f"# {title(number)}\n\n{text}"
        lines.append(f"- [{title(number)}]({name})")
    sources = ", ".join(f"`{path.name}`" for path in measurements.lists)
    lines += ["", f"Lists: {sources}."]
    return {"index.md": "\n".join(lines) + "\n", **pages}
