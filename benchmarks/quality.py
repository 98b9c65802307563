"""How well cheap measures of a prediction rank its true Dice.

    OMP_NUM_THREADS=1 python benchmarks/quality.py --acdc ACDC --la LA \
        --output benchmarks/results/quality.json

Each measure is taken from a prediction alone. Spearman's rank correlation with the true Dice (mean
over the classes) is computed for each bundle that ships with weights. Expected Dice, which reports
show, stays unless another measure has a mean correlation that is higher by more than 0.05 on cases
that did not test it: the validation split, and scribbled training cases, whose masks no training
opened. Then the chosen measure is held against the test split, and what that says goes into the
bundles' metadata.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.stats import bootstrap, spearmanr

from mixseg.apps.bundle.find import find_bundle
from mixseg.apps.bundle.weights import bundle_weights
from mixseg.apps.predict.pipeline import BundlePipeline, Prediction
from mixseg.apps.predict.quality import expected_dice
from mixseg.configuration.loading import load
from mixseg.data.datalist import Entry
from mixseg.data.find import find_datalist
from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment, sha256_of
from mixseg.files.reading import open_volume
from mixseg.metrics import dice_coefficient

BUNDLES = {"acdc_mixed": "acdc", "acdc_lv_mixed": "acdc", "la_mixed": "la"}
#: Training cases with full masks; those after them were trained on scribbles.
FULL = 10
#: The measure that reports show, which a reader understands as it stands.
SHOWN = "expected_dice"
#: What another one must gain over it to take its place.
GAIN = 0.05


def case_measures(
    prediction: Prediction, passes: Sequence[NDArray[np.float32]], names: Sequence[str]
) -> dict[str, float]:
    """Measures of one prediction, each larger for a better one.

    Args:
        prediction: in the image's grid, its component chosen.
        passes: probabilities (C, *spatial) of each mirrored pass, in the network's grid.
        names: those that are wanted.
    """
    p, mask = prediction.probabilities, prediction.mask
    assert p is not None
    classes, found = range(1, len(p)), mask > 0
    labels = [one.argmax(axis=0) for one in passes]
    mean = np.mean(passes, axis=0)
    final = mean.argmax(axis=0)
    measures: dict[str, Callable[[], Any]] = {
        "mean_probability": lambda: p.max(axis=0)[found].mean() if found.any() else 0.0,
        "entropy_in_mask": lambda: -_entropy(p)[found].mean() if found.any() else -1.0,
        "entropy_per_mask_voxel": lambda: -_entropy(p).sum() / max(found.sum(), 1),
        "expected_dice": lambda: expected_dice(p, mask) or 0.0,
        "expected_dice_of_worst_class": lambda: min(_soft_dice(p[c], mask == c) for c in classes),
        "kept_by_component": lambda: _mean_dice(p.argmax(axis=0), mask, classes),
        "passes_pairwise_dice": lambda: np.mean(
            [_mean_dice(a, b, classes) for a, b in itertools.combinations(labels, 2)]
        ),
        "passes_dice_with_mask": lambda: np.mean([_mean_dice(a, final, classes) for a in labels]),
        "passes_agreement": lambda: -_divergence(passes)[final > 0].mean() if found.any() else -1.0,
    }
    return {name: float(measures[name]()) for name in names or measures}


def _entropy(p: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shannon entropy of each voxel over ln C."""
    return np.asarray(-(p * np.log(np.maximum(p, 1e-12))).sum(axis=0) / np.log(len(p)))


