"""Runs of bundles in this process, and what tests of slices and of volumes share of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai.bundle
import pytest


@dataclass(frozen=True)
class Run:
    """Folders of a finished training run."""

    data: Path
    output: Path
    models: Path


def save_datalist(folder: Path, content: dict[str, Any]) -> None:
    """Write datalist.json."""
    (folder / "datalist.json").write_text(json.dumps(content))


def run_files(run_id: str, files: Sequence[Path], **settings: Any) -> None:
    """What ``python -m monai.bundle run`` does, in this process and with the logging as it is."""
    texts = {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}
    paths = [str(file) for file in files]
    # A run's record reads its command line.
    words = ["run", run_id, "--config_file", str(paths)]
    words += [word for k, v in texts.items() for word in (f"--{k}", str(v))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["in this process", *words])
        monai.bundle.run(run_id=run_id, config_file=paths, logging_file=False, **texts)
