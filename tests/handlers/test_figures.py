"""What the figures draw: data, scales, colours and orientation, and that files are whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from mixseg.handlers import figures
from mixseg.handlers.figures import (
    BRANCH_COLORS,
    CasePanel,
    plot_cases,
    plot_curves,
    select_slice,
)

NAMES = ["background", "LV"]


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


def _panel(**changes: Any) -> CasePanel:
    image = np.zeros((5, 4))
    image[3, 1] = 1.0
    student = np.zeros((5, 4), int)
    student[1:4, 1:3] = 1
    values = {
        "case_id": "case7",
        "image": image,
        "reference": np.roll(student, 1, axis=0),
        "teacher": None,
        "student": student,
        "entropy": np.full((5, 4), 0.5),
        "scores": {"student": 0.6667, "teacher": float("nan")},
    }
    return CasePanel(**{**values, **changes})


def _cells(figure: Figure) -> list[Axes]:
    """The five cells of the first case: after the five headings, in order."""
    return list(figure.axes[5:10])


def test_case_row(drawn: list[Figure]) -> None:
    plot_cases([_panel()], "unused.png", NAMES)
    figure = drawn[0]
    headings = [axes.texts[0] for axes in figure.axes[:5]]
    assert [text.get_text() for text in headings] == [
        "Image",
        "Reference",
        "Teacher",
        "Student",
        "Student's entropy",
    ]
    assert headings[2].get_color() == BRANCH_COLORS["teacher"]
    assert headings[3].get_color() == BRANCH_COLORS["student"]
    image, reference, teacher, student, entropy = _cells(figure)
    assert image.get_title() == "case7"
    assert student.get_title() == "Dice 66.7 %"
    assert teacher.get_title() == reference.get_title() == ""
    assert [text.get_text() for text in teacher.texts] == ["not trained"]
    # Axis 0 is x: voxel (3, 1) of a 5 × 4 slice is at row 1, column 3 of a 4 × 5 picture.
    shown = np.asarray(image.images[0].get_array())
    assert shown.shape == (4, 5)
    assert np.argwhere(shown == shown.max()).tolist() == [[1, 3]]
    assert image.get_ylim() == (3.5, -0.5)  # origin at the top
    # Student's voxel (1, 1) is black in the image: 0.55·0 + 0.45·its branch's colour.
    picture = np.asarray(student.images[0].get_array())
    np.testing.assert_allclose(picture[1, 1], 0.45 * np.array(to_rgb(BRANCH_COLORS["student"])))
    np.testing.assert_array_equal(picture[0, 0], 0.0)
    assert len(student.collections) == 2  # its own outline and the reference's
    assert len(reference.collections) == 1
    assert entropy.images[0].get_clim() == (0.0, pytest.approx(math.log(2)))
    assert entropy.images[0].get_array().shape == (4, 5)


def test_classes_and_unlabelled_have_their_own_colours(drawn: list[Figure]) -> None:
    labels = np.zeros((5, 4), int)
    labels[0, 0], labels[1, 0], labels[2, 0], labels[4, 3] = 1, 2, 3, 4
    panel = _panel(
        image=np.zeros((5, 4)), reference=labels, teacher=labels % 4, student=None, entropy=None
    )
    plot_cases([panel], "unused.png", ["background", "RV", "myocardium", "LV"])
    _, reference, teacher, student, entropy = _cells(drawn[0])
    picture = np.asarray(reference.images[0].get_array())
    colors = {tuple(picture[y, x]) for x, y in ((0, 0), (1, 0), (2, 0), (4, 3))}
    assert len(colors) == 4
    # A class has the same colour in every column.
    np.testing.assert_array_equal(np.asarray(teacher.images[0].get_array())[0, :3], picture[0, :3])
    assert [text.get_text() for text in student.texts] == ["not trained"]
    assert [text.get_text() for text in entropy.texts] == ["not available"]
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "RV",
        "myocardium",
        "LV",
        "unlabelled",
        "outline of the reference",
    ]


def test_files_are_written_whole_and_pyplot_is_left_alone(tmp_path: Path) -> None:
    curves, cases = tmp_path / "run" / "curves.png", tmp_path / "run" / "cases.png"
    plot_curves(_history(), curves)
    # One row with everything; one without a reference, with a flat and a NaN intensity.
    flat = np.full((6, 9), 3.0)
    flat[0, 0] = np.nan
    bare = CasePanel("bare", flat, student=np.zeros((6, 9), int))
    plot_cases([_panel(), bare], cases, NAMES)
    for path in (curves, cases):
        picture = imread(path)
        assert picture.shape[0] > 400
        assert picture.shape[1] > 1500
        assert picture.std() > 0.05  # not blank
    assert sorted(path.name for path in curves.parent.iterdir()) == ["cases.png", "curves.png"]
    assert Gcf.get_num_fig_managers() == 0


@pytest.mark.parametrize(
    ("panels", "names", "message"),
    [
        ([], NAMES, "nothing to draw: no panels"),
        ([_panel()], ["background"], r"at least one class, got \['background'\]"),
        ([_panel(image=np.zeros((2, 3, 4)))], NAMES, r"case7: image must .* got \(2, 3, 4\)"),
        (
            [_panel(entropy=np.zeros((4, 5)))],
            NAMES,
            r"case7: entropy has shape \(4, 5\), the image",
        ),
    ],
)
def test_case_refusals(panels: list[CasePanel], names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_cases(panels, "unused.png", names)


def test_select_slice() -> None:
    volume = np.zeros((4, 4, 5), int)
    volume[0, 0, 1] = 1
    volume[:2, 0, 3] = 2
    assert select_slice(volume) == 3
    volume[:, :, 4] = 3  # unlabelled voxels are no object
    assert select_slice(volume, unlabeled=3) == 3
    empty = np.zeros((4, 4, 5), int)
    assert select_slice(empty, volume, unlabeled=3) == 3
    assert select_slice(empty) == 2
    assert select_slice(empty, empty) == 2
    with pytest.raises(ValueError, match=r"reference: expected the shape .* got \(4, 4\)"):
        select_slice(np.zeros((4, 4), int))
