"""The kind of value that each setting takes, whichever bundle has it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from monai.bundle import ConfigParser

from mixseg.configuration.loading import cause_of, strings


@dataclass(frozen=True)
class Kind:
    """A kind of value: what it is called, and whether a value is one."""

    text: str
    holds: Callable[[Any], bool]

    def or_null(self) -> Kind:
        """This kind, or null."""
        return Kind(f"{self.text}, or null", lambda value: value is None or self.holds(value))


def _whole(least: int) -> Kind:
    # A bool is an int for Python: --num_full without a value would count as 1.
    return Kind(f"a whole number from {least} on", lambda v: type(v) is int and v >= least)


def _number(least: float = -math.inf, most: float = math.inf) -> Kind:
    limits = f" from {least:g}" * (least > -math.inf) + f" to {most:g}" * (most < math.inf)
    return Kind(
        f"a number{limits or ' that is finite'}",
        lambda v: type(v) in (int, float) and math.isfinite(v) and least <= v <= most,
    )


def _list(of: Kind, *lengths: int, what: str) -> Kind:
    return Kind(
        what,
        lambda value: (
            isinstance(value, (list, tuple))
            and (len(value) in lengths or not lengths)
            and all(map(of.holds, value))
        ),
    )


_COUNT, _WHOLE, _SHARE, _AMOUNT = _whole(1), _whole(0), _number(0, 1), _number(0)
_LENGTH = Kind("a number above 0", lambda v: _AMOUNT.holds(v) and v > 0)
_SWITCH = Kind("true or false", lambda v: isinstance(v, bool))
_TEXT = Kind("text", lambda v: isinstance(v, str))
_SIZE = _list(_WHOLE, 2, 3, what="a list of whole numbers, one an axis, such as [64, 64]")
_AXES = _list(_WHOLE, what="a list of axes, such as [0, 1]")
_NAMES = _list(_TEXT, what="a list of names, such as [background, tumor]")

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(
        ("max_epochs", "val_interval", "checkpoint_interval", "accumulation_steps", "in_channels"),
        _COUNT,
    ),
    **dict.fromkeys(
        ("batch_full", "batch_partial", "batch_noisy", "batch_unlabeled", "num_workers",
         "patience", "noise_seed"),
        _WHOLE,
    ),
    **dict.fromkeys(
        ("num_full", "num_partial", "num_noisy", "num_unlabeled"), _WHOLE.or_null()
    ),
    "seed": Kind("a whole number from 0 to 4294967295", lambda v: _WHOLE.holds(v) and v < 2**32),
    "epoch_length": _COUNT.or_null(),
    **dict.fromkeys(
        ("lr", "weight_decay", "clip_grad_norm", "discriminator_lr", "negatives_margin"), _AMOUNT
    ),
    "lr_power": _AMOUNT.or_null(),
    **dict.fromkeys(
        ("dropout", "ema_decay", "momentum", "teacher_decay", "flip_probability"), _SHARE
    ),
    "features": _list(_COUNT, what="a list of whole numbers, such as [16, 32, 64, 128]"),
    "spatial_size": _SIZE,
    "crop_size": _SIZE,
    "slice_size": Kind(
        "a whole number of pixels, or a list of two",
        lambda v: _COUNT.holds(v) or (_SIZE.holds(v) and all(map(_COUNT.holds, v))),
    ),
    "spacing": _list(_LENGTH, 3, what="a list of three numbers above 0, in mm").or_null(),
    "intensity_range": _list(_number(), 2, what="a list of two numbers, such as [0, 1]"),
    "target_classes": _list(_WHOLE, what="a list of class numbers, such as [1, 2]"),
    **dict.fromkeys(("source_classes", "class_names"), _NAMES),
    "unlabeled_value": Kind("a whole number", lambda v: type(v) is int).or_null(),
    "orientation": Kind("text such as RAS", lambda v: isinstance(v, str)).or_null(),
    "flip_axes": _AXES,
    "mirror_axes": _AXES,
    "amp": Kind("true, false or auto", lambda v: isinstance(v, bool) or v == "auto"),
    **dict.fromkeys(("progress", "resume", "match_classes"), _SWITCH),
}  # fmt: skip


def value_fault(name: str, value: Any) -> str:
    """What is wrong with the value of a setting; empty where nothing is known to be.

    Args:
        name: of the setting; those of no known kind take anything.
        value: as the components of a bundle get it.
    """
    kind = _number() if name.startswith("lambda_") else _KINDS.get(name)
    return "" if kind is None or kind.holds(value) else f"{name} is {value!r}; it is {kind.text}"


def refuse_other_kinds(settings: Mapping[str, Any]) -> None:
    """Refuse settings with values of another kind than they take; expressions are let pass.

    Raises:
        ValueError: names every such setting and what it takes.
    """
    faults = [value_fault(n, v) for n, v in settings.items() if not _is_expression(v)]
    _refuse(faults)


def refuse_resolved(parser: ConfigParser) -> None:
    """Refuse the settings of a configuration, expressions by their values, as the above.

    Raises:
        ValueError: as above, or a setting's expression cannot be computed.
    """
    known = [name for name in parser.config if name in _KINDS or name.startswith("lambda_")]
    # What is computed from such settings alone, such as steps from epochs.
    computed = {
        place: text
        for place, text in strings(parser.config)
        if text.startswith("$") and (named := re.findall(r"@(\w+)", text)) and {*named} <= {*known}
    }
    faults = []
    for name in dict.fromkeys((*known, *computed)):
        try:
            value = parser.get_parsed_content(name)
        except Exception as error:  # whatever an expression raises
            faults.append(f"{name} is {computed.get(name)!r}, which fails: {cause_of(error)}")
        else:
            faults.append(value_fault(name, value))
    _refuse(faults)


def _is_expression(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_is_expression, value))
    return isinstance(value, str) and value[:1] in ("$", "@", "%")


def _refuse(faults: list[str]) -> None:
    if found := [fault for fault in faults if fault]:
        raise ValueError("; ".join(found))
