"""Surfaces: distances of analytic shapes, what is drawn, and that no failure ends an evaluation."""

from __future__ import annotations

import logging
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from matplotlib.figure import Figure
from matplotlib.image import imread
from monai.data import MetaTensor

from mixseg.handlers import CaseScorer
from mixseg.handlers import surfaces as collecting
from mixseg.handlers.surfaces import SurfaceCollector
from mixseg.report import surfaces
from mixseg.report.surfaces import (
    CaseSurface,
    extract_surface,
    plot_surfaces,
    pyvista_is_installed,
    rendering_problem,
)

needs_pyvista = pytest.mark.skipif(
    not pyvista_is_installed(), reason="PyVista is not installed (the extra 'surfaces')"
)
SHAPE = (24, 20, 16)
RAS, LPS = np.eye(3), np.diag([-1.0, -1.0, 1.0])


@pytest.fixture
def rendering() -> None:
    """Skip where nothing can be rendered."""
    if not pyvista_is_installed() or (problem := rendering_problem()):
        pytest.skip(problem if pyvista_is_installed() else "PyVista is not installed")


@pytest.fixture
def fresh_probe() -> Iterator[None]:
    rendering_problem.cache_clear()
    yield
    rendering_problem.cache_clear()


def box(*ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(a, b) for a, b in ranges)] = True
    return mask


def ball(radius: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """A ball about the middle of a field of 32 mm."""
    axes = [np.arange(round(32 / size)) * size + size / 2 - 16 for size in spacing]
    return np.linalg.norm(np.stack(np.meshgrid(*axes, indexing="ij")), axis=0) <= radius


@needs_pyvista
@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (0.4, 0.5, 0.8)])
def test_distance_of_concentric_balls(spacing: tuple[float, float, float]) -> None:
    """Radii of 12 and 9 mm: 3 mm everywhere, outside or inside by which is the reference."""
    large, small = ball(12.0, spacing), ball(9.0, spacing)
    voxel = float(np.linalg.norm(spacing))
    for prediction, reference, expected in ((large, small, 3.0), (small, large, -3.0)):
        found, truth = extract_surface(prediction, reference, spacing)
        distance = found["distance"]
        assert np.abs(distance - expected).max() < voxel
        # The steps between voxels stick out of a ball, toward the other surface.
        assert distance.mean() == pytest.approx(expected, abs=0.4 * min(spacing))
        assert found.n_open_edges == truth.n_open_edges == 0
    # Volume inside the surface: 4/3 π 9³ = 3054 mm³.
    assert truth.volume == pytest.approx(4 / 3 * math.pi * 12**3, rel=0.02)
    assert found.volume == pytest.approx(4 / 3 * math.pi * 9**3, rel=0.02)


@needs_pyvista
def test_distance_of_shifted_boxes() -> None:
    """One box is longer by three voxels of 2 mm at the end of axis 0: 6 mm there, 0 elsewhere."""
    spacing = (2.0, 1.0, 0.5)
    reference = box((4, 12), (5, 15), (2, 14))
    found, _ = extract_surface(box((4, 15), (5, 15), (2, 14)), reference, spacing)
    x = np.asarray(found.points)[:, 0]
    end = np.isclose(x, x.max())
    # Faces lie half a voxel beyond the last voxel's center.
    assert x.max() == pytest.approx(14.5 * 2.0)
    inner = end & (np.abs(np.asarray(found.points)[:, 1] - 9.5) < 4)
    inner &= np.abs(np.asarray(found.points)[:, 2] - 3.75) < 2.5
    np.testing.assert_allclose(found["distance"][inner], 6.0, atol=1e-4)
    np.testing.assert_allclose(found["distance"][x < 11 * 2.0], 0.0, atol=1e-4)


@needs_pyvista
def test_equal_masks_up_to_the_edge_of_the_array() -> None:
    everything = np.ones((4, 5, 6), bool)
    found, truth = extract_surface(everything, everything, (1.0, 2.0, 3.0))
    np.testing.assert_allclose(found["distance"], 0.0, atol=1e-5)
    assert found.n_open_edges == truth.n_open_edges == 0
    low, high = np.reshape(found.bounds, (3, 2)).T
    np.testing.assert_allclose(low, [-0.5, -1.0, -1.5])
    np.testing.assert_allclose(high, [3.5, 9.0, 16.5])


@needs_pyvista
def test_directions_turn_the_surface_and_keep_the_distances() -> None:
    prediction, reference = box((4, 15), (5, 15), (2, 14)), box((4, 12), (6, 15), (2, 14))
    plain, _ = extract_surface(prediction, reference, (2.0, 1.0, 0.5))
    turned, truth = extract_surface(prediction, reference, (2.0, 1.0, 0.5), LPS)
    np.testing.assert_allclose(turned.points, plain.points * [-1, -1, 1])
    np.testing.assert_array_equal(turned["distance"], plain["distance"])
    assert truth.bounds[1] == pytest.approx(-3.5 * 2.0)


