"""Values of the command line, and what monai.bundle would take for something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import yaml

from mixseg.configuration.settings import (
    misread_values,
    one_dash,
    read_settings,
    setting_texts,
    unknown_options,
    value_of,
)
from mixseg.configuration.start import start_command

CONFIG = {
    "lr": 0.1,
    "amp": True,
    "num_partial": 3,
    "noisy_as": None,
    "norm": "batch",
    "sizes": [4, 8],
    "epoch_length": "$@lr",
    "optimizer": {"_target_": "SGD"},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("False", False), ("off", False), ("null", None), ("~", None),
        ("None", None), ("1e-3", 0.001), ("-2", -2), ("[8, 16]", [8, 16]), ("(1, 2)", (1, 2)),
        ("[1e-3, null, a]", [0.001, None, "a"]), ("{lr: 1e-2}", {"lr": 0.01}),
        ("{'a': 1}", {"a": 1}),
        ("run/model.pt", "run/model.pt"), ("@lr", "@lr"), ("$1 + 1", "$1 + 1"), ("12:30", "12:30"),
        ("2026-01-02", "2026-01-02"), ("a #b", "a #b"), ("007", "007"), ("", ""),
        ("'8'", "8"), ('"a"', "a"),
    ],
)  # fmt: skip
def test_values_are_what_python_or_yaml_understands(text: str, value: Any) -> None:
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


@pytest.mark.parametrize(
    ("present", "value"),
    [(3, None), (None, None), ("$@lr", None), ("auto", None), ("none", "none")],
)
def test_none_is_null_unless_the_setting_says_so(present: Any, value: Any) -> None:
    assert value_of("none", present) == value


def test_names_are_written_with_hyphens_or_underscores() -> None:
    words = ["--num-partial", "none", "--num_partial=4", "--optimizer#lr", "1e-3", "--amp", "no"]
    assert read_settings(words, CONFIG) == {"num_partial": 4, "optimizer#lr": 0.001, "amp": False}
    with pytest.raises(
        ValueError, match=r"'--num-ful' is neither .* \(did you mean --num_full\?\)"
    ):
        setting_texts(["--num-ful", "3"], ["num_full", "lr"], "the bundle b")
    with pytest.raises(ValueError, match="'-lr' is neither"):
        setting_texts(["-lr", "3"], ["lr"], "the bundle b")


@pytest.mark.parametrize(
    ("name", "text", "meant"),
    [
        ("amp", "false", False), ("amp", "true", True), ("epoch_length", "null", None),
        ("num_partial", "none", None), ("noisy_as", "None", "taken"), ("lr", "1e-3", "taken"),
        ("norm", "none", None), ("noisy_as", "full", "taken"), ("sizes", "[1,null]", [1, None]),
        ("sizes", "[background, LA]", "taken"), ("sizes", "{a: 1e-3}", "taken"),
        ("optimizer#nesterov", "true", True), ("workflow_type", "train", "taken"),
    ],
)  # fmt: skip
def test_texts_that_yaml_would_understand_are_found(
    config: Path, name: str, text: str, meant: Any
) -> None:
    words = ["run", "training", "--config_file", str(config), f"--{name}", text]
    assert misread_values(words) == ({} if meant == "taken" else {name: meant})


def test_numbers_in_an_arguments_file(config: Path, tmp_path: Path) -> None:
    path = tmp_path / "args.yaml"
    path.write_text(f"config_file: {config}\nlr: 1e-3\nnum_partial: 2\namp: false\n")
    assert misread_values(["run", "training", "--args_file", str(path)]) == {"lr": 0.001}


def test_options_of_monai_itself_are_known(config: Path) -> None:
    words = ["run", "training", "--config_file", str(config)]
    for name in ("workflow_type", "args_file", "meta_file", "logging_file", "run_id", "init_id"):
        value = str(config) if name == "args_file" else "x"
        assert unknown_options([*words, f"--{name}", value]) == {}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["run", "training", "-lr", "1"], ["-lr"]),
        (["run", "-h"], ["-h"]),
        (["run", "--lr", "-1"], []),
        (["run", "--output_dir", "-odd"], []),
        (["run", "--lr=1", "-amp=False"], ["-amp=False"]),
    ],
)
def test_options_with_one_dash_are_found(words: list[str], found: list[str]) -> None:
    assert one_dash(words) == found


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-lr", "1"], "'-lr' begins with one dash: write --lr"),
        (["--num_partial", "none", "--amp", "no"], "write --num_partial None; write --amp False: "),
        (["--lrr", "1"], r"no such option: --lrr \(did you mean --lr\?\)"),
    ],
)
def test_a_run_refuses_them_by_name(config: Path, more: list[str], message: str) -> None:
    main = str(Path(monai.bundle.__file__).with_name("__main__.py"))
    with pytest.raises(ValueError, match=message):
        start_command([main, "run", "training", "--config_file", str(config), *more])
