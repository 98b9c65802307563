"""Paths whose characters are MONAI's syntax."""

from __future__ import annotations

import pytest
from monai.bundle import ConfigParser

from mixseg.configuration.paths import literal_path, restore_paths


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
        "initialize": ["$restore_paths(typed)"],
    }
    parser = ConfigParser(config, globals={"restore_paths": restore_paths, "typed": typed})
    parser.get_parsed_content("initialize")
    assert parser.get_parsed_content("dataset_dir") == "20240131"
    assert parser.get_parsed_content("output_dir") == "runs/run#3"
    assert parser.get_parsed_content("datalist") == "20240131/datalist.json"
    assert parser.config["ckpt_dir"] == "a"
    # A record of the configuration gives the same paths.
    again = ConfigParser(dict(parser.config) | {"initialize": []})
    assert again.get_parsed_content("output_dir") == "runs/run#3"
