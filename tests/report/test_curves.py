"""What the curves draw: data, scales and colors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from mixseg.report import curves as figures
from mixseg.report.canvas import BRANCH_COLORS
from mixseg.report.curves import curve_figures, plot_curves


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be written."""
    collected: list[Figure] = []
    monkeypatch.setattr(figures, "save_png", lambda figure, path: collected.append(figure))
    return collected


def _titled(figure: Figure, title: str) -> Axes:
    (found,) = [axes for axes in figure.axes if axes.get_title(loc="left").startswith(title)]
    return found


def _lines(axes: Axes) -> dict[str, Any]:
    return {str(line.get_label()): line for line in axes.get_lines()}


def _history() -> list[dict[str, Any]]:
    return [
        {"epoch": 1, "iteration": 10, "loss": 2.0, "kd": 0.5, "entropy": 0.0, "lr": 1e-3},
        {
            "epoch": 2,
            "iteration": 20,
            "loss": 1.0,
            "kd": 0.25,
            "entropy": 0.0,
            "lr": 5e-4,
            "val_dice_teacher": 0.75,
            "val_dice_student": 0.5,
            "val_seconds": 3.0,
        },
        {"epoch": 3, "iteration": 30, "loss": float("nan"), "kd": None, "entropy": 0.0, "lr": 0.0},
        {"epoch": 4, "val_dice_teacher": 0.625, "val_dice_student": None, "note": "text"},
    ]


def test_curves_hold_the_history(drawn: list[Figure]) -> None:
    plot_curves(_history(), "unused.png")
    losses, dice = _titled(drawn[0], "Training losses"), _titled(drawn[0], "Validation Dice")
    lines = _lines(losses)
    assert list(lines) == ["loss", "kd", "entropy (always 0)"]
    # NaN, None and absent values leave no point; the x-axis is the epoch.
    np.testing.assert_array_equal(lines["loss"].get_xydata(), [[1, 2.0], [2, 1.0]])
    np.testing.assert_array_equal(lines["kd"].get_xydata(), [[1, 0.5], [2, 0.25]])
    assert losses.get_yscale() == "log"
    curves = _lines(dice)
    np.testing.assert_array_equal(curves["teacher 0.750"].get_xydata(), [[2, 0.75], [4, 0.625]])
    np.testing.assert_array_equal(curves["student 0.500"].get_xydata(), [[2, 0.5]])
    assert curves["teacher 0.750"].get_color() == BRANCH_COLORS["teacher"]
    assert curves["student 0.500"].get_color() == BRANCH_COLORS["student"]
    assert dice.get_ylim() == (0.0, 1.0)
    (rate,) = [axes for axes in drawn[0].axes if axes.get_ylabel() == "rate"]
    np.testing.assert_array_equal(rate.get_lines()[0].get_ydata(), [1e-3, 5e-4, 0.0])
    assert [axes.get_xlabel() for axes in (rate, dice)] == ["epoch", "epoch"]


def test_curves_without_epochs_rate_or_validation(drawn: list[Figure]) -> None:
    plot_curves([{"iteration": i, "loss": 0.5 - i} for i in range(3)], "unused.png")
    losses, dice = drawn[0].axes
    assert losses.get_yscale() == "linear"  # a loss is negative
    assert losses.get_xlabel() == "iteration"
    assert [text.get_text() for text in dice.texts] == ["no validation recorded"]


@pytest.mark.parametrize("history", [[], [{"loss": 1.0}]])
def test_curves_need_an_axis(history: list[Mapping[str, Any]]) -> None:
    with pytest.raises(ValueError, match="entries with an epoch or an iteration"):
        plot_curves(history, "unused.png")


def test_the_file_is_written_whole_and_pyplot_is_left_alone(tmp_path: Path) -> None:
    curves = tmp_path / "run" / "curves.png"
    plot_curves(_history(), curves)
    picture = imread(curves)
    assert picture.shape[0] > 400
    assert picture.shape[1] > 1500
    assert picture.std() > 0.05  # not blank
    assert [path.name for path in curves.parent.iterdir()] == ["curves.png"]
    assert Gcf.get_num_fig_managers() == 0


@pytest.mark.parametrize("terms", [1, 6, 14])
def test_a_legend_of_long_names_leaves_the_plot_its_width(terms: int) -> None:
    names = [f"adversarial_of_{i}_unlabeled" for i in range(terms)]
    losses, _ = curve_figures([{"epoch": 1, "loss": 1.0, **dict.fromkeys(names, 0.5)}])
    losses.draw_without_rendering()
    (axes,) = losses.axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["loss", *names]
    box, whole = legend.get_window_extent(), losses.bbox
    assert box.x1 <= whole.x1
    assert axes.get_window_extent().width > 0.75 * whole.width
    # The title stands above it.
    assert axes._left_title.get_window_extent().y0 >= box.y1 - 1  # type: ignore[attr-defined]
