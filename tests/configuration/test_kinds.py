"""Settings with values of another kind than they take."""

from __future__ import annotations

import math
from typing import Any

import pytest
from monai.bundle import ConfigParser

from mixseg.configuration.kinds import refuse_other_kinds, refuse_resolved, value_fault
from mixseg.configuration.settings import read_settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", "1e-3"), ("lr", -1), ("lr", math.nan), ("lr", math.inf), ("lr", True), ("lr", None),
        ("max_epochs", 1.5), ("max_epochs", 0), ("max_epochs", True), ("max_epochs", None),
        ("num_full", True), ("num_full", 2.5), ("num_partial", -1), ("seed", 2**32), ("seed", -1),
        ("features", 16), ("features", [4.5]), ("features", ["8", "16"]),
        ("spatial_size", [32]), ("spatial_size", 32), ("spatial_size", [-1, 32]),
        ("spacing", [1, 1, 0]), ("intensity_range", [0]), ("dropout", 2), ("ema_decay", math.nan),
        ("lambda_new_term", "x"), ("amp", "yes"), ("resume", "maybe"), ("flip_axes", 0),
        ("match_classes", "off"), ("match_classes", 1), ("negatives_margin", -0.1),
        ("negatives_margin", "20%"),
    ],
)  # fmt: skip
def test_another_kind_of_value_is_refused_by_name(name: str, value: Any) -> None:
    assert value_fault(name, value).startswith(f"{name} is {value!r}; it is ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 1e-3), ("lr", 1), ("lr_power", None), ("max_epochs", 3), ("num_full", None),
        ("num_partial", 0), ("features", (8, 16, 32)), ("spatial_size", [64, 64, 32]),
        ("slice_size", 256), ("slice_size", [256, 128]), ("amp", "auto"), ("amp", False),
        ("lambda_ent", -0.5), ("a_setting_of_some_bundle", "anything"), ("epoch_length", None),
        ("match_classes", True), ("negatives_margin", 0), ("negatives_margin", 0.2),
    ],
)  # fmt: skip
def test_values_of_the_kind_are_taken(name: str, value: Any) -> None:
    assert value_fault(name, value) == ""


def test_a_command_lists_every_such_setting_and_lets_expressions_pass() -> None:
    words = ["--lr", "fast", "--max-epochs", "$2 * 3", "--seed", "-1"]
    with pytest.raises(ValueError, match=r"lr is 'fast'; it is a number.*; seed is -1; it is "):
        read_settings(words, {"lr": 0.1, "max_epochs": 3, "seed": 0})
    refuse_other_kinds({"max_epochs": "$2 * 3", "features": ["@x", 3]})


def test_a_file_with_a_number_that_yaml_reads_as_text_is_refused() -> None:
    parser = ConfigParser({"lr": "1e-3", "epochs": 3, "max_epochs": "$@epochs * 0.5"})
    with pytest.raises(ValueError, match=r"lr is '1e-3'; .*; max_epochs is 1.5; it is a whole"):
        refuse_resolved(parser)


def test_what_cannot_be_computed_from_settings_is_named() -> None:
    steps = {"_target_": "no.such.part", "steps": "$@max_epochs * @epoch_length"}
    parser = ConfigParser({"max_epochs": 2, "epoch_length": None, "schedule": steps})
    with pytest.raises(ValueError, match=r"schedule#steps is '\$@max_epochs .* fails: unsupported"):
        refuse_resolved(parser)
    refuse_resolved(ConfigParser({"max_epochs": 2, "epoch_length": 3, "schedule": steps}))
