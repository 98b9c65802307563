"""Run docs/tutorial_wbc.md from its first command to its last, and record what it reaches.

    python benchmarks/tutorial_wbc.py --data "segmentation_WBC/Dataset 1"

The commands are the page's own, those marked ``ci: tutorial``, in an empty folder. FOLDER is
*Dataset 1* as it was downloaded (``001.bmp``, ``001.png``), or one with ``image/`` and ``label/``
whose masks hold 0, 1 and 2. ``--short`` trains for two iterations and records nothing: that is what
continuous integration runs, on made-up pictures where there are no others.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tutorial_wbc.md"
RESULT = ROOT / "benchmarks" / "results" / "tutorial_wbc.json"
#: Where the page has the pictures, below the home folder.
PLACE = Path("segmentation_WBC") / "Dataset 1"
#: Gray value of each class in the published masks.
GRAYS = np.array([0, 128, 255], dtype=np.uint8)
#: Pictures of a short run: 70 % of them are more than the 12 + 60 that the page trains on.
SHORT = 110
#: The runs of the page, and the folder in the bundle's that holds their test scores.
RUNS = {"mixed": "eval/test", "lower_bound": "eval/lower/test"}


def commands_of_the_page(short: bool) -> list[str]:
    """The page's blocks, as continuous integration reads them."""
    spec = importlib.util.spec_from_file_location("readme", ROOT / ".ci" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    readme: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    blocks: list[str] = readme.commands("tutorial", [PAGE], short)
    return blocks


def lay_out(source: Path | None, target: Path, limit: int | None = None) -> int:
    """Put the pictures where the page expects them; returns how many there are.

    Args:
        source: as ``--data``; None makes pictures up.
        target: folder that is made, in the layout of *Dataset 1*.
        limit: of the pictures that are written; a folder in that layout is linked as it is.

    Raises:
        ValueError: the folder has none, or a mask holds something else than 0, 1 and 2.
    """
    if source and not (source / "image").is_dir():
        target.parent.mkdir(parents=True)
        target.symlink_to(source.resolve(), target_is_directory=True)
    else:
        target.mkdir(parents=True)
        for name, picture, mask in (pairs(source) if source else made_up(SHORT))[:limit]:
            if mask.max(initial=0) >= len(GRAYS):
                raise ValueError(f"the mask of '{name}' holds other values than 0, 1 and 2")
            Image.fromarray(picture).save(target / f"{name}.bmp")
            Image.fromarray(GRAYS[mask]).save(target / f"{name}.png")
    if not (number := len(list(target.glob("*.bmp")))):
        raise ValueError(f"'{source}' holds neither 001.bmp, 002.bmp, … nor image/ and label/")
    return number


def pairs(source: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name, picture and mask of ``image/`` and ``label/``."""
    found = []
    for path in sorted((source / "image").iterdir()):
        label = source / "label" / f"{path.stem}.png"
        found.append((path.stem, np.array(Image.open(path)), np.array(Image.open(label))))
    return found


def made_up(number: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Pictures of 120 × 120 pixels, a nucleus inside its cytoplasm in a pink surrounding."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:120, :120]
    colors = np.array([[230, 190, 200], [190, 170, 210], [110, 60, 150]])
    found = []
    for i in range(1, number + 1):
        center, radius = generator.uniform(45, 75, 2), generator.uniform(25, 40)
        distance = np.hypot(rows - center[0], columns - center[1])
        mask = (distance < radius).astype(np.uint8) + (distance < radius / 2)
        picture = colors[mask] + generator.normal(0, 12, (120, 120, 3))
        found.append((f"{i:03d}", picture.clip(0, 255).astype(np.uint8), mask.astype(np.uint8)))
    return found


def run(blocks: list[str], home: Path, work: Path) -> list[float]:
    """Run the blocks in one shell; returns the seconds of each.

    Raises:
        subprocess.CalledProcessError: one of them failed.
    """
    marks = work / "seconds"
    mark = f"date +%s.%N >> {shlex.quote(str(marks))}"
    script = ["set -euo pipefail", mark]
    for block in blocks:
        script += [f"printf '\\n%s\\n' {shlex.quote(block)}", block, mark]
    (work / "empty").mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=work / "empty",
        env={**os.environ, "HOME": str(home), "PATH": path},
        check=True,
    )
    times = [float(line) for line in marks.read_text().split()]
    return [round(b - a, 1) for a, b in pairwise(times)]


def read_run(folder: Path) -> dict[str, Any]:
    """Scores, settings and data of an evaluation."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {key: summary[key] for key in ("scores", "configuration", "seed", "data_hash")}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the pictures")
    parser.add_argument("--short", action="store_true", help="two iterations, nothing is recorded")
    arguments = parser.parse_args()
    if not (arguments.data or arguments.short):
        parser.error("--data is needed, the folder of the pictures")
    before = {**environment(), "load_before": round(os.getloadavg()[0], 1)}
    blocks = commands_of_the_page(arguments.short)
    with tempfile.TemporaryDirectory() as name:
        work, home = Path(name), Path(name) / "home"
        try:
            pictures = lay_out(arguments.data, home / PLACE, SHORT if arguments.short else None)
        except ValueError as error:
            parser.error(str(error))
        started = time.monotonic()
        seconds = run(blocks, home, work)
        runs = {run: read_run(work / "empty" / "cells" / place) for run, place in RUNS.items()}
    if arguments.short:
        print(f"the tutorial's {len(blocks)} blocks ran in {time.monotonic() - started:.0f} s")
        return
    result = {
        "benchmark": "tutorial_wbc",
        "pictures": pictures,
        "runs": runs,
        "seconds": [{"command": b, "seconds": s} for b, s in zip(blocks, seconds, strict=True)],
        **before,
    }
    write_bytes_atomic(RESULT, strict_json(result).encode())
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
