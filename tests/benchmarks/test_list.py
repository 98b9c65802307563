"""Experiment lists: what a row takes from its list, and what is said of a fault."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from compare.list import (
    ROW_KEYS,
    Experiment,
    check_settings,
    experiments,
    method_of,
    read_list,
    set_of,
)
from compare.published import load_published

from .compare_toys import toy_bundle, write_list

ROOT = Path(__file__).resolve().parents[2]
LISTS = sorted((ROOT / "benchmarks" / "experiments").glob("*.yaml"))


def test_a_row_overrides_its_bundle_which_overrides_the_list(tmp_path: Path) -> None:
    path = write_list(
        tmp_path,
        bundle="acdc_lv_confkd",
        common={"lr": 1, "num_full": 5, "dropout": 0.5},
        bundles={"acdc_lv_uamt": {"lr": 2, "num_full": 10}},
        rows={"a": {"bundle": "acdc_lv_uamt", "method": "UA-MT", "lr": 3}, "b": None},
    )
    a, b = experiments(path)
    assert (a.method, a.data, a.set, a.bundle) == ("UA-MT", "acdc", 10, "acdc_lv_uamt")
    assert a.settings == {"lr": 3, "num_full": 10, "dropout": 0.5}
    assert (b.method, b.data, b.set, b.bundle) == ("KL+Ent", "acdc", 5, "acdc_lv_confkd")
    assert b.settings == {"lr": 1, "num_full": 5, "dropout": 0.5}
    assert (a.profile, a.seeds, a.list_name) == ("cpu", (0, 1), "toy")


def test_a_variant_is_a_setting_too(tmp_path: Path) -> None:
    path = write_list(tmp_path, rows={"a": {"variant": {"lambda_w": 0.1}, "seeds": [4]}})
    (row,) = experiments(path)
    assert row.settings == {"lr": 0.5, "lambda_w": 0.1}
    assert (row.variant, row.seeds) == ({"lambda_w": 0.1}, (4,))


def test_hand_drawn_scribbles_are_a_variant(tmp_path: Path) -> None:
    (row,) = experiments(write_list(tmp_path, rows={"a": {"weak_label": "drawn"}}))
    assert row.variant == {"weak_label": "drawn"}


def test_a_shared_row_has_the_other_lists_bundle_and_settings(tmp_path: Path) -> None:
    write_list(tmp_path, "first", bundle="la_confkd", common={"lr": 7}, rows={"x": {"num_full": 5}})
    path = write_list(tmp_path, rows={"y": {"same_as": "first/x"}})
    (row,) = experiments(path)
    assert (row.bundle, row.settings, row.set) == ("la_confkd", {"lr": 7, "num_full": 5}, 5)
    assert (row.same_as, row.list_name, row.seeds) == (("first", "x"), "toy", (0, 1))


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "key": ({"sedes": [0]}, "'sedes' is not a key of a list; known: bundle, overlays, data"),
    "no rows": ({"rows": {}}, "rows: Dictionary should have at least 1 item"),
    "seeds": ({"seeds": []}, "seeds: List should have at least 1 item"),
    "profile": ({"profile": "tpu"}, "profile: Input should be 'cpu' or 'gpu'"),
    "row's key": ({"rows": {"a": {"rounds": 0, "start_from": "a"}}}, "rows.a.rounds: Input should"),
    "rounds": (
        {"rows": {"a": {"rounds": 2}}},
        "rows.a: rounds needs start_from, the row whose weights make the proposals",
    ),
    "start": (
        {"rows": {"a": {"start_from": "b"}}},
        "row 'a' starts from 'b', which is not a row of the list",
    ),
    "chain": (
        {"rows": {"a": {}, "b": {"start_from": "a"}, "c": {"start_from": "b"}}},
        "row 'c' starts from 'b', which starts from another row itself: give rounds instead",
    ),
    "shared": ({"rows": {"a": {"same_as": "b"}}}, "rows.a: same_as must be LIST/ROW, got 'b'"),
    "shared settings": (
        {"rows": {"a": {"same_as": "b/c", "lr": 1}}},
        "same_as takes bundle and settings of the other row: leave out those given here",
    ),
    "score": ({"scores": ["auc"]}, "scores.0: Input should be 'dice', 'iou', 'precision'"),
    "no scores": (
        {"reference": "best"},
        "reports, beside and reference need scores, the table's columns",
    ),
    "report": (
        {"scores": ["dice"], "reports": {"AUC": "indicators"}},
        "reports: 'AUC' must be NAME.COLUMN, got 'indicators'",
    ),
    "beside": (
        {"scores": ["dice"], "reference": "bset", "beside": {"paper": {"best": "1", "lwo": "2"}}},
        "beside and reference name no row of the list: bset, lwo",
    ),
    "no such list": (
        {"rows": {"a": {"same_as": "b/c"}}},
        "row 'a' is the same as 'b/c', but there is no",
    ),
}


@pytest.mark.parametrize(("changes", "message"), FAULTS.values(), ids=FAULTS)
def test_faults_of_a_list_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_list(tmp_path, **changes)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        experiments(path)
    assert str(caught.value).startswith(f"'{path}': ")


def test_what_is_no_list_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with pytest.raises(ValueError, match="there is no experiment list"):
        read_list(path)
    path.write_text("rows: {a: {}\nb: 1")
    with pytest.raises(ValueError, match=re.escape(f"'{path}' is not YAML: while parsing")):
        read_list(path)
    path.write_text("- a\n")
    with pytest.raises(ValueError, match="is not an experiment list: it needs at least 'rows'"):
        read_list(path)
    path.write_text("rows:\n  a: {}\n  a: {lr: 1}\n")
    with pytest.raises(ValueError, match="'a' is given twice"):
        read_list(path)


def test_a_shared_row_must_be_a_row_of_its_own(tmp_path: Path) -> None:
    write_list(tmp_path, "first", rows={"x": {"same_as": "toy/y"}})
    path = write_list(tmp_path, rows={"y": {"same_as": "first/x"}})
    with pytest.raises(ValueError, match="which is the same as another itself: name that one"):
        experiments(path)
    path = write_list(tmp_path, rows={"y": {"same_as": "first/z"}})
    with pytest.raises(ValueError, match="but that list has no such row; known: x"):
        experiments(path)


def test_an_unknown_row_is_named_with_what_it_resembles(tmp_path: Path) -> None:
    path = write_list(tmp_path)
    with pytest.raises(ValueError, match=r"no such row in .*: 'bset' \(did you mean 'best'\?\)"):
        experiments(path, ["bset"])


def test_settings_are_those_of_the_bundle(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path)
    (row,) = experiments(write_list(tmp_path, rows={"a": {"lamda_ent": 0}}))
    with pytest.raises(
        ValueError,
        match=r"list 'toy', row 'a': no setting of the bundle toy_lv_confkd: 'lamda_ent' "
        r"\(did you mean 'lambda_ent'\?\)",
    ):
        check_settings(row, bundle)
    (row,) = experiments(write_list(tmp_path, rows={"a": {"evaluated_branches": ["student"]}}))
    assert check_settings(row, bundle) == {"evaluated_branches": ["student"]}
    (row,) = experiments(write_list(tmp_path, overlays=["small.yaml"], rows={"a": {}}))
    with pytest.raises(ValueError, match=r"has no configs/small\.yaml"):
        check_settings(row, bundle)


def test_sets_and_methods_follow_the_settings() -> None:
    assert method_of({"num_full": 18, "num_partial": 0}) == "Upper bound"
    assert set_of({"num_full": 18}, "Upper bound") == 3
    assert set_of({"num_full": 80}, "Upper bound") == "all"
    assert set_of({"num_full": 10}, "KL") == 10
    assert set_of({}, "KL") == 3


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_the_lists_of_the_repository_fit_their_bundles(path: Path) -> None:
    for row in experiments(path):
        assert row.bundle is not None
        folder = ROOT / "bundles" / row.bundle
        check_settings(row, folder)


@pytest.mark.parametrize("data", ["acdc", "la"])
def test_the_comparison_gives_all_methods_the_same_budget(data: str) -> None:
    folder = ROOT / "benchmarks" / "experiments"
    budget = {"epoch_length", "max_epochs", "features", "crop_size", "lr", "val_interval"}
    rows = experiments(folder / f"compare_{data}_cpu.yaml")
    assert {row.method for row in rows} >= {
        "KL+Ent", "KL", "Lower bound", "Upper bound", "Decoupled", "Single", "Single+Ent",
        "UA-MT", "SSCO", "GLMI", "Proposals (Lower bound)", "Proposals (KL)",
    }  # fmt: skip
    wanted = {name: rows[0].settings[name] for name in budget}
    for row in rows:
        # One that is named as a variant for it stands apart from the journal's tables.
        same = budget - row.variant.keys()
        assert {name: row.settings[name] for name in same} == {name: wanted[name] for name in same}
        assert row.seeds[:2] == (0, 1)
        assert (row.data, row.profile, row.set) == (data, "cpu", 3)


BUDGET = ("epoch_length", "max_epochs", "features", "val_interval")


@pytest.mark.parametrize(
    ("name", "methods", "batches"),
    [
        # A rate of its own for each list; the indicators' network sees what a single one sees.
        ("wbc_entmin_cpu", 11, {"batch_full", "batch_unlabeled"}),
        ("wbc_dcr_cpu", 12, {"batch_full", "batch_partial", "batch_noisy", "batch_size"}),
    ],
)
def test_the_rows_of_a_study_of_cells_see_as_much(
    name: str, methods: int, batches: set[str]
) -> None:
    path = ROOT / "benchmarks" / "experiments" / f"{name}.yaml"
    rows = experiments(path)
    assert len({row.method for row in rows}) == methods
    # No two rows are the same.
    assert len({str((row.bundle, sorted(row.settings.items()))) for row in rows}) == len(rows)
    for row in rows:
        settings = yaml.safe_load(
            (ROOT / "bundles" / str(row.bundle) / "configs" / "train.yaml").read_text("utf-8")
        )
        recipe = ("lr", "lr_power", "momentum", "weight_decay", "dropout", "norm", "slice_size")
        values = {**settings, **row.settings}
        assert {key: values[key] for key in (*BUDGET, *recipe)} == {
            key: {**settings, **rows[0].settings}[key] for key in (*BUDGET, *recipe)
        }, row.row
        assert sum(values.get(key, 0) for key in batches) == 8, row.row
        assert values["num_full"] in ({5} if row.row.endswith("_5") else {0, 18, 180})
        assert (row.data, row.seeds) == ("wbc", (0, 1, 2))
    steps = rows[0].settings["epoch_length"] * rows[0].settings["max_epochs"]
    assert steps == 1200
    indicators = [row.settings["indicator_interval"] for row in rows if row.bundle == "wbc_dcr"]
    # The same share as the paper's 400 of the bundle's 40,000.
    assert set(indicators) <= {400 * steps // 40_000}


def test_gpu_rows_come_in_the_order_in_which_results_are_wanted() -> None:
    rows = experiments(ROOT / "benchmarks" / "experiments" / "acdc_gpu.yaml")
    assert [row.method for row in rows if row.set == 3] == [
        "KL+Ent", "Lower bound", "Upper bound", "Decoupled", "UA-MT", "SSCO", "GLMI", "Single",
        "KL", "Single+Ent", "Proposals (Lower bound)", "Proposals (KL)",
    ]  # fmt: skip
    cells = [(row.method, row.set) for row in rows]
    assert len(set(cells)) == len(cells) == 37


@pytest.mark.parametrize("data", ["acdc", "la"])
def test_each_cell_of_the_papers_tables_is_one_row_for_the_gpu(data: str) -> None:
    lists = (ROOT / "benchmarks" / "experiments").glob(f"{data}_gpu*.yaml")
    rows = [row for path in lists for row in experiments(path)]

    def values(row: Experiment) -> dict[str, object]:
        path = ROOT / "bundles" / str(row.bundle) / "configs" / "train.yaml"
        return {**yaml.safe_load(path.read_text(encoding="utf-8")), **row.settings}

    for number, table in load_published().tables.items():
        for line in table.rows:
            for name in line.scores if table.data == data else ():
                fitting = [row for row in rows if (row.method, row.set) == (line.method, name)]
                exact = [row.row for row in fitting if row.variant == line.variant]
                main = [
                    row.row
                    for row in fitting
                    if not row.variant and line.variant.items() <= values(row).items()
                ]
                assert len(exact or main) == 1, (number, line.label, name)


@pytest.mark.parametrize("name", ROW_KEYS)
def test_no_bundle_has_a_setting_of_a_rows_key(name: str) -> None:
    for path in ROOT.glob("bundles/*/configs/train.yaml"):
        assert f"\n{name}:" not in path.read_text(encoding="utf-8")


def test_a_row_is_labeled_by_its_method_and_variant(tmp_path: Path) -> None:
    turns = {"_target_": "RandRotate90d", "keys": ["image"]}
    rows = {"plain": {}, "other": {"variant": {"lr": 0.1, "augmentation": turns, "ramps": {}}}}
    plain, other = experiments(write_list(tmp_path, rows=rows))
    assert plain.label == "KL+Ent"
    assert other.label == "KL+Ent, lr = 0.1, augmentation = RandRotate90d, ramps = {}"
