"""Images in a folder, and what was left out and why."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from mixseg.files.reading.suffixes import PICTURE_SUFFIXES, is_dicom, split_suffix

#: Formats of images that the reader does not know.
_UNREAD = (
    *(".nii.bz2", ".nii.xz", ".nii.zst", ".hdr.gz", ".mgz", ".mgh", ".mnc", ".gipl", ".gipl.gz"),
    *(".gif", ".webp", ".jp2", ".heic", ".svs"),
)


@dataclass(frozen=True)
class FoundImage:
    """An image file, or the folder of a DICOM series.

    Attributes:
        path: the file or folder, links as they are.
        parents: the folders between the searched one and it.
        stem: its name without suffix.
        suffix: in lower case; empty for a series.
    """

    path: Path
    parents: tuple[str, ...]
    stem: str
    suffix: str

    @property
    def is_picture(self) -> bool:
        """Whether it is a format without geometry."""
        return self.suffix in PICTURE_SUFFIXES


@dataclass
class Findings:
    """The images below a folder, by path, and what was left out.

    Attributes:
        images: the images.
        left_out: paths that look like images and are none that can be read, each with the reason.
        hidden: number of hidden files that look like images, such as ``._scan.nii.gz``.
    """

    images: list[FoundImage] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    hidden: int = 0


def find_images(folder: str | os.PathLike[str]) -> Findings:
    """Search a folder and all below it; links to folders are followed, each place once.

    Hidden files and folders (whose names begin with a dot, and ``__MACOSX``) are not images. A
    folder whose files are DICOM is one image. Of a NIfTI pair the header stands for both.
    """
    root = Path(folder)
    found = Findings()
    seen: set[tuple[int, int]] = set()
    unread: dict[str, list[Path]] = {}
    named: list[Path] = []

    def failed(error: OSError) -> None:
        found.left_out.append((Path(error.filename), f"cannot be opened ({error.strerror})"))

    for place, folders, names in os.walk(root, followlinks=True, onerror=failed):
        here = Path(place)
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            found.left_out.append((here, "a link to a folder that is searched already"))
            continue
        seen.add((status.st_dev, status.st_ino))
        hidden = [name for name in names if _hidden(name)]
        found.hidden += sum(split_suffix(name) is not None for name in hidden)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        named += [here / name for name in folders if split_suffix(name)]
        parents = here.relative_to(root).parts
        series = False
        for name in sorted(set(names) - set(hidden)):
            path = here / name
            reason = _unusable(path)
            parts = split_suffix(name)
            if reason:
                # A link that leads nowhere may stand for a whole folder.
                if parts is not None or path.is_symlink():
                    found.left_out.append((path, reason))
            elif is_dicom(path):
                series = True
            elif parts is not None:
                found.images.append(FoundImage(path, parents, parts[0], parts[1].lower()))
            elif name.lower().endswith((".img", ".img.gz")) and not _has_header(path):
                found.left_out.append((path, "the .hdr that belongs to it is missing"))
            elif suffix := next((s for s in _UNREAD if name.lower().endswith(s)), ""):
                unread.setdefault(suffix, []).append(path)
        if series:
            name = parents[-1] if parents else root.resolve().name
            found.images.append(FoundImage(here, parents[:-1], name, ""))
    for misnamed in named:
        if not any(misnamed in (i.path, *i.path.parents) for i in found.images):
            found.left_out.append((misnamed, "a folder with the name of an image, and without one"))
    for suffix, paths in sorted(unread.items()):
        more = f", as are {len(paths) - 1} more files of this kind" if len(paths) > 1 else ""
        reason = f"{suffix} is a format that is not read{more}: convert to NIfTI, NRRD or PNG"
        found.left_out.append((paths[0], reason))
    found.images.sort(key=lambda image: image.path)
    return found


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _unusable(path: Path) -> str:
    """Why a path is not a file that can be read; empty for one that can."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return f"a link to '{os.readlink(path)}', which does not exist (not fetched?)"
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    return "" if stat.S_ISREG(mode) else "not a regular file"


def _has_header(path: Path) -> bool:
    stem = path.name[: path.name.lower().rindex(".img")]
    return any(path.with_name(stem + s).is_file() for s in (".hdr", ".HDR", ".hdr.gz"))
