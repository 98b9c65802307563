"""The flagship's side: its bundle as MONAI runs it, with a clock."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Events
from measuring import ROOT, SPLITS, Clock, Snapshots, curve_of
from monai.bundle import ConfigWorkflow

from mixseg.metrics import summarize
from mixseg.report.scores import read_metrics_csv

CONFIGS = ROOT / "bundles" / "acdc_lv_mixed" / "configs"


def bundle(
    dataset_dir: Path, folder: Path, files: Iterable[str] = ("train.yaml",), **settings: Any
) -> ConfigWorkflow:
    """The bundle's configuration with other settings; runs write to ``folder``."""
    return ConfigWorkflow(
        config_file=[str(CONFIGS / name) for name in files],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=str(CONFIGS / "logging.conf"),
        workflow_type="train",
        dataset_dir=str(dataset_dir.resolve()),
        output_dir=str(folder),
        ckpt_dir=str(folder / "models"),
        progress=False,
        **settings,
    )


def train(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train as the bundle does; its own validations do not count as training."""
    given = (text.partition("=") for text in arguments.settings)
    settings = {name: ast.literal_eval(value) for name, _, value in given}
    setup = Clock()
    workflow = bundle(arguments.dataset_dir, folder, seed=arguments.seed, **settings)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    setup.stop()
    clock = Clock()
    snapshots = Snapshots(folder, clock)
    trainer.add_event_handler(Events.EPOCH_STARTED, clock.start)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, clock.stop)
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda: snapshots.save(trainer.inference_network.state_dict(), trainer.state.iteration),
    )
    workflow.run()
    return {
        "settings": settings,
        "precision": trainer.precision,
        "parameters": sum(p.numel() for p in trainer.inference_network.parameters()),
        "iterations": trainer.state.iteration,
        "setup_seconds": setup.seconds,
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "snapshots": snapshots.list,
    }


def score(arguments: argparse.Namespace, folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Validation Dice of each snapshot; scores of the weights that the training selected."""
    settings = {"seed": record["seed"], **record["settings"]}
    workflow = bundle(arguments.dataset_dir, folder, **settings)
    workflow.parser.parse(True)
    evaluator = workflow.parser.get_parsed_content("validate#evaluator")
    key = workflow.parser.get_parsed_content("validate#key_metric")

    def dice(weights: Mapping[str, Any]) -> float:
        evaluator.network.load_state_dict(weights)
        evaluator.run()
        return float(evaluator.state.metrics[key])

    curve = curve_of(folder, record["snapshots"], dice)
    scores = {}
    for split in SPLITS:
        place = folder / split
        files = ("train.yaml", "evaluate.yaml")
        weights = str(folder / "models" / "model.pt")
        workflow = bundle(
            arguments.dataset_dir, place, files, **settings, split=split, checkpoint=weights
        )
        workflow.initialize()
        workflow.run()
        scores[split] = summarize(read_metrics_csv(place / "metrics.csv"))
    return {"curve": curve, "scores": scores}
