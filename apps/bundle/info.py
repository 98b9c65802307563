"""Description of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixseg.configuration.loading import read_metadata


def network_inputs(folder: Path) -> dict[str, Any]:
    """What a bundle's ``metadata.json`` says of the images that its network takes.

    Raises:
        ValueError: as of :func:`mixseg.configuration.loading.read_metadata`.
    """
    return dict(read_metadata(folder)["network_data_format"]["inputs"]["image"])


def describe(folder: Path) -> dict[str, str]:
    """Facts about a bundle that users need before using it.

    Returns:
        Title → text, in the order in which they are shown: what it segments, what it takes and
        gives, its weights, scores and licenses. Facts that its files do not give are left out.
    """
    metadata = read_metadata(folder)
    image = metadata["network_data_format"]["inputs"]["image"]
    weights = sorted(p.relative_to(folder).as_posix() for p in folder.glob("**/models/*.pt"))
    slices = len(image["spatial_shape"]) == 2
    dimensions = "read slice by slice (2D)" if slices else "read as volumes (3D)"
    scores = metadata.get("eval_metrics", {}).items()
    facts = {
        "name": f"{folder.resolve().name} {metadata.get('version', '')}",
        "task": metadata.get("task", ""),
        "method": metadata.get("description", ""),
        "input": f"{_channels(image)}, {dimensions}. {metadata.get('image_classes', '')}",
        "output": _classes(metadata),
        "weights": ", ".join(weights) or "none: train it",
        "scores": ", ".join(f"{name} {value}" for name, value in scores),
        "data": metadata.get("data_source", ""),
        # Up to the first empty line.
        "license": " ".join(_text(folder / "LICENSE").partition("\n\n")[0].split()),
        "data license": _text(folder / "docs" / "data_license.txt"),
        "intended use": metadata.get("intended_use", ""),
        "card": "docs/README.md" if (folder / "docs" / "README.md").is_file() else "",
    }
    return {title: text for title, text in facts.items() if text}


def _classes(metadata: Mapping[str, Any]) -> str:
    try:
        classes = metadata["network_data_format"]["outputs"]["pred"]["channel_def"].items()
    except (KeyError, TypeError, AttributeError):  # another project's bundle need not say it
        return ""
    return "a mask: " + ", ".join(f"{value} {name}" for value, name in classes)


def _channels(image: Mapping[str, Any]) -> str:
    count = int(image["num_channels"])
    return f"{image.get('modality', 'images')} with {count} channel{'s' * (count != 1)}"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
