"""What the files of each case hold: geometry, intensities and the values of labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes
from tqdm import tqdm

from mixseg.data.file_checks import Case, Fault, examine_grid, examine_image, read_file
from mixseg.data.folder.pairs import Pair, file_fault
from mixseg.files.reading import Volume, count_values, is_picture

__all__ = ["ImageFacts", "LabelFacts", "PairFacts", "read_pairs"]

_WORKERS = min(8, os.cpu_count() or 1)
#: A file with more values than this is taken for an image.
_MOST_VALUES = 255
_LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True)
class ImageFacts:
    """An image file.

    Attributes:
        shape: spatial sizes; axis 0 is x.
        channels: colours or components.
        spacing: mm of each spatial axis; None for pictures.
        low: least intensity.
        high: greatest intensity.
        mean: mean intensity.
        digest: equal for images that are equal voxel by voxel.
    """

    shape: tuple[int, ...]
    channels: int
    spacing: tuple[float, ...] | None
    low: float
    high: float
    mean: float
    digest: str


@dataclass(frozen=True)
class LabelFacts:
    """A label file.

    Attributes:
        path: the file.
        counts: voxels of each value, in rising order.
        dtype: how it is stored, where that is no integer type; else an empty string.
        channels: more than one where a grey picture is stored in colour, all channels alike.
    """

    path: Path
    counts: dict[int, int]
    dtype: str
    channels: int


@dataclass
class PairFacts:
    """What one case's files hold; None for what is missing or cannot be used."""

    pair: Pair
    image: ImageFacts | None = None
    label: LabelFacts | None = None
    scribble: LabelFacts | None = None
    faults: list[Fault] = field(default_factory=list)


def read_pairs(pairs: Sequence[Pair], progress: bool = False) -> list[PairFacts]:
    """Open every file once, first its header, and collect what it holds and what is wrong."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        bar = tqdm(
            pool.map(_read_pair, pairs),
            total=len(pairs),
            desc="reading files",
            unit="case",
            disable=not progress,
        )
        return list(bar)


def _read_pair(pair: Pair) -> PairFacts:
    facts = PairFacts(pair)
    add = facts.faults.append
    # The split is not known yet, and the case's id says no more than the file.
    case = Case("training", "", "", str(pair.image), None, None, None, erode=False)
    image = read_file(case, case.image, "image", True, add)
    if image is not None and image.data is not None:
        before = len(facts.faults)
        examine_image(case, image, add)
        if len(facts.faults) == before:
            facts.image = _image_facts(pair.image, image, image.data)
    facts.label = _read_label(case, pair.label, "label", image, facts.faults)
    facts.scribble = _read_label(case, pair.scribble, "scribble", image, facts.faults)
    return facts


def _image_facts(path: Path, image: Volume, data: np.ndarray) -> ImageFacts:
    flat = np.ascontiguousarray(data.ravel(order="K"))
    digest = hashlib.blake2b(str((data.shape, data.dtype.str)).encode(), digest_size=16)
    digest.update(flat.data)
    spacing = None
    if not is_picture(path):
        spacing = tuple(float(size) for size in voxel_sizes(image.affine)[: len(image.shape)])
    return ImageFacts(
        tuple(image.shape),
        image.channels,
        spacing,
        float(flat.min()),
        float(flat.max()),
        float(flat.mean(dtype=np.float64)),
        digest.hexdigest(),
    )


def _read_label(
    case: Case, path: Path | None, name: str, image: Volume | None, faults: list[Fault]
) -> LabelFacts | None:
    if path is None:
        return None
    if path.suffix.lower() in _LOSSY:
        faults.append(
            file_fault(
                path,
                f"the {name} is a JPEG file, whose values are not exact",
                "export it again as PNG",
            )
        )
        return None
    before = len(faults)
    label = read_file(case, str(path), name, True, faults.append)
    if label is None or label.data is None:
        return None
    data, channels = label.data, label.channels
    if channels > 1 and _all_alike(data):
        data = data[..., 0]
        label = Volume(label.shape, label.affine, data)
    elif channels > 1:
        faults.append(
            file_fault(
                path,
                f"the {name} is a colour image of {channels} channels",
                "store class indices in one channel",
            )
        )
        return None
    if image is not None:
        examine_grid(case, str(path), name, image, label, faults.append)
    counts, odd = count_values(data)
    if odd is not None:
        faults.append(
            file_fault(
                path,
                f"the {name} ({data.dtype}) has values that are not whole numbers, such as {odd:g}",
                "a label map holds class indices; it may have been resampled with interpolation, "
                "so export it again with nearest neighbour",
            )
        )
    elif len(counts) > _MOST_VALUES:
        faults.append(
            file_fault(
                path,
                f"the {name} holds {len(counts)} different values: it looks like an image",
                "give the images first and the labels second",
            )
        )
    dtype = "" if np.issubdtype(data.dtype, np.integer) or data.dtype == bool else str(data.dtype)
    return LabelFacts(path, counts, dtype, channels) if len(faults) == before else None


def _all_alike(data: np.ndarray) -> bool:
    """Whether all colours hold the same values; of two or four channels the last is opacity."""
    if data.shape[-1] in (2, 4):
        opacity, data = data[..., -1], data[..., :-1]
        if opacity.min() != opacity.max():
            return False
    return bool((data == data[..., :1]).all())
