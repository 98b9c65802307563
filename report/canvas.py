"""Canvas, colors and plot style that all figures share.

Drawn through Matplotlib's objects on the Agg canvas: no window, no pyplot state. Colors are Okabe
and Ito's, which color-blind readers can tell apart; a branch has the same one in every figure.
"""

from __future__ import annotations

import html
import io
import os
import re

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from mixseg.files.atomic import write_bytes_atomic

BRANCH_COLORS = {
    "main": "#D55E00",  # the student's: no figure has both
    "teacher": "#0072B2",
    "student": "#D55E00",
    "ensemble": "#009E73",
}
INK, MUTED, GRID = "#222222", "#6B6B6B", "#E3E3E3"
LEGEND_COLUMNS = 5
_LEGEND_ROW = 14.0  # points


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
        figure: what to draw.
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


def style(axes: Axes, title: str = "", legend_rows: int = 0) -> None:
    """Light grid, and title and legend above the plot, where they hide no curve.

    Args:
        axes: axes whose curves are drawn already.
        title: heading, aligned left; none if empty.
        legend_rows: rows to keep free for the legend between the plot and the title.
    """
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            fontsize=9,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=LEGEND_COLUMNS,
            frameon=False,
            borderaxespad=0.2,
            borderpad=0.0,
            handlelength=1.4,
            columnspacing=1.2,
        )
    if title:
        font = {"fontsize": 12, "fontweight": "bold", "color": INK}
        axes.set_title(title, loc="left", pad=8 + _LEGEND_ROW * legend_rows, fontdict=font)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(labelsize=9, colors=MUTED, which="both")


def note(axes: Axes, text: str) -> None:
    """Muted text in the middle of the axes."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)
