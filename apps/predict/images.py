"""The images to predict: which there are, and why one of them cannot be."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixseg.data import list_images
from mixseg.files.reading import UnreadableError, open_volume

__all__ = ["CaseError", "InputCase", "check_axes", "list_cases", "refuse_same_outputs", "why"]


class CaseError(Exception):
    """One image that cannot be predicted; the others can.

    Attributes:
        kind: ``unreadable``, ``truncated``, ``wrong dimension``, ``not finite`` or ``failed``.
        problem: what is wrong with it.
        mend: what to do about it.
    """

    def __init__(self, kind: str, problem: str, mend: str) -> None:
        super().__init__(f"{problem}; {mend}")
        self.kind = kind
        self.problem = problem
        self.mend = mend


@dataclass(frozen=True)
class InputCase:
    """An image and its case's name."""

    image: Path
    case_id: str


def list_cases(source: Path, output: Path) -> list[InputCase]:
    """The image at ``source``, or all images below it except those below ``output``.

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
        found = list_images(source)
    except FileNotFoundError as error:
        what = str(error).removesuffix(": set --dataset_dir")
        raise ValueError(f"{what}: give an image or a folder of images with -i") from error
    cases = [InputCase(Path(item["image"]), item["case_id"]) for item in found]
    cases = [c for c in cases if target not in c.image.resolve().parents or source.is_file()]
    if not cases:
        raise ValueError(f"all images below '{source}' are in the output folder '{output}'")
    return cases


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
            "images of one name would overwrite each other's masks; rename them, or predict their "
            "folders into different ones:\n" + "\n".join(lines)
        )


def check_axes(image: Path, axes: Collection[int], channels: int) -> tuple[int, ...]:
    """Read the header and compare the number of axes with what the bundle takes.

    Args:
        image: the file.
        axes: numbers of axes that the bundle takes; one more may hold the channels.
        channels: that the bundle takes.

    Returns:
        The file's shape, without channels.

    Raises:
        CaseError: the file is unreadable, or has another number of axes.
    """
    try:
        shape = open_volume(image, voxels=False).shape
    except UnreadableError as reason:
        raise _unreadable("unreadable", image, reason) from reason
    if len(shape) in axes:
        return shape
    if len(shape) - 1 in axes and shape[-1] in (1, channels):
        return shape[:-1]
    sizes, taken = "×".join(map(str, shape)), " or ".join(map(str, sorted(axes)))
    problem = f"the image has {len(shape)} axes ({sizes}), the bundle takes {taken}"
    if len(shape) > max(axes):
        raise CaseError("wrong dimension", problem, "store one frame per file")
    mend = "store the slices as one volume, with the slice axis last"
    raise CaseError("wrong dimension", problem, mend)


def why(error: BaseException, image: Path) -> CaseError:
    """What is wrong with an image whose preparation or prediction failed."""
    if isinstance(error, CaseError):
        return error
    while error.__cause__ is not None:
        error = error.__cause__
    # PyTorch has no error of its own for the memory of the CPU.
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return CaseError("failed", "out of memory", "crop or resample the image")
    try:
        open_volume(image)
    except UnreadableError as reason:
        return _unreadable("truncated", image, reason)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    problem = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return CaseError("failed", problem, "see it alone with 'python -m monai.bundle run inference'")


def _unreadable(kind: str, image: Path, reason: UnreadableError) -> CaseError:
    name = "NIfTI" if image.name.lower().endswith((".nii", ".nii.gz")) else "image"
    return CaseError(
        kind,
        f"the image is not a readable {name} file ({reason})",
        "it may be truncated: copy or download it again",
    )
