"""Rendered surfaces of predictions, colored by their distance to the reference's surface.

PyVista (VTK) makes the meshes and the pictures, without a display; the extra ``surfaces`` installs
it.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy import ndimage

from mixseg.report.canvas import INK, MUTED, new_figure, note, save_png

logger = logging.getLogger(__name__)

INSTALL_SURFACES = "pip install 'mixseg[surfaces]'"
_CMAP = "RdBu_r"
_REFERENCE_COLOR = "#8A8A8A"
_SIZE = (720, 560)  # pixels of a view
_PROBE = """
import pyvista as pv
plotter = pv.Plotter(off_screen=True, window_size=(32, 32))
plotter.add_mesh(pv.Sphere(), color="red")
picture = plotter.screenshot(None, return_img=True)
assert picture.min() != picture.max(), "the picture is blank"
"""


@dataclass(frozen=True)
class CaseSurface:
    """What is drawn of one class of one case.

    Attributes:
        case_id: name of the case.
        class_name: name of the class.
        prediction: ``pyvista.PolyData`` with the point array ``distance``; None if empty.
        reference: ``pyvista.PolyData``; None if empty.
        unit: of the distances, "mm" or "voxels".
    """

    case_id: str
    class_name: str
    prediction: Any
    reference: Any
    unit: str


def pyvista_is_installed() -> bool:
    """Whether PyVista can be imported; it is not imported to find out."""
    return importlib.util.find_spec("pyvista") is not None


@functools.cache
def rendering_problem() -> str | None:
    """Why this machine cannot render off-screen, or None if it can; found out once.

    VTK ends the whole process where it finds neither a display nor a library for rendering
    without one, so it is tried in another process first.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip() for line in done.stderr.splitlines()]
    cause = next((line for line in reversed(lines) if line), "no message")
    return (
        f"VTK cannot render here (exit status {done.returncode}: {cause}). Without a display it "
        "needs EGL or OSMesa, e.g. apt-get install libosmesa6"
    )


def extract_surface(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    directions: NDArray[np.float64] | None = None,
) -> tuple[Any, Any]:
    """Surfaces of two masks, the first with its distance to the second.

    The surfaces run half-way between voxels inside and outside, by marching cubes. The distance
    of a vertex is the one to the nearest point of the other surface, positive outside the
    reference (too much) and negative inside (too little), and is measured before the steps
    between voxels are smoothed away for the eye.

    Args:
        prediction: mask of shape (H, W, D).
        reference: mask of the same shape.
        spacing: voxel size along the array axes.
        directions: unit vectors of the array axes as columns, (3, 3), in RAS+ world coordinates;
            None for the array's own.

    Returns:
        (prediction, reference) as ``pyvista.PolyData``, vertices in the unit of the spacing; the
        first has the point array ``distance`` in this unit if neither is empty. None for an empty
        mask.

    Raises:
        ValueError: if the masks do not have one shape of three axes.
        ImportError: without PyVista.
    """
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise ValueError(
            "expected two masks of one shape (H, W, D), got "
            f"{prediction.shape} and {reference.shape}"
        )
    boxes = ndimage.find_objects((prediction | reference).astype(np.uint8))
    if not boxes:
        return None, None
    start = [side.start for side in boxes[0]]
    found, truth = (_contour(mask[boxes[0]], start, spacing) for mask in (prediction, reference))
    if found is not None and truth is not None:
        found = found.compute_implicit_distance(truth)
        found["distance"] = found["implicit_distance"].astype(np.float32)
        del found.point_data["implicit_distance"]
    for surface in (found, truth):
        if surface is not None and directions is not None:
            surface.points = surface.points @ np.asarray(directions, np.float32).T
    return found, truth


def _contour(mask: NDArray[np.bool_], start: Sequence[int], spacing: Sequence[float]) -> Any:
    import pyvista as pv

    if not mask.any():
        return None
    # A frame of background closes the surface at the edge of the array.
    values = np.pad(mask, 1).astype(np.float32)
    origin = [(first - 1) * size for first, size in zip(start, spacing, strict=True)]
    grid = pv.ImageData(dimensions=values.shape, spacing=tuple(spacing), origin=origin)
    grid["mask"] = values.ravel(order="F")
    surface = grid.contour([0.5], scalars="mask", compute_normals=False)
    surface.clear_data()
    return surface


