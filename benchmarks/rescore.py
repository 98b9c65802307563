"""Score weights that ship once more, after a change to inference, without training them again.

    python benchmarks/rescore.py benchmarks/results/la_recipe/weights_seed0.json --data LA

The bundle's own weights are scored on the validation and the test split; their scores, cases and
provenance in the result file are replaced, and everything that tells of the training stays.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from compare.run import read_cases
from mixseg.apps.bundle.find import find_bundle
from mixseg.apps.bundle.run import bundle_command
from mixseg.files.atomic import write_bytes_atomic


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path, help="the result file of the weights' training")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text(encoding="utf-8"))
    configs = find_bundle(result["bundle"]).resolve() / "configs"
    files = [configs / name for name in ("train.yaml", "evaluate.yaml")]
    with tempfile.TemporaryDirectory() as folder:
        for split in ("validation", "test"):
            place = Path(folder) / split
            trained = result[split]["configuration"]
            settings = {
                **{name: trained[name] for name in ("num_full", "num_partial", "seed")},
                "bundle_root": configs.parent,
                "dataset_dir": arguments.data.resolve(),
                "output_dir": place,
                "split": split,
            }
            subprocess.run(bundle_command("evaluating", files, settings), check=True)
            result[split] = json.loads((place / "summary.json").read_text(encoding="utf-8"))
        result["cases"] = read_cases(Path(folder) / "test")
    write_bytes_atomic(arguments.result, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
