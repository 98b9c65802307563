"""The few shapes that the drawn figures need, as SVG text that is the same on every machine."""

from __future__ import annotations

import html
import math
import re
from pathlib import Path

INK, DIM = "#333333", "#9a9a9a"
BLUE, ORANGE, GREEN, GRAY = "#1f77b4", "#d9730d", "#2b8a3e", "#6b7280"
_SUBSCRIPT = re.compile(r"_\{(.+?)\}")


def text(
    x: float,
    y: float,
    content: str,
    *,
    size: float = 13,
    color: str = INK,
    anchor: str = "middle",
    bold: bool = False,
) -> str:
    """One line of text with its baseline at y; ``L_{kd}`` has a subscript."""
    parts = _SUBSCRIPT.split(content)
    spans = [
        f'<tspan dy="3" font-size="{size * 0.75:g}">{html.escape(part)}</tspan><tspan dy="-3">'
        f"\u200b</tspan>"
        if i % 2
        else html.escape(part)
        for i, part in enumerate(parts)
    ]
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{color}" '
        f'text-anchor="{anchor}"{weight}>{"".join(spans)}</text>'
    )


def box(
    x: float,
    y: float,
    width: float,
    height: float,
    lines: list[str],
    *,
    color: str = INK,
    fill: str = "#ffffff",
    dashed: bool = False,
    size: float = 13,
) -> str:
    """A rounded box, its first line bold, the lines centered in it."""
    stroke = ' stroke-dasharray="5 4"' if dashed else ""
    shapes = [
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" fill="{fill}" '
        f'stroke="{color}" stroke-width="1.5"{stroke}/>'
    ]
    step = size * 1.3
    first = y + height / 2 - step * (len(lines) - 1) / 2 + size * 0.35
    for i, line in enumerate(lines):
        ink = DIM if dashed else INK
        smaller = size if i == 0 else size - 1.5
        shapes.append(
            text(x + width / 2, first + i * step, line, bold=i == 0, color=ink, size=smaller)
        )
    return "\n".join(shapes)


def arrow(
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    color: str = INK,
    dashed: bool = False,
    width: float = 2,
) -> str:
    """A straight line with a head at its end."""
    (x0, y0), (x1, y1) = start, end
    angle = math.atan2(y1 - y0, x1 - x0)
    head = [
        (x1 - 9 * math.cos(angle + turn), y1 - 9 * math.sin(angle + turn)) for turn in (0.4, -0.4)
    ]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(x1, y1), *head])
    back = (x1 - 7 * math.cos(angle), y1 - 7 * math.sin(angle))
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    return (
        f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{back[0]:.1f}" y2="{back[1]:.1f}" '
        f'stroke="{color}" stroke-width="{width:g}"{dash}/>'
        f'<polygon points="{points}" fill="{color}"/>'
    )


def document(width: float, height: float, title: str, shapes: list[str]) -> str:
    """The file: a white ground, a title for screen readers, the shapes in their order."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
            f'width="{width:g}" height="{height:g}" font-family="Helvetica, Arial, sans-serif" '
            'role="img">',
            f"<title>{html.escape(title)}</title>",
            f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
            *shapes,
            "</svg>\n",
        ]
    )


def write(folder: Path, figures: dict[str, str], check: bool) -> int:
    """Write the figures, or say which of them are out of date; an exit status."""
    old = []
    for name, content in figures.items():
        path = folder / name
        if check:
            if not path.is_file() or path.read_text(encoding="utf-8") != content:
                old.append(str(path))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    for name in old:
        print(f"{name} is out of date")
    return 1 if old else 0