def plot_surfaces(
    surfaces: Sequence[CaseSurface],
    path: str | os.PathLike[str],
    *,
    captions: Sequence[str],
    branch: str = "student",
) -> None:
    """Draw one row per surface: two opposite views, with one scale of colors for all.

    The predicted surface is colored by its signed distance to the reference, whose surface lies
    around it in transparent gray. The scale ends at the 98th percentile of all distances, and at
    one unit at least.

    Args:
        surfaces: at least one.
        path: PNG file to write.
        captions: title of each row.
        branch: named at the scale.

    Raises:
        ValueError: if there is no surface, or the captions are not as many.
        ImportError: without PyVista.
        OSError: if the file cannot be written.
    """
    if not surfaces or len(captions) != len(surfaces):
        raise ValueError(f"cannot draw {len(surfaces)} surfaces with {len(captions)} captions")
    values = [
        np.abs(s.prediction["distance"])
        for s in surfaces
        if s.prediction is not None and s.reference is not None
    ]
    limit = max(1.0, float(np.percentile(np.concatenate(values), 98))) if values else 1.0
    units = sorted({surface.unit for surface in surfaces})
    # A file whose voxel size is not known does not know its directions either.
    headings = ("from the front", "from behind") if units == ["mm"] else ("one side", "other side")
    views = _crop([[_render(s, limit, side) for side in (1.0, -1.0)] for s in surfaces])
    shapes = [view.shape for row in views for view in row if view is not None]
    height, width = shapes[0][:2] if shapes else (1, 4)
    inches = 3.9 * height / width
    figure = new_figure(2 * 3.9 + 1.3, max(len(surfaces) * (inches + 0.35) + 0.6, 3.2))
    cells = figure.subplots(len(surfaces), 2, squeeze=False)
    for row, pictures, surface, caption in zip(cells, views, surfaces, captions, strict=True):
        _draw_row(row, pictures, surface)
        row[0].set_title(caption, loc="left", fontsize=10, color=INK)
    for axes, heading in zip(cells[-1], headings, strict=True):
        axes.set_xlabel(heading, fontsize=9.5, color=MUTED)
    scale = ScalarMappable(Normalize(-limit, limit), _CMAP)
    bar = figure.colorbar(scale, ax=cells, extend="both", fraction=0.05, pad=0.02, aspect=30)
    label = f"{branch} inside the reference   |   outside, {' or '.join(units)}"
    bar.set_label(label, fontsize=9.5, color=INK)
    bar.ax.tick_params(labelsize=8.5, colors=MUTED)
    bar.outline.set_visible(False)
    reference = Patch(color=_REFERENCE_COLOR, alpha=0.5, label="reference")
    figure.legend(handles=[reference], loc="outside lower left", frameon=False, fontsize=9.5)
    save_png(figure, path)


def _draw_row(
    row: Sequence[Axes], pictures: Sequence[NDArray[np.uint8] | None], surface: CaseSurface
) -> None:
    masks = {"prediction": surface.prediction, "reference": surface.reference}
    missing = [name for name, mesh in masks.items() if mesh is None]
    for axes, picture in zip(row, pictures, strict=True):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if picture is None:
            note(axes, f"empty: {' and '.join(missing)}")
        else:
            axes.imshow(picture, interpolation="antialiased")


def _crop(
    rows: list[list[NDArray[np.uint8] | None]],
) -> list[list[NDArray[np.uint8] | None]]:
    """Cut the white margin that all pictures have, the same from each, so that none is scaled."""
    pictures = [picture for row in rows for picture in row if picture is not None]
    if not pictures:
        return rows
    ink = np.any([(picture < 255).any(axis=2) for picture in pictures], axis=0)
    down, right = ndimage.find_objects(ndimage.binary_dilation(ink, iterations=8).astype(np.uint8))[
        0
    ]
    return [[None if p is None else p[down, right] for p in row] for row in rows]


def _render(surface: CaseSurface, limit: float, side: float) -> NDArray[np.uint8] | None:
    """Picture (height, width, 3) from the front of the body (``side`` 1) or from behind (−1)."""
    if surface.prediction is None or surface.reference is None:
        return None
    import pyvista as pv

    with pv.vtk_verbosity("off"):  # it complains about the missing display on every window
        plotter = pv.Plotter(off_screen=True, window_size=_SIZE, lighting="none")
        try:
            plotter.set_background("white")
            plotter.enable_parallel_projection()
            plotter.add_light(pv.Light(light_type="headlight"))  # white, to keep the colors
            plotter.add_mesh(
                _smooth(surface.prediction),
                scalars="distance",
                clim=(-limit, limit),
                cmap=_CMAP,
                smooth_shading=True,
                ambient=0.3,
                diffuse=0.7,
                show_scalar_bar=False,
            )
            plotter.add_mesh(
                _smooth(surface.reference),
                color=_REFERENCE_COLOR,
                opacity=0.25,
                smooth_shading=True,
            )
            plotter.view_vector((0.0, side, 0.35), viewup=(0.0, 0.0, 1.0))
            plotter.camera.zoom(1.3)
            return np.asarray(plotter.screenshot(None, return_img=True))
        finally:
            plotter.close()


def _smooth(surface: Any) -> Any:
    """The surface without the steps between voxels; Taubin's filter does not shrink it."""
    return surface.smooth_taubin(n_iter=30, pass_band=0.08)
