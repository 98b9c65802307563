"""What the pictures of cases draw: colors, orientation and scale, and that files are whole."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from mixseg.report import cases as case_figures
from mixseg.report.canvas import BRANCH_COLORS
from mixseg.report.cases import CasePanel, plot_cases

NAMES = ["background", "LV"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be written."""
    collected: list[Figure] = []
    monkeypatch.setattr(case_figures, "save_png", lambda figure, path: collected.append(figure))
    return collected


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
    # Student's voxel (1, 1) is black in the image: 0.55·0 + 0.45·its branch's color.
    picture = np.asarray(student.images[0].get_array())
    np.testing.assert_allclose(picture[1, 1], 0.45 * np.array(to_rgb(BRANCH_COLORS["student"])))
    np.testing.assert_array_equal(picture[0, 0], 0.0)
    assert len(student.collections) == 2  # its own outline and the reference's
    assert len(reference.collections) == 1
    assert entropy.images[0].get_clim() == (0.0, pytest.approx(math.log(2)))
    assert entropy.images[0].get_array().shape == (4, 5)


def test_a_network_of_one_branch_has_one_prediction(drawn: list[Figure]) -> None:
    student = _panel().student
    plot_cases([_panel(student=None, main=student, scores={"main": 0.5})], "unused.png", NAMES)
    axes = drawn[0].axes
    headings = [cell.texts[0] for cell in axes[:4]]
    assert [text.get_text() for text in headings] == [
        "Image",
        "Reference",
        "Prediction",
        "Entropy",
    ]
    image, reference, prediction, entropy = axes[4:8]
    assert image.get_title() == "case7"
    assert len(reference.collections) == 1
    assert prediction.get_title() == "Dice 50.0 %"
    picture = np.asarray(prediction.images[0].get_array())
    np.testing.assert_allclose(picture[1, 1], 0.45 * np.array(to_rgb(BRANCH_COLORS["main"])))
    assert entropy.images[0].get_array().shape == (4, 5)
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "LV, reference",
        "LV, prediction",
        "outline of the reference",
    ]


def test_colors_are_shown_as_colors(drawn: list[Figure]) -> None:
    """A picture of 5 × 4 pixels: red at (3, 1), gray at (0, 2), else black."""
    image = np.zeros((3, 5, 4))
    image[0, 3, 1] = 200.0
    image[:, 0, 2] = 100.0
    plot_cases([_panel(image=image)], "unused.png", NAMES)
    cell, reference, _, student, _ = _cells(drawn[0])
    shown = np.asarray(cell.images[0].get_array())
    assert shown.shape == (4, 5, 3)
    # Of all 60 values 56 are 0, three 100 and one 200: the 99th percentile lies at place
    # 0.99 · 59 = 58.41, so 100 + 0.41 · 100 = 141 is white and what is brighter, too.
    np.testing.assert_allclose(shown[1, 3], [1, 0, 0])
    np.testing.assert_allclose(shown[2, 0], [100 / 141] * 3)
    assert shown.sum() == pytest.approx(1 + 3 * 100 / 141)
    # Masks lie over the colors: the student's at (3, 1) is not red.
    picture = np.asarray(student.images[0].get_array())
    np.testing.assert_allclose(picture[2, 0], [100 / 141] * 3)
    np.testing.assert_allclose(picture[1, 1], 0.45 * np.array(to_rgb(BRANCH_COLORS["student"])))
    # The reference, one further, lies over the red pixel in its own color.
    picture = np.asarray(reference.images[0].get_array())
    yellow, red = np.array(to_rgb("#F0E442")), np.array([1, 0, 0])
    np.testing.assert_allclose(picture[1, 3], 0.45 * yellow + 0.55 * red)
    # A picture whose channels are equal looks as the same picture in gray.
    gray = np.random.default_rng(0).normal(size=(5, 4))
    plot_cases([_panel(image=np.stack([gray] * 3))], "unused.png", NAMES)
    plot_cases([_panel(image=gray)], "unused.png", NAMES)
    color, single = (np.asarray(_cells(f)[0].images[0].get_array()) for f in drawn[1:])
    np.testing.assert_allclose(color, np.repeat(single[..., None], 3, axis=2), atol=0.1)


def test_classes_and_unlabeled_have_their_own_colors(drawn: list[Figure]) -> None:
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
    # A class has the same color in every column.
    np.testing.assert_array_equal(np.asarray(teacher.images[0].get_array())[0, :3], picture[0, :3])
    assert [text.get_text() for text in student.texts] == ["not trained"]
    assert [text.get_text() for text in entropy.texts] == ["not available"]
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "RV",
        "myocardium",
        "LV",
        "unlabeled",
        "outline of the reference",
    ]


