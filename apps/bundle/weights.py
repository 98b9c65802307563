"""The weights of a bundle: read without trust, compared with a network, converted."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from mixseg.configuration.loading import cause_of, load

__all__ = ["Precision", "build_network", "convert", "misfits", "read_weights"]

_SHOWN = 4  # names of a kind in a message


class Precision(str, Enum):
    """Type of the numbers of stored weights."""

    KEEP = "keep"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, alone or under the key ``model``.

    Raises:
        ValueError: there is no such file, it cannot be read with ``weights_only``, or holds
            anything but tensors by their names.
    """
    if not path.is_file():
        raise ValueError(f"there is no '{path}'")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports a damaged file in half a dozen ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"'{path}' cannot be read as weights: {reason}") from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise ValueError(f"'{path}' holds no state dict: save network.state_dict()")
    return dict(content)


def build_network(config: Path, knobs: Mapping[str, Any]) -> nn.Module:
    """``network_def`` of a configuration file, with other values for some of its knobs.

    Raises:
        ValueError: it cannot be built; gives the cause.
    """
    parser = ConfigParser(load(config))
    parser.update(dict(knobs))
    try:
        network: nn.Module = parser.get_parsed_content("network_def")
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"{config.name}: {cause_of(error)}") from error
    return network


def misfits(network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """What keeps weights from being loaded strictly, and values that are not finite.

    MONAI loads without ``strict``: what does not fit keeps its random start, with no more than a
    warning.

    Returns:
        One line for each kind of fault; empty where all fits. Another floating type fits.
    """
    own = network.state_dict()
    groups = {
        "the network lacks": [name for name in weights if name not in own],
        "the weights lack": [name for name in own if name not in weights],
        "other shapes": [
            f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ],
        "values that are not finite in": [
            name for name, value in weights.items() if not torch.isfinite(value).all()
        ],
    }
    faults = []
    for kind, names in groups.items():
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            faults.append(f"{kind} {', '.join(names[:_SHOWN])}{more}")
    return faults


def convert(weights: Mapping[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """Weights with their floating numbers in another type; counters stay integers.

    Raises:
        ValueError: a number is too large for the type.
    """
    if precision is Precision.KEEP:
        return dict(weights)
    dtype = getattr(torch, precision.value)
    converted = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}
    lost = [k for k, v in converted.items() if (v.isinf() & ~weights[k].isinf()).any()]
    if lost:
        raise ValueError(f"{', '.join(lost[:_SHOWN])}: too large for {precision.value}")
    return converted
