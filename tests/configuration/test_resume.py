"""What may change when a training is resumed, and what is named and refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from mixseg.configuration.record import own_configuration
from mixseg.configuration.resume import config_differences, data_differences, fingerprint
from mixseg.data import Datalist, select_cases, split_cases

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
CONFIGS = BUNDLES / "acdc_mixed" / "configs"


def configuration(*overlays: str, bundle: str = "acdc_mixed", **changed: Any) -> dict[str, Any]:
    """As a run of the bundle has it, with other values for some ids."""
    configs = BUNDLES / bundle / "configs"
    files = [str(configs / name) for name in ("train.yaml", *overlays)]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser.update(changed)
    parser.parse()
    return own_configuration(parser.get(), configs)


@pytest.mark.parametrize(
    ("id", "value"),
    [
        ("max_epochs", 60),
        ("val_interval", 1),
        ("checkpoint_interval", 1),
        ("num_workers", 4),
        ("train#dataloader#num_workers", 4),
        ("device", torch.device("cpu")),
        ("progress", False),
        ("output_dir", "/elsewhere"),
        ("ckpt_dir", "/elsewhere"),
        ("dataset_dir", "/moved"),  # its content is compared
        ("datalist", "other.json"),  # likewise
        ("bundle_root", "/somewhere"),
        ("resume", True),
        ("overwrite", True),
        ("patience", 3),
        ("train#trainer#max_epochs", 60),
    ],
)
def test_what_cannot_change_the_result_may_change(id: str, value: Any) -> None:
    assert config_differences(configuration(), configuration(**{id: value})) == []


@pytest.mark.parametrize(
    ("id", "value", "line"),
    [
        ("lr", 0.5, "lr: recorded 0.002, now 0.5"),
        ("lambda_noisy", 0, "lambda_noisy: recorded 0.5, now 0"),
        ("seed", 1, "seed: recorded 0, now 1"),
        ("target_classes", [3], "target_classes: recorded [1, 2, 3], now [3]"),
        ("class_names", ["background", "heart"], "class_names: recorded @source_classes, now "
         "['background', 'heart']"),
        ("normalization", "minmax", "normalization: recorded percentile, now minmax"),
        ("crop_size", [96, 96], "crop_size: recorded [192, 192], now [96, 96]"),
        ("features", [4, 8], "features: recorded [16, 32, 64, 128, 128], now [4, 8]"),
        ("amp", False, "amp: recorded auto, now False"),
        ("num_full", 1, "num_full: recorded 3, now 1"),
        ("batch_full", 4, "batch_full: recorded 8, now 4"),
        ("epoch_length", 10, "epoch_length: recorded 100, now 10"),
        ("ema_decay", 0, "ema_decay: recorded 0.99, now 0"),
        ("keep_component", None, "keep_component: recorded most_probable, now null"),
        ("optimizer#lr", 0.1, "optimizer#lr: recorded @lr, now 0.1"),
        ("optimizer#_target_", "torch.optim.SGD", "optimizer#_target_: recorded "
         "torch.optim.AdamW, now torch.optim.SGD"),
        ("network_def#res_block", True, "network_def#res_block: recorded False, now True"),
        ("augmentation#mirror", False, "augmentation#mirror: recorded nothing, now False"),
    ],
)  # fmt: skip
def test_what_can_change_the_result_is_named(id: str, value: Any, line: str) -> None:
    assert config_differences(configuration(), configuration(**{id: value})) == [line]


def test_another_bundle_differs_throughout() -> None:
    lines = config_differences(configuration(), configuration(bundle="acdc_lv_mixed"))
    assert "target_classes: recorded [1, 2, 3], now [3]" in lines


def test_the_processes_of_one_run_are_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what torchrun's overlay adds, nor the handlers that a launcher adds."""
    alone = configuration()
    assert config_differences(alone, configuration("multi_gpu_train.yaml")) == []
    assert "processes" not in configuration("multi_gpu_train.yaml")
    (standard,) = ConfigParser.load_config_file(CONFIGS / "train.yaml")["train"]["handlers"]
    status = {"_target_": "mixseg.apps.label.status.TrainingStatus", "path": "/run/status.json"}
    handlers = [{**standard, "extra": [status]}]
    assert config_differences(alone, configuration(**{"train#handlers": handlers})) == []


