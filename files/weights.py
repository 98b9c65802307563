"""Files of weights, read without trust."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["read_weights"]

_SHOWN = 4  # names in a message


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU whatever device wrote it.

    Args:
        path: a file with a state dict, alone or under the key ``model``; or the full state of a
            training (``checkpoint.pt``), out of which the weights are taken that the training
            validates and exports: the moving average where it keeps one.

    Raises:
        ValueError: there is no such file, it cannot be read with ``weights_only``, it holds
            anything but tensors by their names, or values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no '{path}'")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports a damaged file in half a dozen ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"'{path}' cannot be read as weights: {reason} Copy or download it again"
        ) from error
    weights = _weights_of(content)
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(
            f"'{path}' holds no state dict and is not the full state of a training: give the "
            "model.pt or model_last.pt of a training, or save network.state_dict()"
        )
    if bad := [name for name, value in weights.items() if not torch.isfinite(value).all()]:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise ValueError(
            f"'{path}' holds values that are not finite in {', '.join(bad[:_SHOWN])}{more}: its "
            "training has diverged; use weights of an earlier epoch, or train again with a lower "
            "learning rate"
        )
    return weights


def _weights_of(content: Any) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        return {}
    if isinstance(content.get("model"), Mapping):
        return dict(content["model"])
    networks = content.get("networks")
    if "optimizer" not in content or not isinstance(networks, Mapping):
        return dict(content)
    # The names that mixseg.engines gives to a training's networks.
    for prefix in ("average.", "network."):
        found = {k.removeprefix(prefix): v for k, v in networks.items() if k.startswith(prefix)}
        if found:
            return found
    return {}
