"""Canvas, colors and plot style that all figures share.

Drawn through Matplotlib's objects on the Agg canvas: no window, no pyplot state. Colors are Okabe
and Ito's, which color-blind readers can tell apart; a branch has the same one in every figure.
"""

from __future__ import annotations

import html
import io
import os
import re

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import TextPath

from mixseg.files.atomic import write_bytes_atomic

BRANCH_COLORS = {
    "main": "#D55E00",  # the student's: no figure has both
    "teacher": "#0072B2",
    "student": "#D55E00",
    "ensemble": "#009E73",
}
INK, MUTED, GRID = "#222222", "#6B6B6B", "#E3E3E3"
_LEGEND_COLUMNS = 5
_LEGEND_SIZE, _LEGEND_ROW = 9.0, 14.0  # points
#: In sizes of the legend's letters: the line of an entry, and the space behind the line and entry.
_HANDLE, _AFTER_HANDLE, _AFTER_ENTRY = 1.4, 0.8, 1.2


def new_figure(width: float, height: float) -> Figure:
    """Empty figure of a size in inches, with constrained layout, on the Agg canvas."""
    layout = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.07)
    figure = Figure(figsize=(width, height), dpi=150, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write the figure as PNG, atomically."""
    buffer = io.BytesIO()
    # Figure.savefig would lay it out and draw it once more beforehand.
    FigureCanvasAgg(figure).print_png(buffer)
    write_bytes_atomic(path, buffer.getvalue())


#: Ids that Matplotlib gives to the parts of every figure: two figures in a page would share them.
_PART_ID = re.compile(r' id="[A-Za-z0-9.]+_\d+"')
_SIZE = re.compile(r' (?:width|height)="[\d.]+pt"')


def inline_svg(figure: Figure, description: str) -> str:
    """The figure as an ``<svg>`` element for a page: transparent, its text selectable.

    What is drawn in the colors of ink, muted text and grid follows the page's ``--ink``,
    ``--muted`` and ``--grid``. Text is escaped.

    Args:
        description: what readers who do not see it are told.
    """
    buffer = io.StringIO()
    # A fixed salt: the same figure is the same text.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mixseg"}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    head, body = re.split(r"(?<=>)", text[text.index("<svg") :], maxsplit=1)
    head = _SIZE.sub("", head).replace(
        "<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1
    )
    for color, name in ((INK, "ink"), (MUTED, "muted"), (GRID, "grid")):
        body = re.sub(rf"(fill|stroke): {color}", rf"\1: var(--{name})", body, flags=re.IGNORECASE)
    return head + _PART_ID.sub("", body)


def literal(text: str) -> str:
    """Text that Matplotlib shows as it is, dollar signs too, which it takes for formulas."""
    return text.replace("$", r"\$")


def legend_rows(axes: Axes) -> int:
    """Rows of the legend that :func:`style` draws above these curves."""
    labels = axes.get_legend_handles_labels()[1]
    return -(-len(labels) // _legend_columns(axes))


def _legend_columns(axes: Axes) -> int:
    """Columns of the legend that fit above the plot; a wider legend would press it together."""
    labels = axes.get_legend_handles_labels()[1]
    figure = axes.get_figure(root=True)
    assert figure is not None
    room = axes.get_position().width * figure.get_figwidth() * 72 / _LEGEND_SIZE
    font = FontProperties(size=_LEGEND_SIZE)
    lengths = [TextPath((0, 0), text, prop=font).get_extents().width for text in labels]
    for columns in range(min(_LEGEND_COLUMNS, len(labels)), 1, -1):
        # Matplotlib fills column by column, and gives each the width of its longest entry.
        texts = sum(max(column) for column in np.array_split(lengths, columns)) / _LEGEND_SIZE
        if texts + columns * (_HANDLE + _AFTER_HANDLE + _AFTER_ENTRY) <= room:
            return columns
    return 1


def style(axes: Axes, title: str = "", rows: int = 0) -> None:
    """Light grid, and title and legend above the plot, where they hide no curve.

    Args:
        axes: axes whose curves are drawn already.
        rows: rows to keep free for the legend between the plot and the title, where it has fewer.
    """
    rows = max(rows, legend_rows(axes))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            fontsize=_LEGEND_SIZE,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=_legend_columns(axes),
            frameon=False,
            borderaxespad=0.2,
            borderpad=0.0,
            handlelength=_HANDLE,
            handletextpad=_AFTER_HANDLE,
            columnspacing=_AFTER_ENTRY,
        )
    if title:
        font = {"fontsize": 12, "fontweight": "bold", "color": INK}
        axes.set_title(title, loc="left", pad=8 + _LEGEND_ROW * rows, fontdict=font)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(labelsize=9, colors=MUTED, which="both")


def note(axes: Axes, text: str) -> None:
    """Muted text in the middle of the axes."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)
