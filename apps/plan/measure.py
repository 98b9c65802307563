"""Facts that ``mixseg new`` measures on the training cases of a datalist, and on no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage as ndi
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation
from tqdm import tqdm

from mixseg.data.file_checks import image_files
from mixseg.files.reading import UnreadableError, Volume, count_values, is_picture, open_volume

#: Images whose intensities are read, spread over the training cases, and voxels taken of each.
_SAMPLED_CASES = 100
_SAMPLED_VOXELS = 20_000
#: Share of a class's voxels that one connected object holds where there are specks beside it.
_ONE_OBJECT = 0.95


@dataclass(frozen=True)
class Intensities:
    """Gray values of a sample of the training images.

    Attributes:
        lowest: median over the images of the smallest value.
        integer: whether all images store whole numbers.
        byte: whether all images store unsigned bytes.
        mean: over images and channels.
        sd: likewise.
        objects: the values at 0.5 and 99.5 % and mean and sd between them, of the voxels of the
            foreground of full masks; None where no full mask shows any.
    """

    lowest: float
    integer: bool
    byte: bool
    mean: float
    sd: float
    objects: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class DataFacts:
    """Facts measured on the training cases.

    Axes are the anatomical ones, right, anterior and superior, whatever the files' order; those
    of pictures are x, y and the one slice.

    Attributes:
        classes: names, background first.
        unlabeled: value of unlabeled voxels in the files.
        full: patients that train with full masks.
        partial: patients that train with partial labels.
        eroded: whether the partial labels are still to be eroded from masks.
        full_cases: cases of the full patients.
        partial_cases: cases of the partial patients.
        pictures: whether the images are two-dimensional.
        channels: of every image.
        shape: median size along each axis, voxels.
        spacing: median size of a voxel along each axis, mm; ones where the files do not know it.
        sizes: of every case, its kind (full or partial) and its size along each axis, voxels.
        seen: classes that the labels show, partial ones included.
        background_drawn: whether the partial labels mark background as well.
        single: whether each full mask shows one connected object a class, specks apart; False
            without full masks.
        intensities: of the images.
    """

    classes: tuple[str, ...]
    unlabeled: int
    full: int
    partial: int
    eroded: bool
    full_cases: int
    partial_cases: int
    pictures: bool
    channels: int
    shape: tuple[float, float, float]
    spacing: tuple[float, float, float]
    sizes: tuple[tuple[str, tuple[int, int, int]], ...]
    seen: frozenset[int]
    background_drawn: bool
    single: bool
    intensities: Intensities

    @property
    def unseen(self) -> list[str]:
        """Names of the foreground classes that no label shows."""
        return [n for i, n in enumerate(self.classes) if i > 0 and i not in self.seen]

    def slices(self, kind: str, axis: int) -> int:
        """Slices across an axis that the cases of a kind have together."""
        return sum(size[axis] for one, size in self.sizes if one == kind)


def measure(
    items: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    unlabeled: int,
    progress: bool = False,
) -> DataFacts:
    """Read the training cases.

    Of a full case the mask is read, of a partial case its partial label. The full mask of a case
    that is to be eroded into a scribble is not opened, nor is anything of other cases.

    Args:
        items: what :func:`mixseg.data.select_cases` returns.

    Raises:
        ValueError: a file cannot be read, or the images differ in
            channels or in being pictures or volumes; the message names the file.
    """
    geometry: list[tuple[np.ndarray, np.ndarray]] = []
    first: tuple[Mapping[str, Any], Volume] | None = None
    counts: dict[str, set[int]] = {"full": set(), "partial": set()}
    samples = _Samples()
    single: list[bool] = []
    wanted = set(np.linspace(0, len(items) - 1, min(len(items), _SAMPLED_CASES)).astype(int))
    bar = tqdm(items, desc="measuring", unit="case", disable=not progress)
    for index, item in enumerate(bar):
        image = _opened(item, "image", voxels=index in wanted)
        if first is None:
            first = (item, image)
        _refuse_another_kind(item, image, *first)
        geometry.append(_anatomical(image, image_files(item)[0]))
        kind = str(item["supervision"])
        label = None
        if not item["erode"]:
            label = _opened(item, "label", voxels=True).data
            assert label is not None
            counts[kind].update(count_values(label)[0])
            if kind == "full":
                single.append(_one_object_a_class(label, len(classes)))
        if image.data is not None:
            samples.add(image, label if kind == "full" else None, len(classes))
    assert first is not None, "select_cases returns at least one case"
    shape, spacing = (np.median(np.stack(column), axis=0) for column in zip(*geometry, strict=True))
    return DataFacts(
        classes=tuple(classes),
        unlabeled=unlabeled,
        full=_patients(items, "full"),
        partial=_patients(items, "partial"),
        eroded=any(item["erode"] for item in items),
        full_cases=sum(item["supervision"] == "full" for item in items),
        partial_cases=sum(item["supervision"] == "partial" for item in items),
        pictures=len(first[1].shape) == 2,
        channels=first[1].channels,
        shape=(float(shape[0]), float(shape[1]), float(shape[2])),
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        sizes=tuple(
            (str(item["supervision"]), (int(size[0]), int(size[1]), int(size[2])))
            for item, (size, _) in zip(items, geometry, strict=True)
        ),
        seen=frozenset(counts["full"] | counts["partial"]) & frozenset(range(len(classes))),
        background_drawn=0 in counts["partial"],
        single=bool(single) and all(single),
        intensities=samples.summary(),
    )


def _opened(item: Mapping[str, Any], key: str, voxels: bool) -> Volume:
    try:
        return open_volume(item[key], voxels)
    except UnreadableError as reason:
        raise ValueError(
            f"{item[key]} (case {item['case_id']}): the {key} cannot be read ({reason}); "
            f"{reason.fix}. 'mixseg validate' lists all faults of the data"
        ) from reason


def _refuse_another_kind(
    item: Mapping[str, Any], image: Volume, first: Mapping[str, Any], other: Volume
) -> None:
    for what, one, two in (
        ("axes", len(image.shape), len(other.shape)),
        ("channels", image.channels, other.channels),
    ):
        if one != two:
            raise ValueError(
                f"{item['image']}: the image has {one} {what}, {first['image']} has {two}; a "
                "bundle is for images of one kind: convert them, or make another datalist"
            )


def _anatomical(image: Volume, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Size and spacing along right, anterior and superior; along x, y and 1 of a picture."""
    if len(image.shape) == 2:
        spacing = np.ones(2) if is_picture(path) else voxel_sizes(image.affine)[:2]
        return np.array([*image.shape, 1]), np.array([*spacing, 1.0])
    order = [int(axis) for axis in io_orientation(image.affine)[:, 0]]
    shape, spacing = np.empty(3), np.empty(3)
    shape[order], spacing[order] = image.shape, voxel_sizes(image.affine)
    return shape, spacing


