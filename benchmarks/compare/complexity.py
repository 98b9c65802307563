"""Parameters that a method keeps while training, and the time that a sample takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from mixseg.configuration.loading import read_parser
from mixseg.networks import DualBranchNetwork

from .list import Experiment

__all__ = ["count_parameters", "measure_complexity"]

_REPEATS = 5


class _Cases:
    """Stands for the training set where an objective has a weight for each of its items."""

    supervision = ("full", "noisy")


def count_parameters(bundle: Path, experiment: Experiment) -> int | None:
    """Parameters of all networks that a row's training keeps; None where nothing says them.

    Heads that the objective adds are left out, as in the journal's count; a network of its own,
    such as Self-Correcting's ancillary one, is not.

    Args:
        bundle: its folder.
        experiment: the row.
    """
    parser = _parser(bundle, experiment.overlays, experiment.settings)
    if "network_def" not in parser.config or "objective" not in parser.config:
        return None
    own = (
        module
        for module in parser.get_parsed_content("objective").modules()
        if isinstance(module, DualBranchNetwork)
    )
    alike = _networks(parser) * _parameters(parser.get_parsed_content("network_def"))
    return alike + sum(_parameters(network) for network in own)


def measure_complexity(
    bundle: Path, settings: Mapping[str, Any], device: str, overlays: Sequence[str] = ()
) -> dict[str, Any]:
    """Parameters of a bundle's training, and milliseconds of a forward pass of one sample.

    Times are medians over repeated passes of a random sample of the size that the network is
    trained on, in single precision, without gradients and after a warm-up.

    Args:
        bundle: its folder; no weights are needed.
        settings: other values of some of its settings.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``parameters`` and ``networks`` (of training), ``milliseconds`` (of the network that
        predicts), ``milliseconds_all`` (of all networks one after another, the journal's way),
        ``sample`` (shape of the input) and ``device`` (its name).
    """
    import torch

    from mixseg.files.provenance import environment

    parser = _parser(bundle, overlays, settings)
    parser["device"] = torch.device(device)
    networks = _networks(parser)
    size = "spatial_size" if "spatial_size" in parser.config else "crop_size"
    shape = [1, parser.get_parsed_content("in_channels"), *parser.get_parsed_content(size)]
    network = parser.get_parsed_content("network_def").to(device).eval()
    sample = torch.rand(shape, device=device)
    times = []
    with torch.no_grad():
        for repeat in range(_REPEATS + 1):
            _wait(device)
            started = time.perf_counter()
            network(sample)
            _wait(device)
            if repeat:
                times.append(1000 * (time.perf_counter() - started))
    milliseconds = statistics.median(times)
    hardware = environment()["hardware"]
    return {
        "parameters": networks * _parameters(network),
        "networks": networks,
        "milliseconds": round(milliseconds, 2),
        "milliseconds_all": round(networks * milliseconds, 2),
        "sample": shape,
        "device": hardware["gpu"] if device == "cuda" else hardware["cpu"],
        "threads": torch.get_num_threads(),
    }


def _parser(bundle: Path, overlays: Sequence[str], settings: Mapping[str, Any]) -> ConfigParser:
    parser = read_parser(
        [bundle / "configs" / name for name in ("train.yaml", *overlays)], settings
    )
    if "train#dataset" in parser:
        parser["train#dataset"] = _Cases()
    return parser


def _networks(parser: ConfigParser) -> int:
    """How many networks training keeps, all of one architecture."""
    return 1 + len(parser.get_parsed_content("objective").networks)


def _parameters(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