def write(folder: Path, **changed: Any) -> Path:
    """A datalist of five training cases and one to validate, and their files."""
    folder.mkdir(exist_ok=True)
    entries = []
    for i in range(6):
        for kind in ("image", "label"):
            (folder / f"{kind}{i}.nii.gz").write_bytes(f"{kind} {i}".encode())
        files = {kind: f"{kind}{i}.nii.gz" for kind in ("image", "label")}
        entries.append({**files, "supervision": "full", "case_id": f"c{i}"})
    content = {"classes": ["background", "LV"], "training": entries[:5], "validation": entries[5:]}
    (folder / "datalist.json").write_text(json.dumps(content | changed))
    return folder


def data(folder: Path, num_full: int = 1, **changed: Any) -> dict[str, Any]:
    datalist = Datalist.load(folder / "datalist.json")
    cases = {
        "training": select_cases(datalist, folder, num_full, 2, num_unlabeled=1, **changed),
        "validation": split_cases(datalist, folder, "validation"),
    }
    # As it comes back from the record.
    found: dict[str, Any] = json.loads(json.dumps(fingerprint(cases)))
    return found


def edited_mask(folder: Path) -> None:
    path = folder / "label2.nii.gz"
    before = path.stat()
    path.write_bytes(b"LABEL 2")  # as long as it was
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / "datalist.json").read_text())
        change(content)
        (folder / "datalist.json").write_text(json.dumps(content))

    return apply


def swap(content: dict[str, Any]) -> None:
    content["training"][0], content["validation"][0] = (
        content["validation"][0],
        content["training"][0],
    )


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (edited_mask, ["case 'c2': the content of its label (label2.nii.gz) has changed"]),
        (
            lambda folder: (folder / "image5.nii.gz").write_bytes(b"x"),
            ["case 'c5': the content of its image (image5.nii.gz) has changed"],
        ),
        (
            edit(swap),
            [
                "case 'c0' is in the validation split now, was in training",
                "case 'c5' is in the training split now, was in validation",
            ],
        ),
        (
            edit(lambda content: content["training"].insert(1, content["training"].pop(2))),
            ["the training cases are the same, in another order"],
        ),
        (
            edit(lambda content: content["training"].pop(3)),
            ["case 'c3' is missing, it was in the training split",
             "case 'c4' is new, in the training split"],
        ),
        (
            edit(lambda content: content["training"][1].update(supervision="partial")),
            ["case 'c1', erode: recorded True, now False",
             "case 'c1', complete: recorded True, now null"],
        ),
    ],
    ids=["mask", "image", "splits", "order", "cases", "supervision"],
)  # fmt: skip
def test_changes_of_the_data_are_named(
    tmp_path: Path, change: Callable[[Path], object], lines: list[str]
) -> None:
    folder = write(tmp_path / "data")
    before = data(folder)
    assert data_differences(before, data(folder)) == []
    change(folder)
    assert data_differences(before, data(folder)) == lines


def test_other_files_of_the_data_may_change(tmp_path: Path) -> None:
    """Those of cases that are not used, the masks of unlabeled cases, and the data's place."""
    folder = write(tmp_path / "data")
    before = data(folder)
    (folder / "label3.nii.gz").write_bytes(b"of the case without a label")
    (folder / "image4.nii.gz").write_bytes(b"of the case that is left out")
    moved = folder.rename(tmp_path / "moved")
    assert data_differences(before, data(moved)) == []


def test_every_channel_of_an_image_is_compared(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    (folder / "second.nii.gz").write_bytes(b"second channel")
    edit(lambda content: content["training"][0].update(channels=["second.nii.gz"]))(folder)
    before = data(folder)
    moved = folder.rename(tmp_path / "moved")
    assert data_differences(before, data(moved)) == []
    (moved / "second.nii.gz").write_bytes(b"SECOND channel")
    line = "case 'c0': the content of its image (second.nii.gz) has changed"
    assert data_differences(before, data(moved)) == [line]


def test_many_changes_are_counted() -> None:
    cases = {"training": [{"case_id": f"c{i}"} for i in range(50)]}
    lines = data_differences(cases, {"training": []})
    assert len(lines) == 21
    assert lines[-1] == "… and 30 more cases"