def _one_object_a_class(label: np.ndarray, classes: int) -> bool:
    """Whether almost all voxels of each class hang together, corners included."""
    for value in range(1, classes):
        mask = label == value
        box = ndi.find_objects(mask.astype(np.uint8))
        if not box:
            continue
        objects, _ = ndi.label(mask[box[0]], np.ones((3,) * mask.ndim))
        sizes = np.bincount(objects.ravel())[1:]
        if sizes.max() < _ONE_OBJECT * sizes.sum():
            return False
    return True


def _patients(items: Sequence[Mapping[str, Any]], kind: str) -> int:
    return len({item["patient_id"] for item in items if item["supervision"] == kind})


class _Samples:
    """Voxels taken at even steps from each image and from its foreground."""

    def __init__(self) -> None:
        self.values: list[np.ndarray] = []
        self.objects: list[np.ndarray] = []
        self.lowest: list[float] = []
        self.integer = self.byte = True

    def add(self, image: Volume, label: np.ndarray | None, classes: int) -> None:
        data = image.data
        assert data is not None
        flat = data.reshape(-1, image.channels)
        self.integer &= np.issubdtype(data.dtype, np.integer) or bool((np.rint(flat) == flat).all())
        self.byte &= data.dtype == np.uint8
        self.lowest.append(float(flat.min()))
        self.values.append(_thinned(flat))
        if label is not None and label.shape == image.shape:
            self.objects.append(_thinned(flat[((label > 0) & (label < classes)).reshape(-1)]))

    def summary(self) -> Intensities:
        values = np.concatenate([v.ravel() for v in self.values])
        inside = np.concatenate([v.ravel() for v in (*self.objects, np.empty(0))])
        objects = None
        if inside.size:
            low, high = np.percentile(inside, (0.5, 99.5))
            clipped = inside.clip(low, high)
            objects = (float(low), float(high), float(clipped.mean()), float(clipped.std()))
        return Intensities(
            lowest=float(np.median(self.lowest)),
            integer=self.integer,
            byte=bool(self.byte),
            mean=float(values.mean()),
            sd=float(values.std()),
            objects=objects,
        )


def _thinned(rows: np.ndarray) -> np.ndarray:
    return rows[:: max(1, len(rows) // _SAMPLED_VOXELS)].astype(np.float64)
