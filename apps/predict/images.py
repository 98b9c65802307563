"""The images to predict: which there are, and why one of them cannot be."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mixseg.data.file_checks import find_outlier
from mixseg.data.find import search_images
from mixseg.files.reading import UnreadableError, is_dicom, open_volume, voxels

__all__ = [
    "CaseError",
    "InputCase",
    "check_axes",
    "join_channels",
    "place_cases",
    "refuse_other_than_dicom",
    "refuse_same_outputs",
    "remarks_of",
    "root_cause",
    "search_cases",
    "why",
]


class CaseError(Exception):
    """One image that cannot be predicted; the others can.

    Attributes:
        kind: ``unreadable``, ``truncated``, ``wrong dimension``, ``not finite`` or ``failed``.
        problem: what is wrong with it.
        fix: what to do about it.
    """

    def __init__(self, kind: str, problem: str, fix: str) -> None:
        super().__init__(f"{problem}; {fix}")
        self.kind = kind
        self.problem = problem
        self.fix = fix


_CHANNEL = re.compile(r"^(?P<case>.+)_\d{4}\.[^_]+$")


@dataclass(frozen=True)
class InputCase:
    """An image, its case's name, and the folder below the output folder that its files go to.

    ``channels`` are further files of the image, one each of its other channels.
    """

    image: Path
    case_id: str
    folder: Path = Path()
    channels: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The image's file, or its files."""
        return (self.image, *self.channels)

    @property
    def source(self) -> str | list[str]:
        """What the reader opens."""
        return [str(path) for path in self.files] if self.channels else str(self.image)


def search_cases(source: Path, output: Path) -> tuple[list[InputCase], list[str]]:
    """The image at ``source``, or all images below it except those below ``output``.

    Returns:
        The cases, and a sentence for each kind of file that is left out.

    Raises:
        ValueError: there is none, or the masks would lie among the images.
    """
    if not source.exists():
        raise ValueError(f"there is no '{source}': give an image or a folder of images with -i")
    target = output.resolve()
    if source.is_dir() and source.resolve() == target:
        raise ValueError(
            f"'{output}' is the folder of the images: masks there would count as images the next "
            "time; give another -o, for example a folder in it"
        )
    try:
        found = search_images(source)
    except FileNotFoundError as error:
        what = str(error).removesuffix(": set --dataset_dir")
        raise ValueError(f"{what}: give an image or a folder of images with -i") from error
    cases = [InputCase(Path(item["image"]), item["case_id"]) for item in found.images]
    cases = [c for c in cases if target not in c.image.resolve().parents or source.is_file()]
    if not cases:
        raise ValueError(f"all images below '{source}' are in the output folder '{output}'")
    return cases, found.left_out


def place_cases(cases: Sequence[InputCase]) -> list[InputCase]:
    """The cases, each in its image's folder where one name occurs in several folders.

    So the masks of a folder per patient with equal file names lie in a folder per patient.
    """
    names = {case.case_id.lower() for case in cases}
    if len(names) == len(cases):
        return list(cases)
    root = Path(os.path.commonpath([case.image.parent.absolute() for case in cases]))
    placed = []
    for case in cases:
        folder = case.image.parent.absolute().relative_to(root)
        name = "_".join((*folder.parts, case.case_id))
        placed.append(replace(case, folder=folder, case_id=name))
    return placed


def join_channels(cases: Sequence[InputCase], channels: int) -> list[InputCase]:
    """The cases, with files named as nnU-Net names channels (``a_0000``, ``a_0001``) as one.

    Args:
        cases: a case a file.
        channels: that the bundle takes; files are joined where each case has that many.
    """
    groups: dict[tuple[Path, str], list[InputCase]] = {}
    for case in cases:
        match = _CHANNEL.match(case.image.name)
        if match is None:
            return list(cases)
        groups.setdefault((case.image.parent, match["case"]), []).append(case)
    if channels < 2 or any(len(group) != channels for group in groups.values()):
        return list(cases)
    return [
        replace(first, case_id=name, channels=tuple(case.image for case in others))
        for (_, name), (first, *others) in groups.items()
    ]


