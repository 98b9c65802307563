"""Paths whose characters are MONAI's syntax."""

from __future__ import annotations

from typing import Any

import pytest
from monai.bundle import ConfigParser

from mixseg.configuration.loading import cause_of
from mixseg.configuration.paths import literal_path, restore_values


@pytest.mark.parametrize(
    "path",
    ["runs/run3", "runs/run#3", "$HOME/x", "@a/b", "%c", "a'b\"c#d", "Müller #1/患者", "a\\b#"],
)
def test_a_literal_path_is_what_the_configuration_gives(path: str) -> None:
    parser = ConfigParser({"output_dir": literal_path(path)})
    assert parser.get_parsed_content("output_dir") == path


@pytest.mark.parametrize("option", ["--dataset_dir", "--dataset-dir"])
def test_paths_of_the_command_line_reach_the_configuration(option: str) -> None:
    typed = ["run", option, "20240131", "--output_dir=runs/run#3", "--ckpt_dir", "a"]
    # As Python Fire and MONAI's parser hand these on.
    config = {
        "dataset_dir": 20240131,
        "output_dir": "runs/run::3",
        "ckpt_dir": "a",
        "datalist": "$@dataset_dir + '/datalist.json'",
        "initialize": ["$restore_values(typed)"],
    }
    parser = ConfigParser(config, globals={"restore_values": restore_values, "typed": typed})
    parser.get_parsed_content("initialize")
    assert parser.get_parsed_content("dataset_dir") == "20240131"
    assert parser.get_parsed_content("output_dir") == "runs/run#3"
    assert parser.get_parsed_content("datalist") == "20240131/datalist.json"
    assert parser.config["ckpt_dir"] == "a"
    # A record of the configuration gives the same paths.
    again = ConfigParser(dict(parser.config) | {"initialize": []})
    assert again.get_parsed_content("output_dir") == "runs/run#3"


def restored(config: dict[str, Any], typed: list[str]) -> ConfigParser:
    """The configuration, after what begins a run."""
    config |= {"initialize": ["$restore_values(typed)"]}
    parser = ConfigParser(config, globals={"restore_values": restore_values, "typed": typed})
    parser.get_parsed_content("initialize")
    return parser


@pytest.mark.parametrize("typed", [["--free_negatives", "None"], ["--free-negatives=None"]])
def test_null_of_the_command_line_replaces_the_default(typed: list[str]) -> None:
    # MONAI leaves the option out, so the configuration still has its default.
    parser = restored({"free_negatives": "auto", "radius": "@free_negatives"}, ["run", *typed])
    assert parser.get_parsed_content("radius") is None
    assert parser.config["free_negatives"] is None


def test_null_within_an_entry_is_refused() -> None:
    config = {"optimizer": {"weight_decay": 0.1}}
    with pytest.raises(RuntimeError) as raised:
        restored(config, ["run", "--optimizer#weight_decay", "None"])
    assert "write 'optimizer#weight_decay: null' into a file" in str(cause_of(raised.value))
