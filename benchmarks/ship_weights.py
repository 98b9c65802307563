"""Put the weights of a finished run into its bundle, as ``models/model.pt``.

    python benchmarks/ship_weights.py benchmarks/experiments/acdc_lv_recipe.yaml

The run is the row ``weights`` of the list, which ``benchmarks.compare`` has trained, selected on
the validation split and scored. Writes benchmarks/results/weights/BUNDLE.json, which says where
the weights come from.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from pathlib import Path

import torch
import yaml

from compare.steps import run_folder
from mixseg.apps.bundle.weights import build_network, read_weights
from mixseg.files.atomic import write_bytes_atomic

REPOSITORY = Path(__file__).resolve().parents[1]
ROW = "weights"
LARGEST = 10.0  # megabytes


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list", type=Path, help="experiment list (YAML) with the row 'weights'")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs", help="folder of the runs")
    arguments = parser.parse_args()
    listed = yaml.safe_load(arguments.list.read_text(encoding="utf-8"))
    (seed,) = listed["rows"][ROW]["seeds"] if "seeds" in listed["rows"][ROW] else listed["seeds"]
    name = f"{ROW}_seed{seed}"
    bundle = REPOSITORY / "bundles" / listed["bundle"]
    # Loaded into the bundle's own network, strictly, whatever names an earlier version gave.
    network = build_network(bundle / "configs" / "train.yaml", {})
    run = run_folder(arguments.work / arguments.list.stem / name)
    network.load_state_dict(read_weights(run / "models" / "model.pt"), strict=True)
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    content = buffer.getvalue()
    megabytes = len(content) / 1e6
    if megabytes >= LARGEST:
        parser.error(f"the weights have {megabytes:.1f} MB, more than {LARGEST:g}")
    write_bytes_atomic(bundle / "models" / "model.pt", content)
    origin = {
        "bundle": bundle.name,
        "result": f"{arguments.list.stem}/{name}.json",
        "sha256": hashlib.sha256(content).hexdigest(),
        "megabytes": megabytes,
    }
    results = REPOSITORY / "benchmarks" / "results" / "weights" / f"{bundle.name}.json"
    write_bytes_atomic(results, (json.dumps(origin, indent=1) + "\n").encode())
    print(f"{bundle.name}/models/model.pt: {megabytes:.1f} MB")


if __name__ == "__main__":
    main()
