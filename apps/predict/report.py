"""Report of a prediction: ``report.json``, ``.csv`` and ``.html``."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mixseg.apps.predict.images import CaseError, InputCase
from mixseg.files.atomic import strict_json, write_csv, write_text_atomic
from mixseg.report.page import try_to_write_page

JSON_NAME, CSV_NAME = "report.json", "report.csv"
_COLUMNS = (
    "case_id", "status", "input", "mask", "shape", "spacing_mm", "mean_entropy", "quality",
    "seconds",
)  # fmt: skip
#: The report may take this share of the time: it is written after every case unless it is long.
_TIME_SHARE = 0.05
#: Where the further ones of several processes keep their reports until the end, by their numbers.
_RANKS = ".ranks"


def rank_folder(folder: Path, rank: int) -> Path:
    """Folder of a process's report and unfinished files: the first one's is the output folder."""
    return folder / _RANKS / str(rank) if rank else folder


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Short name of everything that decides about a mask."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


class PredictionReport:
    """The report of one output folder, which further runs with the same settings continue.

    Args:
        folder: the output folder. A report of other settings there is kept, as
            ``report_<its digest>.json``.
        header: what all cases share; ``digest`` (see :func:`settings_digest`) and ``classes``
            among it.
        inputs: number of images of this run.
        rank: number of this process, where several share the images.

    Attributes:
        replaces: name that the report of other settings was given; empty where there is none.
        skipped: images that were found finished.
        predicted: images that this run has predicted.
        left_out: what the input folder holds beside the images, a sentence each.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], inputs: int, rank: int = 0) -> None:
        self.folder = folder
        self._place = rank_folder(folder, rank)
        self._is_first = rank == 0
        self.header = dict(header)
        self.inputs = inputs
        self.skipped = self.predicted = 0
        self.left_out: list[str] = []
        self.cases: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, dict[str, Any]] = {}
        self.replaces = ""
        self._started = time.monotonic()
        self._written, self._cost = 0.0, 0.0
        self._shared: set[str] = set()
        earlier = _read(folder)
        # What processes of an interrupted run have left, however many there are now.
        for content in (earlier, *map(_read, sorted((folder / _RANKS).glob("*")))):
            if content.get("digest") == self.header["digest"]:
                self.cases |= {entry["outputs"]["mask"]: entry for entry in content["cases"]}
        if rank == 0 and earlier and earlier.get("digest") != self.header["digest"]:
            self.replaces = f"report_{earlier.get('digest', 'earlier')}.json"
            (folder / JSON_NAME).replace(folder / self.replaces)

    def finished(self, case: InputCase, mask: Path, wanted: Sequence[str]) -> bool:
        """Whether the case's files all exist and belong to this image."""
        entry = self.cases.get(mask.as_posix())
        if entry is None:
            return False
        outputs, stamp = entry["outputs"], case.stamp
        same = all(
            stamp.get(key, -1) == entry.get(key) for key in ("input_bytes", "input_mtime_ns")
        ) and all(kind in outputs and (self.folder / outputs[kind]).is_file() for kind in wanted)
        if same:
            self._shared.add(mask.as_posix())
        return same

    def add(
        self,
        case: InputCase,
        stamp: Mapping[str, int],
        outputs: Mapping[str, Path],
        facts: Mapping[str, Any],
    ) -> None:
        """Enter a finished case.

        Args:
            stamp: of the image when it was read, see :attr:`InputCase.stamp`.
            outputs: its files by kind, relative to the folder; ``mask`` among them.
        """
        mask = outputs["mask"].as_posix()
        self.cases[mask] = {
            "case_id": case.case_id,
            "input": str(case.image),
            **stamp,
            "outputs": {kind: path.as_posix() for kind, path in outputs.items()},
            **facts,
        }
        self.predicted += 1
        self._shared.add(mask)
        self._save_if_cheap()

    def fail(self, case: InputCase, mask: Path, error: CaseError) -> None:
        """Enter a case that could not be predicted; what an earlier run had made of it is kept."""
        self.failures[mask.as_posix()] = {
            "case_id": case.case_id,
            "input": str(case.image),
            "kind": error.kind,
            "problem": error.problem,
            "fix": error.fix,
        }
        self._save_if_cheap()

    def collect(self, processes: int) -> None:
        """Take in what the other processes report, once they ended, and remove their folders."""
        for rank in range(1, processes):
            content = _read(rank_folder(self.folder, rank))
            if content.get("digest") != self.header["digest"]:
                continue  # it was not there
            shared = set(content["shared"])
            entries = {entry["outputs"]["mask"]: entry for entry in content["cases"]}
            self.cases |= {mask: entry for mask, entry in entries.items() if mask in shared}
            self.failures |= {entry["input"]: entry for entry in content["failures"]}
            self.predicted += content["images"]["predicted"]
            self.skipped += content["images"]["found_finished"]
        shutil.rmtree(self.folder / _RANKS, ignore_errors=True)

    def save(self) -> None:
        """Write both files; of a further process only the one that :meth:`collect` reads."""
        started = time.monotonic()
        content = {
            **self.header,
            "seconds": round(started - self._started, 2),
            **peak_memory_mb(),
            "images": {
                "given": self.inputs,
                "predicted": self.predicted,
                "found_finished": self.skipped,
                "failed": len(self.failures),
            },
            "cases": list(self.cases.values()),
            "failures": list(self.failures.values()),
            "left_out": self.left_out,
        }
        if not self._is_first:
            content["shared"] = sorted(self._shared)
        write_text_atomic(self._place / JSON_NAME, strict_json(content))
        if self._is_first:
            self._write_csv()
        self._written = time.monotonic()
        self._cost = self._written - started

    def finish(self) -> Path | None:
        """Write all files, and ``report.html`` beside them, which is the first process's matter.

        Returns:
            The page; None where it is not made: what went wrong is logged.
        """
        self.save()
        return try_to_write_page(self.folder) if self._is_first else None

    def _save_if_cheap(self) -> None:
        if time.monotonic() - self._written >= self._cost / _TIME_SHARE:
            self.save()

    def _write_csv(self) -> None:
        """A row for each case, in the order of the report, failures last."""
        classes = self.header["classes"][1:]
        kinds = [f"{kind}_{name}" for name in classes for kind in ("voxels", "ml")]
        rows = []
        for entry in self.cases.values():
            row = {name: entry[name] for name in ("case_id", "input", "mean_entropy", "seconds")}
            row["quality"] = entry.get("quality")
            row |= {"status": "predicted", "mask": entry["outputs"]["mask"]}
            row |= {n: "x".join(map(str, entry[n] or ())) for n in ("shape", "spacing_mm")}
            for name in classes:
                row[f"voxels_{name}"] = entry["voxels"][name]
                row[f"ml_{name}"] = entry["ml"][name] if entry["ml"] else ""
            rows.append(row | {"notes": "; ".join(entry["warnings"])})
        for entry in self.failures.values():
            row = {"case_id": entry["case_id"], "status": "failed", "input": entry["input"]}
            rows.append(row | {"notes": f"{entry['problem']}; {entry['fix']}"})
        write_csv(self.folder / CSV_NAME, rows, [*_COLUMNS, *kinds, "notes"])


def _read(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(
            f"'{folder / JSON_NAME}' is not a report of a prediction ({error}): move it away"
        ) from error
    if not isinstance(content, dict) or not {"digest", "cases"} <= set(content):
        raise ValueError(
            f"'{folder / JSON_NAME}' is not a report of a prediction: choose another -o, or "
            "move it away"
        )
    return content


def peak_memory_mb() -> dict[str, float | None]:
    """Largest memory of this process so far, and on CUDA, in 10⁶ bytes; None where unknown."""
    memory: float | None = None
    try:
        import resource  # POSIX alone

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        memory = round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)
    except ImportError:
        pass
    gpu = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None
    return {"peak_memory_mb": memory, "peak_gpu_memory_mb": gpu and round(gpu, 1)}