@needs_pyvista
def test_empty_masks() -> None:
    empty, full = box((0, 0)), box((4, 8), (4, 8), (4, 8))
    assert extract_surface(empty, empty) == (None, None)
    found, truth = extract_surface(full, empty)
    assert truth is None
    assert "distance" not in found.point_data
    found, truth = extract_surface(empty, full)
    assert found is None
    assert truth.n_points


@needs_pyvista
def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(24, 20, 16\) and \(2, 2, 2\)$"):
        extract_surface(box((0, 1)), np.ones((2, 2, 2), bool))


def surface(prediction: np.ndarray, reference: np.ndarray, unit: str = "mm") -> CaseSurface:
    return CaseSurface("a", "LA", *extract_surface(prediction, reference), unit)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be written."""
    collected: list[Figure] = []
    monkeypatch.setattr(surfaces, "save_png", lambda figure, path: collected.append(figure))
    return collected


@pytest.mark.usefixtures("rendering")
def test_colors_sides_and_scale(drawn: list[Figure]) -> None:
    """Moved by three voxels to the front: outside (red) there, inside (blue) behind."""
    reference = box((4, 20), (6, 12), (3, 13))
    moved = surface(box((4, 20), (9, 15), (3, 13)), reference)
    same = surface(reference, reference)
    nothing = CaseSurface("b", "LA", None, same.reference, "mm")
    plot_surfaces([moved, same, nothing], "unused.png", captions=["moved", "same", "nothing"])
    (figure,) = drawn
    cells, bar = figure.axes[:6], figure.axes[-1]
    assert [cell.get_title(loc="left") for cell in cells[::2]] == ["moved", "same", "nothing"]
    assert [cell.get_xlabel() for cell in cells[4:]] == ["from the front", "from behind"]
    # 98 % of the distances are 3 at most, and the two faces alone have more than 4 % of the points.
    assert bar.get_ylim() == pytest.approx((-3.0, 3.0), abs=1e-3)
    assert bar.get_ylabel() == "student inside the reference   |   outside, mm"
    front, behind, *others = (cell.images[0].get_array() for cell in cells[:4])
    assert len({picture.shape for picture in (front, behind, *others)}) == 1
    redness = [
        (picture[..., 0].astype(int) - picture[..., 2])[picture.min(axis=2) < 250].mean()
        for picture in (front, behind, *others)
    ]
    assert redness[0] > 25
    assert redness[1] < -25
    assert max(abs(value) for value in redness[2:]) < 5
    assert [text.get_text() for cell in cells[4:] for text in cell.texts] == [
        "empty: prediction",
        "empty: prediction",
    ]


@pytest.mark.usefixtures("rendering")
def test_sides_are_not_named_where_the_header_knows_nothing(drawn: list[Figure]) -> None:
    one = surface(box((4, 20), (9, 15), (3, 13)), box((4, 20), (6, 12), (3, 13)), "voxels")
    plot_surfaces([one], "unused.png", captions=["a"])
    assert [cell.get_xlabel() for cell in drawn[0].axes[:2]] == ["one side", "other side"]
    assert drawn[0].axes[-1].get_ylabel().endswith("outside, voxels")


def test_a_caption_each() -> None:
    with pytest.raises(ValueError, match="cannot draw 0 surfaces with 1 captions"):
        plot_surfaces([], "unused.png", captions=["a"])


def evaluate(*handlers: Any, ndim: int = 3, cases: int = 2, branch: str = "student") -> None:
    """Cases of a moved box with voxels of 0.5 mm; the second has nothing predicted."""
    reference, moved = box((4, 20), (6, 12), (3, 13)), box((4, 20), (9, 15), (3, 13))
    if ndim == 2:
        reference, moved = reference[..., 8], moved[..., 8]
    batches, outputs = [], []
    for number, predicted in zip(range(cases), (moved, moved & False), strict=False):
        affine = np.diag([0.5, 0.5, 0.5, 1.0])
        label = MetaTensor(torch.from_numpy(reference[None].astype(np.uint8)), affine=affine)
        batches.append([{"label": label, "native": label.clone(), "case_id": f"case{number}"}])
        foreground = torch.from_numpy(predicted.astype(np.float32))
        probabilities = torch.stack([1 - foreground, foreground])
        outputs.append([{branch: probabilities}])
    engine = Engine(lambda engine, batch: outputs[engine.state.iteration - 1])
    engine.data_loader = batches  # type: ignore[attr-defined]
    for handler in handlers:
        handler.attach(engine)
    engine.run(batches)


@pytest.mark.usefixtures("rendering")
@pytest.mark.parametrize("branch", ["student", "teacher", "main"])
def test_an_evaluation_leaves_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, branch: str
) -> None:
    captions: list[str] = []
    original = plot_surfaces

    def plot(*args: Any, **options: Any) -> None:
        captions.extend([*options["captions"], options["branch"]])
        original(*args, **options)

    monkeypatch.setattr(collecting, "plot_surfaces", plot)
    scorer = CaseScorer(["background", "LA"])
    collector = SurfaceCollector(scorer)
    evaluate(scorer, collector, branch=branch)
    assert collector.render(tmp_path / "surfaces.png")
    # Half of the box overlaps. The moved box's surface is 3 voxels of 0.5 mm from the reference's.
    # Nothing predicted: the diagonal of 24 × 20 × 16 voxels.
    diagonal = 0.5 * math.sqrt(24**2 + 20**2 + 16**2)
    assert captions == [
        "case0   Dice 50.0 %   HD95 1.5 mm",
        f"case1   Dice 0.0 %   HD95 {diagonal:.1f} mm",
        branch,
    ]
    picture = imread(tmp_path / "surfaces.png")
    assert picture.shape[1] > 1000
    assert picture.std() > 0.05


@needs_pyvista
def test_only_pictured_cases_and_no_volumes_are_kept() -> None:
    scorer = CaseScorer(["background", "LA"], panels=1)
    collector = SurfaceCollector(scorer)
    evaluate(scorer, collector)
    evaluate(scorer, collector)  # a second evaluation starts anew
    (one,) = collector.surfaces
    assert (one.case_id, one.unit) == ("case0", "mm")
    assert list(one.prediction.point_data) == ["distance"]
    np.testing.assert_allclose(one.prediction["distance"].max(), 3 * 0.5, atol=1e-4)


def test_images_have_no_surface(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    collector = SurfaceCollector(CaseScorer(["background", "LA"], panels=0))
    collector.scorer = SimpleNamespace(is_pictured=lambda engine: True)  # type: ignore[assignment]
    with caplog.at_level(logging.INFO, logger=collecting.__name__):
        evaluate(collector, ndim=2)
    assert not collector.render(tmp_path / "surfaces.png")
    assert not caplog.records


def test_one_line_where_pyvista_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(collecting, "pyvista_is_installed", lambda: False)
    scorer = CaseScorer(["background", "LA"])
    collector = SurfaceCollector(scorer)
    with caplog.at_level(logging.INFO, logger=collecting.__name__):
        evaluate(scorer, collector)
    assert not collector.render(tmp_path / "surfaces.png")
    assert [record.getMessage() for record in caplog.records] == [
        "surfaces.png is left out: pip install 'mixseg[surfaces]' adds it"
    ]


@needs_pyvista
@pytest.mark.parametrize("what", ["_add", "probe", "plot"])
def test_a_failure_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("no memory for the mesh")

    monkeypatch.setattr(collecting, "rendering_problem", lambda: None)
    if what == "_add":
        monkeypatch.setattr(SurfaceCollector, "_add", fail)
    elif what == "plot":
        monkeypatch.setattr(collecting, "plot_surfaces", fail)
    else:
        monkeypatch.setattr(collecting, "rendering_problem", lambda: "no memory for the mesh")
    scorer = CaseScorer(["background", "LA"])
    collector = SurfaceCollector(scorer)
    evaluate(scorer, collector)
    assert not collector.render(tmp_path / "surfaces.png")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "surfaces.png is left out: no memory for the mesh")
    ]
    assert len(scorer.rows) == 2  # the scores are there


@pytest.mark.usefixtures("fresh_probe")
def test_a_crash_of_vtk_is_found_out_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As VTK 9.7 ends on a machine without a display, EGL and OSMesa."""
    calls = []

    def crash(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        log = "\x1b[0m\x1b[33m( 1.0s) vtkOSOpenGLRenderWindow | libOSMesa not found.\x1b[0m\n\n"
        return subprocess.CompletedProcess(command, -11, "", log)

    monkeypatch.setattr(subprocess, "run", crash)
    expected = (
        "VTK cannot render here (exit status -11: ( 1.0s) vtkOSOpenGLRenderWindow | libOSMesa not "
        "found.). Without a display it needs EGL or OSMesa, e.g. apt-get install libosmesa6"
    )
    assert rendering_problem() == expected
    assert rendering_problem() == expected
    assert len(calls) == 1


@pytest.mark.usefixtures("fresh_probe")
def test_a_hanging_display_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **options: Any) -> None:
        raise subprocess.TimeoutExpired("python", options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    assert rendering_problem() == "Command 'python' timed out after 120 seconds"
