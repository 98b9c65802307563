"""What the bundles of one data set share is the same in all of them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixseg.apps.pack.checks.configs import check_shared
from mixseg.handlers import standard_handlers

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
WRONG_MASKS = ("selfcorrecting", "macromicro", "ficklenet")
#: Data set → its bundles, the one that the others are compared with first.
FAMILIES = {
    "acdc_lv": [
        *("confkd", "uamt", "glmi", "ssco", "entropy_minimization", "dcr", "adversarial", "s4gan"),
        "multitask",
    ],
    "la": ["confkd", "uamt", "glmi", "ssco"],
    "wbc": [
        *("single", "decoupled", "uamt", "entropy_minimization", "dcr", "adversarial", "s4gan"),
        "multitask",
        *WRONG_MASKS,
    ],
}
#: One recipe for several data sets, compared in test_flagship.py.
FLAGSHIPS = ["acdc_lv_mixed", "acdc_mixed", "la_mixed", "wbc_mixed"]
PAPERS = [f"{data}_{method}" for data, methods in FAMILIES.items() for method in methods]
SISTERS = [
    (f"{d}_{methods[0]}", f"{d}_{m}") for d, methods in FAMILIES.items() for m in methods[1:]
]
#: Settings whose values are the method's: the cases that it sees, and how its weights grow.
COUNTS = {"num_partial", "num_unlabeled", "batch_full", "batch_partial", "batch_unlabeled"} | {
    "epoch_length"
}
OF_THE_METHOD = COUNTS | {"ramps", "ramp_shape", "alpha", "inference_branch"}
#: Of white blood cells the recipes are two papers', and wrong masks count as what a method takes.
TWO_PAPERS = {"lr", "weight_decay", "lr_power", "noisy_as", "num_noisy", "batch_noisy"}
TWO_PAPERS |= {"lambda_w", "lambda_ent", "lambda_class"}
SEMI_SUPERVISED = {"uamt", "glmi", "ssco", "entropy_minimization", "adversarial", "s4gan"}
SEMI_SUPERVISED |= {"multitask"}
#: Components in which methods differ. Cases, streams and branches are DCR's own; a network of means
#: and variances is entropy minimization's.
OWN_PARTS = (
    "objective",
    "network_def",
    "ancillary",
    "reconstructor",
    "train#dataset#data",
    "train#handlers",
)
OWN_PARTS += ("train#dataset#label_keys", "train#dataloader", "train#trainer#separate_forward")
OWN_PARTS += ("validate#key_metric", "validate#evaluator#branches")
OWN_PARTS += tuple(f"preparation#{name}" for name in ("weak_label", "reference", "erosion_rule"))
OWN_PARTS += ("preparation#noise",)


@cache
def read(bundle: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((BUNDLES / bundle / "configs" / name).read_text())
    return content


def method(bundle: str) -> str:
    data = next(data for data in FAMILIES if bundle.startswith(f"{data}_"))
    return bundle.removeprefix(f"{data}_")


def settings(bundle: str) -> dict[str, Any]:
    """The entries of train.yaml from bundle_root to the first component."""
    content = read(bundle, "train.yaml")
    names = list(content)
    chosen = names[names.index("bundle_root") : names.index("datalist_content")]
    return {name: content[name] for name in chosen}


def without(content: dict[str, Any], *places: str) -> dict[str, Any]:
    """A copy without the entries at these places, ``a#b#c``."""
    copied = yaml.safe_load(yaml.safe_dump(content))
    for place in places:
        *path, last = place.split("#")
        node = copied
        for key in path:
            node = node[key]
        node.pop(last, None)
    return dict(copied)


def branches_of(network: dict[str, Any]) -> int:
    return int(network.get("backbone", network).get("branches", 2))


def test_every_bundle_belongs_to_a_family() -> None:
    found = sorted(p.name for p in BUNDLES.iterdir() if (p / "configs").is_dir())
    assert found == sorted([*FLAGSHIPS, *PAPERS])


@pytest.mark.parametrize(("first", "sister"), SISTERS)
def test_settings(first: str, sister: str) -> None:
    """What both have has one value, in one order, but for what is the method's."""
    one, other = settings(first), settings(sister)
    shared = [name for name in one if name in other]
    assert shared == [name for name in other if name in one]
    allowed = OF_THE_METHOD | (TWO_PAPERS if sister.startswith("wbc_") else set())
    assert {name for name in shared if one[name] != other[name]} <= allowed


@pytest.mark.parametrize(("first", "sister"), SISTERS)
def test_components(first: str, sister: str) -> None:
    """Data, optimizer, engine, validation: only what is the method's is another one."""
    both = []
    for name in (first, sister):
        content = read(name, "train.yaml")
        components = {k: v for k, v in content.items() if k not in settings(name)}
        both.append(without(components, *OWN_PARTS))
    assert both[0] == both[1]
    if method(sister) != "dcr":
        names = ("train#dataset", "train#dataloader", "train#handlers", "validate")
        for place in names:
            one, other = (read(name, "train.yaml") for name in (first, sister))
            for part in place.split("#"):
                one, other = one[part], other[part]
            assert one == other, place