def refuse_same_outputs(cases: Sequence[InputCase], outputs: Sequence[Path]) -> None:
    """Refuse images whose masks would have one name.

    Raises:
        ValueError: naming the images.
    """
    # Some file systems do not tell capitals apart.
    groups: dict[str, list[InputCase]] = {}
    for case, output in zip(cases, outputs, strict=True):
        groups.setdefault(str(output).lower(), []).append(case)
    lines = []
    for name, group in groups.items():
        if len(group) > 1:
            images = ", ".join(f"'{case.image}'" for case in group)
            lines.append(f"  {name}: {images}")
    if lines:
        raise ValueError(
            "images that share a name would overwrite each other's masks; rename them, or predict "
            "their folders into different ones:\n" + "\n".join(lines)
        )


def refuse_other_than_dicom(cases: Sequence[InputCase]) -> None:
    """Refuse images that a DICOM SEG cannot refer to.

    Raises:
        ValueError: naming the first ones.
    """
    others = [c.image for c in cases if not (c.image.is_dir() or is_dicom(c.image))]
    if others:
        named = ", ".join(f"'{path}'" for path in others[:3])
        raise ValueError(
            f"--dicom-seg needs DICOM scans, but {len(others)} of {len(cases)} images are not "
            f"({named}{', …' if len(others) > 3 else ''}): give folders of DICOM series alone, or "
            "leave out --dicom-seg"
        )


def check_axes(case: InputCase, axes: Collection[int], channels: int) -> tuple[int, ...]:
    """Read the header and compare the number of axes with what the bundle takes.

    Args:
        case: the image.
        axes: numbers of spatial axes that the bundle takes.
        channels: that the bundle takes.

    Returns:
        The file's shape, without channels.

    Raises:
        CaseError: the file is unreadable, or has another number of axes or channels.
    """
    try:
        volume = open_volume(case.source, voxels=False)
    except UnreadableError as reason:
        raise _unreadable("unreadable", case.image, reason) from reason
    shape = volume.shape
    if volume.palette:
        raise CaseError(
            "unreadable",
            "the image is a palette picture, whose numbers are not intensities",
            "store it as gray or RGB",
        )
    sizes = "×".join(map(str, shape))
    if len(shape) not in axes:
        taken = " or ".join(map(str, sorted(axes)))
        raise CaseError(
            "wrong dimension",
            f"the image has {len(shape)} axes ({sizes}), the bundle takes {taken}",
            "store the slices as one volume, with the slice axis last",
        )
    if volume.channels != channels:
        raise CaseError(
            "wrong dimension",
            f"the image has {volume.channels} channels ({sizes}), the bundle takes {channels}",
            "store the channels that it was trained on; of a series in time, one frame per file",
        )
    return shape


def remarks_of(case: InputCase) -> list[str]:
    """What is odd about an image that can be predicted all the same."""
    volume = open_volume(case.source)
    found = [f"{remark.problem}; {remark.fix}" for remark in volume.remarks]
    outlier = find_outlier(voxels(volume))
    return found + ([] if outlier is None else ["; ".join(outlier)])


def root_cause(error: BaseException) -> BaseException:
    """The first of the errors that were raised from one another."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def why(error: BaseException, case: InputCase) -> CaseError:
    """What is wrong with an image whose preparation or prediction failed."""
    if isinstance(error, CaseError):
        return error
    error = root_cause(error)
    # PyTorch has no error of its own for the memory of the CPU.
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return CaseError("failed", "out of memory", "crop or resample the image")
    try:
        open_volume(case.source)
    except UnreadableError as reason:
        return _unreadable("truncated", case.image, reason)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    problem = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return CaseError("failed", problem, "see it alone with 'python -m monai.bundle run inference'")


def _unreadable(kind: str, image: Path, reason: UnreadableError) -> CaseError:
    name = "NIfTI" if image.name.lower().endswith((".nii", ".nii.gz")) else "image"
    return CaseError(
        kind,
        f"the image is not a readable {name} file ({reason})",
        reason.fix,
    )
