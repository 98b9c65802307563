"""Try damaged inputs, a number per seed, and write what became of them.

    python -m fuzz --count 2000 --seed 0 --output benchmarks/results/fuzz.json
    python -m fuzz --minutes 120 --seed 1        # as many as there is time for

from ``benchmarks/``. Input ``n`` of a target depends on the seed and on ``n`` alone, so that a
failure can be repeated: ``--target images --first 1234 --count 1``. Exit status 1 where an input
crashed, hung, took more than three times the decoded image's memory, or was accepted with a
content that its checksum denies.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.targets import TARGETS, make_samples
from mixseg.files.atomic import strict_json, write_bytes_atomic

#: Longest time of one input: of the processor, as others may use it too, and in all (waiting).
LIMIT_SECONDS, LIMIT_WAITING = 20.0, 300.0
#: Memory that one input may take beyond three times its image as float32: buffers of libraries.
SPARE_BYTES = 96 << 20


def main() -> int:
    """Parse the arguments, try the inputs, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--count", type=int, default=500, help="inputs of each target")
    parser.add_argument("--minutes", type=float, help="instead of a count: time for all targets")
    parser.add_argument("--target", choices=[t.name for t in TARGETS], action="append")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    given = parser.parse_args()
    started = time.monotonic()
    chosen = [t for t in TARGETS if given.target is None or t.name in given.target]
    results = {}
    for target in chosen:
        seconds = None if given.minutes is None else 60 * given.minutes / len(chosen)
        results[target.name] = _try(target.name, given.seed, given.first, given.count, seconds)
        print(f"{target.name}: {results[target.name]['summary']}", flush=True)
    failed = [f for result in results.values() for f in result["failures"]]
    for failure in failed[:20]:
        print(json.dumps(failure, indent=1))
    if given.output is not None:
        content = {
            "command": f"python -m fuzz --count {given.count} --seed {given.seed}",
            "seconds": round(time.monotonic() - started, 1),
            "python": platform.python_version(),
            "targets": results,
        }
        write_bytes_atomic(given.output, strict_json(content).encode())
    return 1 if failed else 0


def _try(name: str, seed: int, first: int, count: int, seconds: float | None) -> dict[str, Any]:
    """Try inputs in a process of its own, which a crash or a hang may cost."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    make_samples(folder / "samples")
    counts: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    longest = 0.0
    number, last = first, None if seconds is not None else first + count
    end = time.monotonic() + (seconds or 0)
    context = multiprocessing.get_context("fork")
    try:
        while (last is None or number < last) and (seconds is None or time.monotonic() < end):
            receiver, sender = context.Pipe(duplex=False)
            stop = number + 10**9 if last is None else last
            worker = context.Process(target=_work, args=(name, seed, number, stop, folder, sender))
            worker.start()
            sender.close()
            while number < stop and (seconds is None or time.monotonic() < end):
                begun = time.monotonic()
                try:
                    _wait(receiver, worker.pid)
                    kind, details = receiver.recv()
                except (EOFError, TimeoutError) as error:
                    kind = "hang" if isinstance(error, TimeoutError) else "crash"
                    details = {}
                longest = max(longest, time.monotonic() - begun)
                counts[kind] += 1
                if kind not in ("accepted", "refused"):
                    failures.append({"target": name, "number": number, "kind": kind, **details})
                number += 1
                if kind in ("hang", "crash"):
                    break
            worker.kill()
            worker.join()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    summary = ", ".join(f"{n:,} {kind}" for kind, n in sorted(counts.items()))
    return {
        "inputs": number - first,
        **{kind: counts[kind] for kind in ("accepted", "refused")},
        "longest_seconds": round(longest, 2),
        "failures": failures,
        "summary": summary,
    }


def _wait(receiver: Connection, process: int | None) -> None:
    """Until there is an answer.

    Raises:
        TimeoutError: the process computes, or waits, for too long.
    """
    begun, busy = time.monotonic(), _processor_seconds(process)
    while not receiver.poll(1.0):
        if _processor_seconds(process) - busy > LIMIT_SECONDS:
            raise TimeoutError
        if time.monotonic() - begun > LIMIT_WAITING:
            raise TimeoutError


def _processor_seconds(process: int | None) -> float:
    """Time of the processor that a process has taken (Linux); elsewhere the time of day."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _work(name: str, seed: int, first: int, stop: int, folder: Path, sender: Connection) -> None:
    target = next(t for t in TARGETS if t.name == name)
    place = [t.name for t in TARGETS].index(name)
    for number in range(first, stop):
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        rng = np.random.default_rng([seed, place, number])
        before = _start_peak()
        try:
            outcome = target.run(rng, folder / "samples", work)
        except Exception:  # whatever was not said in words
            sender.send(("traceback", {"traceback": traceback.format_exc()[-3000:]}))
            continue
        taken = _peak() - before
        if outcome.wrong:
            sender.send(("wrong content", {}))
        elif taken > 3 * outcome.decoded + SPARE_BYTES:
            sender.send(("memory", {"bytes": taken, "decoded": outcome.decoded}))
        else:
            sender.send(("accepted" if outcome.accepted else "refused", {}))


def _start_peak() -> int:
    """Begin to measure the peak of memory anew (Linux); what is in use now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return 0


def _peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        return 0


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