@pytest.mark.parametrize(("first", "sister"), SISTERS)
@pytest.mark.parametrize("name", ["evaluate.yaml", "multi_gpu_train.yaml"])
def test_overlays(first: str, sister: str, name: str) -> None:
    assert read(first, name) == read(sister, name)


@pytest.mark.parametrize(("first", "sister"), SISTERS)
@pytest.mark.parametrize("name", ["LICENSE", "configs/logging.conf"])
def test_files(first: str, sister: str, name: str) -> None:
    assert (BUNDLES / first / name).read_bytes() == (BUNDLES / sister / name).read_bytes()


@pytest.mark.parametrize("bundle", [*FLAGSHIPS, *PAPERS])
def test_training_and_inference_share_network_and_preparation(bundle: str) -> None:
    assert check_shared(BUNDLES / bundle) == []


def test_the_same_rows_for_slices_and_volumes() -> None:
    """They differ in batch sizes alone."""
    folders = [BUNDLES / name / "configs" / "rows" for name in ("acdc_lv_confkd", "la_confkd")]
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    for name in names[0]:
        one, other = (yaml.safe_load((folder / name).read_text()) for folder in folders)
        assert without(one, "batch_full") == without(other, "batch_full")


@pytest.mark.parametrize("family", FAMILIES)
def test_data_and_recipe_of_the_semi_supervised_methods_are_one(family: str) -> None:
    chosen = [
        {k: settings(f"{family}_{name}")[k] for k in COUNTS | {"lr", "max_epochs"}}
        for name in FAMILIES[family]
        if name in SEMI_SUPERVISED
    ]
    assert len(chosen) > 1
    assert all(values == chosen[0] for values in chosen)
    assert chosen[0]["num_partial"] == chosen[0]["batch_partial"] == 0
    # Of the white blood cells all that remain.
    assert chosen[0]["num_unlabeled"] == (None if family == "wbc" else "$5 * @num_full")


def test_data_and_recipe_of_the_rivals_on_wrong_masks_are_one() -> None:
    names = COUNTS | {"lr", "weight_decay", "lr_power", "noisy_as", "num_noisy", "batch_noisy"}
    chosen = [
        {k: settings(f"wbc_{name}")[k] for k in names | {"max_epochs"}}
        for name in FAMILIES["wbc"]
        if name in WRONG_MASKS
    ]
    assert len(chosen) == len(WRONG_MASKS)
    assert all(values == chosen[0] for values in chosen)
    dcr = settings("wbc_dcr")
    assert {k: v for k, v in chosen[0].items() if k in dcr} == {
        k: dcr[k] for k in chosen[0] if k in dcr
    }
    # As many pictures a step as a stream of DCR has.
    assert chosen[0]["batch_full"] + chosen[0]["batch_noisy"] == dcr["batch_size"]


@pytest.mark.parametrize("name", FAMILIES["wbc"])
def test_the_larger_network_is_the_same_for_all(name: str) -> None:
    """deeplab.yaml changes the network and what belongs to it, nothing of data or recipe."""
    overlay = read(f"wbc_{name}", "deeplab.yaml")
    own = {"seed_layer", "seed_channels", "ancillary_features"}
    own |= {"encoder_layers", "class_layer", "class_channels", "reconstructor"}
    assert set(overlay) - own <= {"features", "dropout", "network_def", "branch"}
    network = overlay["network_def"].get("backbone", overlay["network_def"])
    first = read("wbc_single", "deeplab.yaml")["network_def"]
    ignored = ("branches", "branch", "out_channels")
    assert without(network, *ignored) == without(first, *ignored)
    train = read(f"wbc_{name}", "train.yaml")
    assert branches_of(overlay["network_def"]) == branches_of(train["network_def"])
    assert first["_target_"] == "mixseg.networks.DualBranchDeepLab"


@pytest.mark.parametrize("bundle", PAPERS)
def test_every_setting_is_read(bundle: str) -> None:
    content = read(bundle, "train.yaml")
    by_name = set(standard_handlers.entries.values())  # type: ignore[attr-defined]
    for setting in settings(bundle).keys() - by_name:
        rest = yaml.safe_dump({name: value for name, value in content.items() if name != setting})
        assert re.search(rf"@{setting}\b", rest), setting


@pytest.mark.parametrize("bundle", [*FLAGSHIPS, *PAPERS])
def test_configurations_read_alike_in_every_locale(bundle: str) -> None:
    """MONAI opens them in the encoding of the locale, which is not UTF-8 everywhere."""
    for path in (BUNDLES / bundle / "configs").rglob("*"):
        assert not path.is_file() or path.read_bytes().isascii(), path
