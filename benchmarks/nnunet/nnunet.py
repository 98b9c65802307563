"""nnU-Net's side: its own fingerprint, plans, steps and inference, within a time budget."""

from __future__ import annotations

import argparse
import os
import random
import statistics
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from flagship import bundle
from measuring import SPLITS, Clock, Snapshots, curve_of, read_json

from mixseg.files.atomic import strict_json
from mixseg.files.geometry import spacing_mm
from mixseg.files.reading import open_volume
from mixseg.metrics import CaseScore, dice_coefficient, score_case, summarize
from mixseg.transforms import ConvertUnlabeled, KeepMostProbableComponent, SelectClasses

DATASET = "Dataset001_ACDCLV"
PACKAGES = ("nnunetv2", "dynamic-network-architectures", "batchgenerators", "batchgeneratorsv2")
#: Iterations whose median time plans the others.
TIMED = 10
#: nnU-Net's own numbers of epochs, and of iterations an epoch, which are never exceeded.
MOST_EPOCHS, MOST_ITERATIONS = 1000, 250


def plan_epochs(seconds: float, budget: float) -> tuple[int, int]:
    """Epochs, and iterations an epoch, that fill a time budget.

    nnU-Net lowers its rate after each epoch: 1,000 epochs as it has them, shorter ones where the
    budget ends earlier, and fewer than 1,000 only where it holds fewer iterations.

    Args:
        seconds: of an iteration.
        budget: seconds in all.

    Returns:
        Numbers whose iterations take at most the budget, and leave less than an epoch of it unless
        nnU-Net's own schedule ends before.

    Raises:
        ValueError: the budget is shorter than an iteration.
    """
    count = int(budget / seconds)
    if count < 1:
        raise ValueError(
            f"an iteration takes {seconds:.1f} s and {budget:.1f} s of the budget are left: give "
            "more --minutes"
        )
    iterations = min(MOST_ITERATIONS, -(-count // MOST_EPOCHS))
    return min(MOST_EPOCHS, count // iterations), iterations


class Labels:
    """The flagship's cases and label maps, as nnU-Net wants them.

    Args:
        dataset_dir: folder of ACDC.
        folder: to write to, if anything.
    """

    def __init__(self, dataset_dir: Path, folder: Path) -> None:
        self._parser = bundle(dataset_dir, folder, ("train.yaml", "evaluate.yaml")).parser
        self._parser.parse(True)
        content = self._parser.get_parsed_content
        self.names: list[str] = content("class_names")
        count = len(content("source_classes"))
        self._known = ConvertUnlabeled(count, content("unlabeled_value"))
        self._select = SelectClasses(content("target_classes"), count)

    def cases(self, split: str) -> list[dict[str, Any]]:
        """Of ``training``, as the bundle selects them, ``validation`` or ``test``."""
        if split == "training":
            return list(self._parser.get_parsed_content("train#dataset#data"))
        self._parser["split"] = split
        self._parser.parse(True)
        return list(self._parser.get_parsed_content("validate#dataset#data"))

    def read(self, path: str) -> np.ndarray:
        """A label file's classes to segment, with nnU-Net's ignore label.

        Returns:
            uint8 in the file's grid (x, y, z): 0 for background, 1…K for the classes, and K + 1,
            the highest label, for unlabeled, which nnU-Net wants as ``ignore``.
        """
        return self.convert(np.asarray(open_volume(path).data))

    def convert(self, label: np.ndarray) -> np.ndarray:
        """:meth:`read` of an array."""
        return np.asarray(self._select(self._known(label)))


def set_up(work: Path, cores: int, workers: int) -> Path:
    """Tell nnU-Net, before it is imported, its folders and processes; returns that of the data."""
    folders = {f"nnUNet_{name}": work / name for name in ("raw", "preprocessed", "results")}
    numbers = {"nnUNet_def_n_proc": cores, "nnUNet_n_proc_DA": workers}
    os.environ.update({name: str(value) for name, value in {**folders, **numbers}.items()})
    return work / "preprocessed" / DATASET


def prepare(arguments: argparse.Namespace) -> None:
    """Give nnU-Net the flagship's training cases: its fingerprint, plans and prepared slices."""
    clock = Clock()
    work = arguments.work.resolve() / "nnunet"
    place = set_up(work, arguments.cores, arguments.cores)
    from nnunetv2.experiment_planning import plan_and_preprocess_api as planning

    labels = Labels(arguments.dataset_dir, work)
    cases = labels.cases("training")
    raw = work / "raw" / DATASET
    (raw / "labels").mkdir(parents=True, exist_ok=True)
    files = {}
    for case in cases:
        if "label" not in case or case["erode"]:
            raise ValueError(f"{case['case_id']}: nnU-Net is given masks and drawn scribbles only")
        file = raw / "labels" / f"{case['case_id']}.nii.gz"
        affine = nib.load(case["image"]).affine
        nib.save(nib.Nifti1Image(labels.read(case["label"]), affine), file)
        files[case["case_id"]] = {"images": [case["image"]], "label": str(file)}
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {**{n: i for i, n in enumerate(labels.names)}, "ignore": len(labels.names)},
        "numTraining": len(files),
        "file_ending": ".nii.gz",
        "dataset": files,
    }
    (raw / "dataset.json").write_text(strict_json(description), encoding="utf-8")
    planning.extract_fingerprints([1], num_processes=arguments.cores, check_dataset_integrity=True)
    planning.plan_experiments([1], gpu_memory_target_in_gb=arguments.memory)
    planning.preprocess([1], configurations=["2d"], num_processes=[arguments.cores])
    clock.stop()
    kinds = [case["supervision"] for case in cases]
    facts = {
        "seconds": clock.seconds,
        "memory_target_gb": arguments.memory,
        "cases": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
    }
    (place / "preparation.json").write_text(strict_json(facts), encoding="utf-8")
    print(f"nnU-Net's data is in {place}: {facts}")


def _trainer(place: Path) -> Any:
    """nnU-Net's trainer of the 2D configuration on all training cases."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plans, dataset = (read_json(place / name) for name in ("nnUNetPlans.json", "dataset.json"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return nnUNetTrainer({**plans, "continue_training": False}, "2d", "all", dataset, device)


def train(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train by nnU-Net's own steps, with a schedule that ends when the budget does.

    Its estimate of Dice on random patches after each epoch, which changes no weight, is left out.
    """
    workers = 0 if arguments.cores == 1 else arguments.cores
    place = set_up(arguments.work.resolve() / "nnunet", arguments.cores, workers)
    setup = Clock()
    random.seed(arguments.seed)
    np.random.seed(arguments.seed)  # noqa: NPY002 (the generator of nnU-Net's loader)
    torch.manual_seed(arguments.seed)
    torch.backends.cudnn.benchmark = True  # as its command does
    trainer = _trainer(place)
    trainer.plot_network_architecture = lambda: None  # needs a package that is gone
    trainer.on_train_start()
    trainer.network.train()
    network = getattr(trainer.network, "_orig_mod", trainer.network)
    setup.stop()

    clock = Clock()
    snapshots = Snapshots(folder, clock)

    def step() -> float:
        before = clock.seconds
        trainer.train_step(next(trainer.dataloader_train))
        clock.stop()
        return clock.seconds - before

    # At the first rate, and part of the training.
    first = [step() for _ in range(TIMED)]
    left = 60 * arguments.minutes - sum(first)
    print(f"the first {TIMED} iterations took {[round(s, 2) for s in first]} s", flush=True)
    epochs, iterations = plan_epochs(statistics.median(first), left)
    print(f"{epochs} epochs of {iterations} iterations are to follow", flush=True)
    trainer.lr_scheduler.max_steps = epochs
    marks = np.linspace(0, epochs, arguments.snapshots + 1).round()[1:]
    clock.start()
    for epoch in range(epochs):
        trainer.lr_scheduler.step(epoch)
        for _ in range(iterations):
            step()
        if epoch + 1 in marks:
            snapshots.save(network.state_dict(), TIMED + (epoch + 1) * iterations)
            print(f"epoch {epoch + 1} of {epochs}, {clock.seconds:.0f} s", flush=True)
            clock.start()
    trainer.current_epoch = epochs
    trainer.on_train_end()  # writes its own checkpoint, ends its workers
    plan = trainer.configuration_manager
    return {
        "minutes": arguments.minutes,
        "precision": "mixed" if trainer.device.type == "cuda" else "float32",
        "parameters": sum(p.numel() for p in network.parameters()),
        "plan": {
            "batch_size": plan.batch_size,
            "patch_size": list(plan.patch_size),
            "epochs": epochs,
            "iterations_an_epoch": iterations,
        },
        "preparation": read_json(place / "preparation.json"),
        "workers": workers,
        "iterations": TIMED + epochs * iterations,
        "first_iterations_seconds": first,
        "setup_seconds": setup.seconds,
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "snapshots": snapshots.list,
        "packages": {name: version(name) for name in PACKAGES},
    }


def score(arguments: argparse.Namespace, folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Validation Dice of each snapshot; scores of the last one, as it predicts and cleaned."""
    place = set_up(arguments.work.resolve() / "nnunet", arguments.cores, 0)
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer = _trainer(place)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(device=trainer.device, allow_tqdm=False)
    reader = trainer.plans_manager.image_reader_writer_class()
    keep = KeepMostProbableComponent()
    labels = Labels(arguments.dataset_dir, folder)
    count = len(labels.names)

    def predictions(case: Mapping[str, Any]) -> dict[str, np.ndarray]:
        image, properties = reader.read_images([case["image"]])
        mask, probabilities = predictor.predict_single_npy_array(
            image, properties, None, None, save_or_return_probabilities=True
        )
        kept = np.asarray(keep(probabilities))[0]
        # nnU-Net's arrays are (z, y, x).
        return {"nnU-Net": mask.T, "nnU-Net, one component": kept.T}

    validation = labels.cases("validation")

    def dice(weights: Mapping[str, Any]) -> float:
        predictor.manual_initialization(
            trainer.network,
            trainer.plans_manager,
            trainer.configuration_manager,
            [weights],
            trainer.dataset_json,
            type(trainer).__name__,
            (0, 1),  # as its trainer mirrors slices
        )
        values = []
        for case in validation:
            truth, mask = labels.read(case["label"]), predictions(case)["nnU-Net"]
            mask[truth == count] = count
            values += [dice_coefficient(mask == i, truth == i) for i in range(1, count)]
        return float(np.mean(values))

    # The last snapshot is scored last, so that its weights are those of the predictor.
    curve = curve_of(folder, record["snapshots"], dice)
    scores = {}
    for split in SPLITS:
        rows: list[CaseScore] = []
        for case in labels.cases(split):
            header = nib.load(case["label"]).header
            meta = {"affine": header.get_best_affine(), "xyzt_units": header["xyzt_units"]}
            for branch, mask in predictions(case).items():
                rows += score_case(
                    mask,
                    labels.read(case["label"]),
                    case_id=case["case_id"],
                    branch=branch,
                    class_names=labels.names,
                    num_classes=count,
                    spacing=spacing_mm(meta),
                )
        scores[split] = summarize(rows)
    return {"curve": curve, "scores": scores}