def _divergence(passes: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Jensen–Shannon divergence of the passes at each voxel over ln C."""
    apart = _entropy(np.mean(passes, axis=0)) - np.mean([_entropy(p) for p in passes], axis=0)
    return np.asarray(apart)


def _soft_dice(p: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    return float(2 * p[mask].sum() / max(p.sum() + mask.sum(), 1e-12))


def _mean_dice(a: NDArray[Any], b: NDArray[Any], classes: Sequence[int] | range) -> float:
    return float(np.mean([dice_coefficient(a == c, b == c) for c in classes]))


class Measured:
    """A bundle that predicts cases with its mirrored passes apart."""

    def __init__(self, bundle: str, staging: Path) -> None:
        folder = find_bundle(bundle)
        files = [folder / "configs" / "inference.yaml"]
        settings = load(files[0])
        self.targets = [int(t) for t in settings["target_classes"]]
        self.axes = [int(axis) + 2 for axis in settings["mirror_axes"]]
        self.pipeline = BundlePipeline(
            folder,
            files,
            {"mirror_axes": []},
            bundle_weights(folder),
            torch.device("cpu"),
            staging,
        )
        evaluator: Any = self.pipeline._evaluator
        self._one_pass = evaluator.inferer
        evaluator.inferer = self._all_passes
        self._passes: list[torch.Tensor] = []

    def _all_passes(self, inputs: Any, network: Any, *args: Any, **kwargs: Any) -> Any:
        """What the bundle's inferer returns with its ``mirror_axes``; keeps the passes."""
        self._passes = []
        for count in range(len(self.axes) + 1):
            for axes in itertools.combinations(self.axes, count):
                flipped = inputs.flip(list(axes)) if axes else inputs
                logits = self._one_pass(flipped, network, *args, **kwargs)
                self._passes.append(logits.float().softmax(dim=1).flip(list(axes)))
        mean = torch.stack([torch.as_tensor(p) for p in self._passes]).mean(dim=0)
        return MetaTensor(mean.log()).copy_meta_from(inputs, copy_attr=False)

    def case(self, image: Path, label: Path, names: Sequence[str]) -> dict[str, float]:
        """The measures of these names and the true Dice of one image."""
        batch = self.pipeline.prepare({"image": str(image), "case_id": image.name})
        prediction = self.pipeline.predict(batch)
        truth = open_volume(label).data
        assert truth is not None
        truth = np.asarray(truth).reshape(prediction.mask.shape)
        dice = [
            dice_coefficient(prediction.mask == c, truth == target)
            for c, target in enumerate(self.targets, start=1)
        ]
        passes = [np.asarray(p[0].numpy(), np.float32) for p in self._passes]
        return {"dice": float(np.mean(dice)), **case_measures(prediction, passes, names)}


def correlations(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """Spearman's correlation of each measure with the Dice."""
    dice = [row["dice"] for row in rows]
    return {name: round(float(spearmanr([r[name] for r in rows], dice)[0]), 3) for name in names}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--acdc", type=Path, required=True, help="folder of ACDC")
    parser.add_argument("--la", type=Path, required=True, help="folder of the left-atrium scans")
    parser.add_argument("--scribbled", type=int, default=5, help="training patients to choose on")
    parser.add_argument("--rows", type=Path, help="JSON of measured cases, to resume from")
    parser.add_argument(
        "--test", nargs="*", choices=BUNDLES, default=list(BUNDLES), help="bundles to test"
    )
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    folders = {"acdc": arguments.acdc, "la": arguments.la}
    kept: dict[str, Any] = {}
    if arguments.rows is not None and arguments.rows.is_file():
        kept = json.loads(arguments.rows.read_text(encoding="utf-8"))
    chosen_on: dict[str, dict[str, list[dict[str, Any]]]] = {}
    tested: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as staging:
        network_of = cache(lambda bundle: Measured(bundle, Path(staging)))
        datalists = {data: find_datalist(folder) for data, folder in folders.items()}
        try:
            for bundle, data in BUNDLES.items():
                folder, datalist = folders[data], datalists[data]
                patients = list(dict.fromkeys(entry.patient_id for entry in datalist.training))
                scribbled = set(patients[FULL : FULL + arguments.scribbled])
                drawn = [entry for entry in datalist.training if entry.patient_id in scribbled]
                chosen_on[bundle] = {
                    "validation": _rows(bundle, network_of, folder, datalist.validation, kept),
                    "scribbled": _rows(bundle, network_of, folder, drawn, kept),
                }
            found = choice(chosen_on)
            for bundle in arguments.test:
                folder, test = folders[BUNDLES[bundle]], datalists[BUNDLES[bundle]].test
                names = [found["chosen"]]
                tested[bundle] = _rows(bundle, network_of, folder, test, kept, names)
        finally:
            if arguments.rows is not None:
                write_bytes_atomic(arguments.rows, strict_json(kept).encode())
    content = {
        "benchmark": "Spearman's rank correlation of measures of a prediction with its true Dice",
        "command": "benchmarks/quality.py",
        **found,
        "test": {bundle: _test(rows, found["chosen"]) for bundle, rows in tested.items()},
        **environment(),
    }
    write_bytes_atomic(arguments.output, strict_json(content).encode())
    for bundle, measured in content["test"].items():
        _describe(bundle, measured)


def _describe(bundle: str, measured: Mapping[str, Any]) -> None:
    """Write the correlation into the bundle's metadata, where a prediction's report finds it."""
    folder = find_bundle(bundle)
    path = folder / "configs" / "metadata.json"
    metadata = load(path)
    metadata["expected_quality"] = {
        "data": f"{BUNDLES[bundle].upper()} test split",
        "weights_sha256": sha256_of(bundle_weights(folder)),
        **{name: measured[name] for name in ("n", "spearman", "interval_95")},
    }
    text = json.dumps(metadata, indent=4, ensure_ascii=False) + "\n"
    write_bytes_atomic(path, text.encode())


def _rows(
    bundle: str,
    network_of: Callable[[str], Measured],
    folder: Path,
    entries: Sequence[Entry],
    kept: dict[str, Any],
    names: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Dice and measures of each case; of those that an earlier command measured, what it found."""
    rows = []
    for entry in entries:
        assert entry.label is not None
        key = f"{bundle}/{entry.case_id}"
        if key not in kept:
            image, label = folder / entry.image, folder / entry.label
            kept[key] = network_of(bundle).case(image, label, names)
            print(key, kept[key], flush=True)
        rows.append({"case_id": entry.case_id, **kept[key]})
    return rows


def choice(
    chosen_on: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
) -> dict[str, Any]:
    """The measure that ranks best, and the correlations that say so."""
    first = next(iter(chosen_on.values()))["validation"][0]
    names = [name for name in first if name not in ("case_id", "dice")]
    by_bundle = {
        bundle: {
            "validation": {"n": len(found["validation"])}
            | correlations(found["validation"], names),
            "scribbled": {"n": len(found["scribbled"])} | correlations(found["scribbled"], names),
            "both": correlations([*found["validation"], *found["scribbled"]], names),
        }
        for bundle, found in chosen_on.items()
    }
    means = {
        name: round(float(np.mean([b["both"][name] for b in by_bundle.values()])), 3)
        for name in names
    }
    best = max(names, key=means.__getitem__)
    return {
        "chosen": best if means[best] > means[SHOWN] + GAIN else SHOWN,
        "mean_correlation_where_it_was_chosen": means,
        "chosen_on": by_bundle,
    }


def _test(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """The correlation on the test split, its 95 % bootstrap interval, and the cases behind it."""
    values, dice = [np.array([row[key] for row in rows]) for key in (name, "dice")]
    interval = bootstrap(
        (values, dice),
        lambda a, b: spearmanr(a, b)[0],
        paired=True,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    # Of the fifth of the cases that the measure puts last: how many are in the true last fifth.
    fifth = max(1, round(len(rows) / 5))
    shared = set(np.argsort(values)[:fifth]) & set(np.argsort(dice)[:fifth])
    return {
        "n": len(rows),
        "spearman": round(float(spearmanr(values, dice)[0]), 3),
        "interval_95": [round(float(bound), 3) for bound in interval],
        "worst_fifth": {"cases": fifth, "found": len(shared)},
        "mean_absolute_difference": round(float(np.abs(values - dice).mean()), 4),
        "cases": [
            {"case_id": row["case_id"], "dice": round(row["dice"], 4), name: round(row[name], 4)}
            for row in rows
        ],
    }


if __name__ == "__main__":
    main()
