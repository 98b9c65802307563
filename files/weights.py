"""Files of weights, read without trust."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SHOWN = 4  # names in a message
_AGAIN = "Copy or download it again"


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
    weights = _weights_of(load_tensors(path))
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(
            f"'{path}' holds no state dict and is not the full state of a training: give the "
            "model.pt or model_last.pt of a training, or save network.state_dict()"
        )
    if odd := [name for name, value in weights.items() if not _is_plain(name, value)]:
        raise ValueError(
            f"'{path}' holds sparse, complex, empty or integer tensors in "
            f"{', '.join(odd[:_SHOWN])}, which are not weights: save network.state_dict()"
        )
    if bad := [name for name, value in weights.items() if not _is_finite(value)]:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise ValueError(
            f"'{path}' holds values that are not finite in {', '.join(bad[:_SHOWN])}{more}: its "
            "training has diverged; use weights of an earlier epoch, or train again with a lower "
            "learning rate"
        )
    return weights


def load_tensors(path: str | os.PathLike[str]) -> Any:
    """The content of a file of ``torch.save``, on the CPU, without running what it may hold.

    Raises:
        ValueError: it is damaged, a TorchScript, or holds something else than tensors, numbers and
            texts; names the file.
    """
    try:
        # PyTorch does not look at the checksums: a flipped bit would be another weight.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                if any(name.endswith("/constants.pkl") for name in names):
                    raise _unreadable(
                        path,
                        "it is a TorchScript, which holds a network with its weights. Give the "
                        "model.pt that it was exported from, or predict with --exported",
                    )
                if damaged := archive.testzip():
                    reason = f"it is damaged, the checksum of {damaged} differs. {_AGAIN}"
                    raise _unreadable(path, reason)
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise _unreadable(path, f"{error.strerror}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise _unreadable(path, f"it is damaged or incomplete. {_AGAIN}") from error
    except _UnreadableError:
        raise
    except Exception as error:
        # The unpickler fails in half a dozen ways, and advises to trust the file.
        reason = (
            "it is not a file of torch.save, or holds objects that could run code, which are not "
            f"loaded. {_AGAIN}, or save network.state_dict() alone"
        )
        raise _unreadable(path, reason) from error


class _UnreadableError(ValueError):
    pass


def _unreadable(path: str | os.PathLike[str], reason: str) -> _UnreadableError:
    return _UnreadableError(f"'{path}' cannot be read as weights: {reason}")


def _is_plain(name: str, value: Tensor) -> bool:
    if value.layout != torch.strided or value.is_complex() or value.is_meta:
        return False
    # Counts of batches and tables of positions are integers, quantized weights are, too.
    return value.is_floating_point() or not name.endswith((".weight", ".bias"))


def _is_finite(value: Tensor) -> bool:
    # As the network keeps it: a double may be too large for a float.
    return bool(torch.isfinite(value.float() if value.dtype == torch.double else value).all())


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
