"""New values in the text of a configuration, everything else to the letter."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mixseg.configuration.yaml_text import set_values

REPOSITORY = Path(__file__).resolve().parents[2]

TEXT = """\
# What the file is for.

dataset_dir: $@bundle_root + '/data'   # a folder
num_full: 3                         # scans with full masks
features: [16, 32, 64]    # channels
datalist:   # another list
device: "$torch.device('cpu')"
ramps:                              # per weight
  lambda_ent: 10                    # iterations
  lambda_w: 5
# --- network
network_def:
  _target_: UNet
  num_full: 7
"""


def test_values_change_and_everything_else_stays_to_the_letter():
    changed = set_values(TEXT, {"num_full": 10, "features": [8, 16], "device": "cuda:0"})
    assert changed.splitlines() == [
        "# What the file is for.",
        "",
        "dataset_dir: $@bundle_root + '/data'   # a folder",
        "num_full: 10                        # scans with full masks",  # the same column
        "features: [8, 16]         # channels",
        "datalist:   # another list",
        "device: cuda:0",
        "ramps:                              # per weight",
        "  lambda_ent: 10                    # iterations",
        "  lambda_w: 5",
        "# --- network",
        "network_def:",
        "  _target_: UNet",
        "  num_full: 7",  # only keys of the top level
    ]


def test_a_comment_moves_behind_a_value_that_needs_its_place():
    changed = set_values(TEXT, {"features": [16, 32, 64, 128, 256]})
    assert "features: [16, 32, 64, 128, 256]  # channels\n" in changed


def test_an_empty_value_is_filled_and_a_block_becomes_one_line():
    changed = set_values(TEXT, {"datalist": "other.json", "ramps": {"lambda_ent": 1000}})
    assert "datalist: other.json  # another list\n" in changed
    # The block's own comments go with it; the one that follows it belongs to the next section.
    assert "\nramps: {lambda_ent: 1000}\n# --- network\n" in changed


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -3,
        0.03,
        1e-5,
        1e10,
        "null",
        "3",
        "1e-5",
        "",
        "a: b # c",
        "@device",
        "%train#x",
        "$@ckpt_dir + '/model.pt'",
        "it's",
        "Vorhof (ä)",
        "two\nlines",
        "x" * 300,
        [1.25, 1.25, 1.25],
        [[1, 2], [3, 4]],
        [],
        {},
        {"lambda_ent": 1000, "nested": {"a": [None, "b"]}},
    ],
)
@pytest.mark.parametrize("key", ["dataset_dir", "datalist", "ramps", "network_def"])
def test_a_parser_reads_the_new_value_and_the_old_rest(key, value):
    changed = set_values(TEXT, {key: value})
    assert yaml.safe_load(changed) == yaml.safe_load(TEXT) | {key: value}


def test_tuples_are_lists_and_an_object_may_occur_twice():
    shared = [1, 2]
    changed = set_values(TEXT, {"num_full": (1, 2), "ramps": {"a": shared, "b": shared}})
    assert yaml.safe_load(changed)["num_full"] == [1, 2]
    assert "ramps: {a: [1, 2], b: [1, 2]}\n" in changed


def test_a_block_scalar_and_the_last_line_without_a_break():
    text = "text: |\n  one\n  two\n# after\nlast: 1"
    assert set_values(text, {"text": "three", "last": 2}) == "text: three\n# after\nlast: 2"
    assert set_values("text: >\n  one", {"text": "two"}) == "text: two"


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("bundles/*/configs/train.yaml")))
def test_the_same_values_read_back_from_every_bundle(path):
    text = path.read_text()
    content = yaml.safe_load(text)
    assert yaml.safe_load(set_values(text, content)) == content
    assert set_values(text, {}) == text


def test_names_that_are_no_keys_are_refused():
    with pytest.raises(ValueError, match=r"no such key in the configuration: 'lr', 'lambda_ent'"):
        set_values(TEXT, {"num_full": 1, "lr": 2, "lambda_ent": 3})
    with pytest.raises(ValueError, match="not a mapping of keys to values"):
        set_values("- a\n- b\n", {})
