"""The weights of a bundle: read without trust, compared with a network, converted."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.request import urlopen

import torch
import yaml
from monai.bundle import ConfigParser
from torch import Tensor, nn

from mixseg.apps.bundle.precision import Precision
from mixseg.configuration.loading import cause_of, load
from mixseg.files.atomic import write_atomically
from mixseg.files.provenance import sha256_of
from mixseg.files.weights import read_weights as read_weights
from mixseg.handlers.weights import PLACES
from mixseg.networks.dual_branch.base import present_names

logger = logging.getLogger(__name__)

_SHOWN = 4  # names of a kind in a message
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: Seconds that a server may take to answer, and to send each part of a file.
_TIMEOUT = 60


def build_network(config: Path, settings: Mapping[str, Any]) -> nn.Module:
    """``network_def`` of a configuration file, with other values for some of its settings.

    Raises:
        ValueError: it cannot be built; gives the cause.
    """
    parser = ConfigParser(load(config))
    parser.update(dict(settings))
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
    own, weights = network.state_dict(), present_names(network, weights)
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


_LARGE_FILES = ("large_files.yml", "large_files.yaml")


def bundle_weights(folder: Path, given: Path | None = None) -> Path:
    """The weights of a bundle, or a file that is given in their place.

    eval/models/model.pt, which a training in the bundle's folder writes, is taken if it exists,
    else models/model.pt, else what ``large_files.yml`` names is fetched. A file that
    ``large_files.yml`` names must have the hash that it states there, whether it was fetched or
    found.

    Raises:
        ValueError: there are no weights, they cannot be fetched, or have another hash; or there is
            no ``given``.
    """
    if given is not None:
        if not given.is_file():
            raise ValueError(f"there is no '{given}': give the weights with --weights")
        return given
    listed = _large_files(folder)
    for name in PLACES:
        path = folder / name
        if path.is_file():
            if name in listed:
                _check(path, listed[name])
            return path
    for name in PLACES:
        if name in listed:
            _fetch(folder / name, listed[name])
            return folder / name
    raise ValueError(
        f"'{folder}' has no weights: there is neither {' nor '.join(PLACES)}, and no "
        f"{_LARGE_FILES[0]} says where to fetch them; train them (python -m monai.bundle run "
        "training), or give a file with --weights"
    )


def _large_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Entries of large_files.yml by the path of their file."""
    for name in _LARGE_FILES:
        if (folder / name).is_file():
            content = yaml.safe_load((folder / name).read_text(encoding="utf-8")) or {}
            return {str(entry["path"]): entry for entry in content.get("large_files", ())}
    return {}


def _address_of(path: Path, entry: dict[str, Any]) -> tuple[str, str]:
    """Address and SHA-256 of an entry, which it must have."""
    value = str(entry.get("hash_val") or "").lower()
    if str(entry.get("hash_type", "sha256")).lower() != "sha256" or not _SHA256.fullmatch(value):
        raise ValueError(
            f"{_LARGE_FILES[0]} states no sha256 for '{path}': it needs hash_type: sha256 and, as "
            "hash_val, 64 hexadecimal digits; nothing else is taken for the same file"
        )
    return str(entry.get("url", "")), value


def _check(path: Path, entry: dict[str, Any]) -> None:
    _, value = _address_of(path, entry)
    found = sha256_of(path)
    if found != value:
        raise ValueError(
            f"'{path}' is not the file that {_LARGE_FILES[0]} names (sha256 {found[:12]}… instead "
            f"of {value[:12]}…): delete it to have it fetched again, or, if you trained it, give "
            "it with --weights"
        )


def _fetch(path: Path, entry: dict[str, Any]) -> None:
    url, value = _address_of(path, entry)
    by_hand = f"offline, put the file there yourself (sha256 {value})"
    if not url.startswith("https://"):
        raise ValueError(
            f"{_LARGE_FILES[0]} names '{url}' for '{path}', and only https:// is fetched; {by_hand}"
        )
    logger.warning("fetching '%s' from %s", path.name, url)

    def write(file: BinaryIO) -> None:
        with urlopen(url, timeout=_TIMEOUT) as answer:
            if not answer.url.startswith("https://"):
                raise OSError(f"it leads to '{answer.url}', which is not https://")
            digest = hashlib.sha256()
            for block in iter(lambda: answer.read(1 << 20), b""):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != value:
            raise _OtherFileError

    try:
        # Nothing is left at the path if it is another file.
        write_atomically(path, write)
    except _OtherFileError as error:
        raise ValueError(
            f"what {url} sends is not the file that {_LARGE_FILES[0]} names: its sha256 is not "
            f"{value[:12]}…; nothing was kept, ask the bundle's authors"
        ) from error
    except (OSError, HTTPException) as error:
        # The cause without what writing says of the file.
        raise ValueError(
            f"'{path}' could not be fetched from {url} ({error.__cause__ or error}); {by_hand}"
        ) from error


class _OtherFileError(Exception):
    """What was fetched has another hash."""