def test_rows_of_one_case_have_one_scale(drawn: list[Figure]) -> None:
    """A volume of 8 × 6 × 3 voxels of 1 × 1 × 4 mm: the planes are 8 × 6, 8 × 12 and 6 × 12 mm."""
    axial = CasePanel("a", np.zeros((8, 6)), view="axial", edges="RLAP", scores={"student": 1.0})
    coronal = CasePanel("a", np.zeros((8, 3)), view="coronal", edges="RLSI", spacing=(1.0, 4.0))
    sagittal = CasePanel("a", np.zeros((6, 3)), view="sagittal", edges="APSI", spacing=(1.0, 4.0))
    other = CasePanel("b", np.zeros((20, 40)), spacing=(0.5, 0.5))
    plot_cases([axial, coronal, sagittal, other], "unused.png", NAMES)
    axes = drawn[0].axes
    # The cells of a case are as wide as its widest plane.
    ratios = axes[5].get_gridspec().get_height_ratios()[1:]
    assert ratios == [6 / 8, 12 / 8, 12 / 8, 20 / 10]
    firsts = [axes[5 * row] for row in range(1, 5)]
    assert [cell.get_aspect() for cell in firsts] == [1.0, 4.0, 4.0, 1.0]
    assert [cell.get_title() for cell in firsts] == ["a", "", "", "b"]
    assert [cell.get_ylabel() for cell in firsts] == ["axial", "coronal", "sagittal", ""]
    assert ["".join(text.get_text() for text in cell.texts) for cell in firsts] == [
        "RLAP",
        "RLSI",
        "APSI",
        "",
    ]
    drawn[0].draw_without_rendering()
    boxes = [cell.get_position() for cell in firsts[:3]]
    # Millimeters to the inch, from the drawn boxes: the same to the right and down, in all planes.
    wide, high = drawn[0].get_size_inches()
    scales = [8 / (wide * boxes[0].width), 8 / (wide * boxes[1].width), 6 / (wide * boxes[2].width)]
    scales += [6 / (high * boxes[0].height), 12 / (high * boxes[1].height)]
    np.testing.assert_allclose(scales, scales[0], rtol=0.03)


def test_letters_stand_at_their_edges(drawn: list[Figure]) -> None:
    plot_cases([_panel(edges="RLAP")], "unused.png", NAMES)
    image = _cells(drawn[0])[0]
    assert {text.get_text(): text.xy for text in image.texts} == {
        "R": (0.0, 0.5),
        "L": (1.0, 0.5),
        "A": (0.5, 1.0),
        "P": (0.5, 0.0),
    }


def test_the_file_is_written_whole_and_pyplot_is_left_alone(tmp_path: Path) -> None:
    cases = tmp_path / "run" / "cases.png"
    # One row with everything; one without a reference, with a flat and a NaN intensity.
    flat = np.full((6, 9), 3.0)
    flat[0, 0] = np.nan
    bare = CasePanel("bare", flat, student=np.zeros((6, 9), int))
    plot_cases([_panel(), bare], cases, NAMES)
    picture = imread(cases)
    assert picture.shape[0] > 400
    assert picture.shape[1] > 1500
    assert picture.std() > 0.05  # not blank
    assert [path.name for path in cases.parent.iterdir()] == ["cases.png"]
    assert Gcf.get_num_fig_managers() == 0


@pytest.mark.parametrize(
    ("panels", "names", "message"),
    [
        ([], NAMES, "nothing to draw: no panels"),
        ([_panel()], ["background"], r"at least one class, got \['background'\]"),
        ([_panel(image=np.zeros((2, 3, 4)))], NAMES, r"case7: image must .* got \(2, 3, 4\)"),
        ([_panel(image=np.zeros((3, 0, 4)))], NAMES, r"\(H, W\) or \(3, H, W\), got \(3, 0, 4\)"),
        (
            [_panel(image=np.zeros((3, 4, 5)))],
            NAMES,
            r"case7: reference has shape \(5, 4\), the image \(4, 5\)",
        ),
        (
            [_panel(entropy=np.zeros((4, 5)))],
            NAMES,
            r"case7: entropy has shape \(4, 5\), the image",
        ),
        (
            [_panel(spacing=(1.0, 0.0))],
            NAMES,
            r"^case7: spacing must be positive, got \(1.0, 0.0\)$",
        ),
    ],
)
def test_case_refusals(panels: list[CasePanel], names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_cases(panels, "unused.png", names)


def test_cells_can_be_chosen_and_named(drawn: list[Figure]) -> None:
    headings = {"image": "Image", "student": "Prediction"}
    plot_cases([_panel(reference=None)], "unused.png", NAMES, headings)
    assert [axes.texts[0].get_text() for axes in drawn[0].axes[:2]] == ["Image", "Prediction"]
    # Two headings and two cells: no color bar without the entropy.
    assert len(drawn[0].axes) == 4
    assert len(drawn[0].axes[3].collections) == 1  # the prediction's own outline
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["LV, prediction"]
