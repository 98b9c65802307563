"""What annotators submitted to a MONAI Label server: its folder of studies, read without it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mixseg.apps.label.access import check_name

STORE_NAME = "datastore_v2.json"
_KINDS = ("full", "partial")
_TAG = "final"  # as 3D Slicer submits


class StoreError(ValueError):
    """The folder of studies cannot be used; the message names the file."""


@dataclass(frozen=True)
class StoredScan:
    """One scan of the store.

    Attributes:
        case_id: the scan's id, its file name without suffix.
        image: file of the scan.
        label: file of the submitted label, None where there is none.
        segments: names of the label's segments by position (value 1 first), None where the client
            did not send them.
        supervision: what the annotator declared about voxels that nobody touched, None where
            nothing was declared.
        annotated_classes: names of the classes that the annotator looked for, None for all.
    """

    case_id: str
    image: Path
    label: Path | None = None
    segments: tuple[str, ...] | None = None
    supervision: Literal["full", "partial"] | None = None
    annotated_classes: tuple[str, ...] | None = None


def read_label_store(studies: str | os.PathLike[str]) -> list[StoredScan]:
    """All scans of a MONAI Label datastore, with their submitted labels.

    MONAI Label's own list for training has neither the scans without a label nor what came along
    with a label: the names of its segments (``label_info``, which 3D Slicer sends), and
    ``supervision`` and ``annotated_classes``, which a client may add to the ``params``.

    Args:
        studies: folder that the server was started with.

    Returns:
        The scans, sorted by id.

    Raises:
        StoreError: there is no datastore, it is damaged, a file is missing, or a declaration is
            none of those known.
    """
    folder = Path(studies)
    path = folder / STORE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        objects = content["objects"]
    except FileNotFoundError as error:
        raise StoreError(
            f"there is no '{path}': start the server once with this folder ('mixseg label')"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"'{path}' is not a datastore of MONAI Label ({error}): move it away, and the server "
            "rebuilds it from the files"
        ) from error
    images = folder / content.get("images_dir", ".")
    labels = folder / content.get("labels_dir", "labels") / _TAG
    scans = []
    for case_id, entry in sorted(objects.items()):
        try:
            check_name("image", f"{case_id}{entry['image']['ext']}")
        except ValueError as error:
            raise StoreError(f"'{path}': {error}") from error
        image = images / f"{case_id}{entry['image']['ext']}"
        stored = entry.get("labels", {}).get(_TAG)
        if not image.is_file():
            raise StoreError(f"the datastore names '{image}', which is missing: put it back")
        if stored is None:
            scans.append(StoredScan(case_id, image))
            continue
        label = labels / f"{case_id}{stored['ext']}"
        if not label.is_file():
            raise StoreError(f"the datastore names '{label}', which is missing: submit it again")
        scans.append(StoredScan(case_id, image, label, **_declared(label, stored.get("info", {}))))
    return scans


def fingerprint(scans: Sequence[StoredScan]) -> str:
    """SHA-256 of ids, submitted labels and what was declared: equal while nothing was submitted."""
    digest = hashlib.sha256()
    for scan in scans:
        content = None if scan.label is None else hashlib.sha256(scan.label.read_bytes())
        row = [
            scan.case_id,
            None if content is None else content.hexdigest(),
            scan.segments,
            scan.supervision,
            scan.annotated_classes,
        ]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _declared(label: Path, info: dict[str, Any]) -> dict[str, Any]:
    """What a client sent along with a label."""
    segments = info.get("label_info")
    if segments is not None:
        # By position: the 'idx' that 3D Slicer sends counts segments that it does not submit.
        segments = tuple(str(segment["name"]) for segment in segments) or None
    supervision = info.get("supervision")
    if supervision not in (None, *_KINDS):
        raise StoreError(
            f"'{label}' was submitted with supervision '{supervision}': it is one of {_KINDS}"
        )
    classes = info.get("annotated_classes")
    return {
        "segments": segments,
        "supervision": supervision,
        "annotated_classes": None if classes is None else tuple(map(str, classes)),
    }
