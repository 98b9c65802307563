"""The page: its numbers are those of the files, and whatever files say is shown as text."""

from __future__ import annotations

import csv
import json
import logging
import re
import shutil
import statistics
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mixseg.metrics.scores import CaseScore
from mixseg.report.agreement import agreement, volume_figure
from mixseg.report.canvas import inline_svg
from mixseg.report.page import try_to_write_page, write_page
from mixseg.report.scores import write_metrics_csv, write_summary

HOSTILE = "<script>alert(1)</script>"
NAMES = [HOSTILE, "a\"b'c & {{ 7*7 }} {% raw %}", r"$\frac{1}{0}$ $x^2$"]
_VOID = {"meta", "link", "img", "br"}


class Seen(HTMLParser):
    """The texts of a page, and its elements with their attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if data.strip() and "style" not in self.open:
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def fact(self, name: str) -> str:
        return self.texts[self.texts.index(name) + 1]


def score(case_id: str, name: str, dice: float, predicted: int, reference: int) -> CaseScore:
    return CaseScore(
        case_id, "main", name, dice, 2.0, 1.0, 3.0, 1.5, "", reference, predicted, 0.5, 0.5, 0.5
    )


def evaluation(folder: Path, names: list[str], spacing: bool = True) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        score(
            f"case{i}",
            name,
            *rng.uniform(0.5, 1.0, 1).tolist(),
            *rng.integers(900, 9000, 2).tolist(),
        )
        for i in range(7)
        for name in names
    ]
    write_metrics_csv(rows, folder / "metrics.csv")
    sizes = {f"case{i}": [1.5, 1.25, 8.0 + i] if spacing else None for i in range(7)}
    write_summary(
        folder / "summary.json",
        rows,
        configuration={"split": "test", "seed": 3},
        seed=3,
        data_hash="x",
        extra={
            "run": {
                "bundle": "heart",
                "version": "1.2.3",
                "changed_settings": {"mirror_axes": [[0, 1], []]},
                "device": "cpu",
                "precision": "bfloat16",
                "seconds": 91.0,
            },
            "spacing_mm": sizes,
        },
    )
    return folder


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_evaluations_numbers_are_those_of_its_files(tmp_path: Path) -> None:
    page = Seen(write_page(evaluation(tmp_path, ["RV", "LV"])))
    rows = read(tmp_path)
    for name in ("RV", "LV"):
        own = [row for row in rows if row["class"] == name]
        dice = [100 * float(row["dice"]) for row in own]
        spread = f"{statistics.fmean(dice):.1f} ± {statistics.stdev(dice):.1f}"
        assert any(row[:4] == ["main", name, "7", spread] for row in page.rows)
        # ml: voxels × 1.5 mm × 1.25 mm × (8 + i) mm / 1000
        ml = [1.5 * 1.25 * (8 + i) / 1000 for i in range(7)]
        reference, predicted = (
            [int(row[f"{kind}_voxels"]) * size for row, size in zip(own, ml, strict=True)]
            for kind in ("reference", "prediction")
        )
        difference = [p - r for p, r in zip(predicted, reference, strict=True)]
        bias, sd = statistics.fmean(difference), statistics.stdev(difference)
        assert [
            name,
            "7",
            f"{statistics.fmean(reference):.1f}",
            f"{statistics.fmean(predicted):.1f}",
            f"{bias:+.1f}",
            f"{bias - 1.96 * sd:.1f} … {bias + 1.96 * sd:.1f}",
        ] in page.rows
    assert "bias [ml]" in page.text
    by_case: dict[str, list[float]] = {}
    for row in rows:
        by_case.setdefault(row["case_id"], []).append(100 * float(row["dice"]))
    ordered = sorted(by_case, key=lambda case: statistics.fmean(by_case[case]))
    listed = [row for row in page.rows if row[0] in by_case]
    assert [row[0] for row in listed] == ordered
    assert ["case", "mean Dice [%]", "Dice RV [%]", "Dice LV [%]", "HD95 [mm]"] in page.rows
    worst = by_case[ordered[0]]
    assert listed[0][1:4] == [f"{v:.1f}" for v in (statistics.fmean(worst), *worst)]
    means = [statistics.fmean(values) for values in by_case.values()]
    tile = f"{statistics.fmean(means):.1f} ± {statistics.stdev(means):.1f} %"
    assert tile in page.texts
    assert page.fact("Bundle") == "heart 1.2.3"
    assert (page.fact("Seed"), page.fact("Split")) == ("3", "test")
    assert (page.fact("Device"), page.fact("Precision")) == ("cpu", "bfloat16")
    assert page.fact("Time") == "91 s"
    assert ["mirror_axes", "[0, 1]", "[]"] in page.rows


def test_without_spacing_volumes_are_in_voxels(tmp_path: Path) -> None:
    page = Seen(write_page(evaluation(tmp_path, ["LV"], spacing=False)))
    own = read(tmp_path)
    mean = statistics.fmean(int(row["prediction_voxels"]) for row in own)
    assert any(row[0] == "LV" and row[3] == f"{mean:.1f}" for row in page.rows if len(row) == 6)
    assert "bias [voxels]" in page.text
    assert "[ml]" not in page.text


def test_groups_are_scored_apart(tmp_path: Path) -> None:
    evaluation(tmp_path, ["LV"])
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["groups"] = {f"case{i}": {"phase": "ED" if i < 3 else "ES"} for i in range(6)}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    page = Seen(write_page(tmp_path))
    dice = [100 * float(row["dice"]) for row in read(tmp_path)]
    for name, own in (("ED", dice[:3]), ("ES", dice[3:6])):
        spread = f"{statistics.fmean(own):.1f} ± {statistics.stdev(own):.1f}"
        assert [name, "3", spread] in page.rows


def test_hostile_names_are_text(tmp_path: Path) -> None:
    evaluation(tmp_path, NAMES)
    page = Seen(write_page(tmp_path))
    for name in NAMES:
        assert any(name in cell for row in page.rows for cell in row)  # as it is written
        # ... and in the legends of both figures, where $ would begin a formula
        assert sum(text == name for text in page.texts) >= 2
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in page.elements}
    assert "49" not in page.texts


def test_an_svg_is_xml_and_follows_the_pages_colors() -> None:
    text = inline_svg(volume_figure({n: ([1.0], [2.0]) for n in NAMES}, "ml"), '"<&')
    root = ElementTree.fromstring(text)
    assert root.attrib["aria-label"] == '"<&'
    written = {"".join(element.itertext()) for element in root.iter() if "text" in element.tag}
    assert set(NAMES) <= written
    assert "var(--ink)" in text
    assert re.search(r"(fill|stroke): #222222", text) is None


def test_agreement_by_hand() -> None:
    # Differences 2, −2, 3: mean 1, deviations 1, −3, 2, squares 14, over n − 1 = 2: sd √7.
    found = agreement([12, 18, 33], [10, 20, 30])
    assert (found.n, found.bias) == (3, 1.0)
    assert found.sd == pytest.approx(7**0.5, abs=1e-12)
    assert found.limits == pytest.approx((1 - 1.96 * 7**0.5, 1 + 1.96 * 7**0.5), abs=1e-12)
    with pytest.raises(ValueError, match="no case"):
        agreement([], [])


def training(folder: Path, ended: str = "completed") -> Path:
    (folder / "configs").mkdir()
    (folder / "configs" / "train.yaml").write_text("seed: 7\nmax_epochs: 3\n")
    record = {
        "bundle": HOSTILE,
        "changed_settings": {"num_full": [3, 5], HOSTILE: [None, "$import os"]},
        "data": {
            "training": [{"supervision": "full"}] * 5 + [{"supervision": "partial"}] * 2,
            "validation": [{}] * 6,
        },
        "environments": [{"versions": {"torch": "2.13"}, "git_commit": "0123456789abcdef"}],
    }
    (folder / "record.json").write_text(json.dumps(record))
    sessions = [
        {"device": "cpu", "precision": "float32", "seconds": 3000.0, "ended": "under way"},
        {"device": "cuda:0", "precision": "bfloat16", "seconds": 1200.0, "ended": ended},
    ]
    (folder / "training.json").write_text(json.dumps({"sessions": sessions}))
    (folder / "history.csv").write_text(
        "epoch,iteration,lr,loss,val_dice_main\n1,10,0.1,2.0,0.5\n2,20,0.1,1.0,0.8125\n"
        "3,30,0.1,0.5,0.75\n"
    )
    return folder


def test_a_trainings_facts(tmp_path: Path) -> None:
    page = Seen(write_page(training(tmp_path)))
    assert page.texts.count(f"Training of {HOSTILE}") == 2  # title and heading
    assert page.fact("Seed") == "7"
    assert page.fact("Iterations") == "30"
    assert page.fact("Time") == "70 min, resumed 1 ×"
    assert page.fact("Precision") == "bfloat16"
    assert page.fact("Commit") == "0123456789ab"
    assert page.fact("Training cases") == "5 with full masks, 2 with partial labels"
    assert page.fact("Validation cases") == "6"
    assert page.fact("Best validation Dice") == "81.25 % in epoch 2"
    assert ["num_full", "3", "5"] in page.rows
    assert [HOSTILE, "null", "$import os"] in page.rows
    assert page.fact("What was left out or failed") == "Nothing."


def test_a_training_that_failed_says_so(tmp_path: Path) -> None:
    page = Seen(write_page(training(tmp_path, "ended by ValueError: loss is not finite")))
    assert "ended by ValueError: loss is not finite" in page.texts
    assert "did not complete" in page.fact("What was left out or failed")


def test_faults_come_first_and_what_was_set_last(tmp_path: Path) -> None:
    """A reader sees at once what is missing; where nothing is, the results."""
    titles = ["What was left out or failed", "Curves", "What was run"]
    found = Seen(write_page(training(tmp_path, "ended by KeyboardInterrupt"))).texts
    assert [text for text in found if text in titles] == titles
    sessions = {"sessions": [{"device": "cpu", "precision": "float32", "seconds": 9.0}]}
    sessions["sessions"][0]["ended"] = "completed"
    (tmp_path / "training.json").write_text(json.dumps(sessions))
    found = Seen(write_page(tmp_path)).texts
    assert [text for text in found if text in titles] == [titles[1], titles[0], titles[2]]


def prediction(folder: Path, **header: Any) -> Path:
    def case(name: str, quality: float | None, ml: float) -> dict[str, Any]:
        return {
            "case_id": name,
            "quality": quality,
            "voxels": {"LV": int(1000 * ml)},
            "ml": {"LV": ml},
            "warnings": ["odd"] if quality is None else [],
            "outputs": {"mask": f"{name}.nii.gz"},
        }

    report = {
        "bundle": "heart",
        "version": "1",
        "classes": ["background", "LV"],
        "weights_sha256": "ab" * 32,
        "device": "cpu",
        "cases": [case("good", 0.95, 91.25), case("none", None, 0.0), case("poor", 0.625, 12.5)],
        "failures": [{"case_id": HOSTILE, "problem": "cut off", "fix": "copy it again"}],
        "left_out": ["2 links that lead nowhere"],
        **header,
    }
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_masks_are_ordered_worst_first(tmp_path: Path) -> None:
    page = Seen(write_page(prediction(tmp_path)))
    listed = [row for row in page.rows if row[0] in ("good", "none", "poor")]
    assert listed == [
        ["none", "–", "0.0", "odd"],
        ["poor", "62.5", "12.5", ""],
        ["good", "95.0", "91.2", ""],
    ]
    assert [HOSTILE, "cut off", "copy it again"] in page.rows
    assert page.fact("What was left out or failed") == "2 links that lead nowhere"
    assert "was not measured for these weights" in page.text


def test_what_is_odd_about_all_cases_is_said_once(tmp_path: Path) -> None:
    report = json.loads((prediction(tmp_path) / "report.json").read_text())
    for case in report["cases"]:
        case["warnings"].append("no voxel size")
    (tmp_path / "report.json").write_text(json.dumps(report))
    page = Seen(write_page(tmp_path))
    assert [row[-1] for row in page.rows if row[0] in ("good", "none", "poor")] == ["odd", "", ""]
    assert page.text.count("no voxel size") == 1


def test_the_measured_correlation_stands_beside_the_order(tmp_path: Path) -> None:
    measured = {"spearman": 0.713, "n": 30, "interval_95": [0.4, 0.87], "data": "ACDC test"}
    page = Seen(write_page(prediction(tmp_path, expected_quality=measured)))
    assert "30 cases (ACDC test): rank correlation with the true Dice 0.71" in page.text
    assert "0.40 to 0.87" in page.text
    # Other networks are averaged with: nothing is known of their mean.
    other = {"bundle": "b", "version": "1", "weights_sha256": "cd"}
    page = Seen(write_page(prediction(tmp_path, expected_quality=measured, averaged_with=[other])))
    assert "was not measured for these weights" in page.text


def test_no_picture_outside_the_folder_is_embedded(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    folder = tmp_path / "masks"
    folder.mkdir()
    report = json.loads((prediction(folder) / "report.json").read_text())
    report["cases"][0]["outputs"]["preview"] = "../secret.png"
    (folder / "report.json").write_text(json.dumps(report))
    assert "img" not in {tag for tag, _ in Seen(write_page(folder)).elements}


def test_pictures_are_inside(tmp_path: Path) -> None:
    evaluation(tmp_path, ["LV"])
    Image.new("RGB", (1600, 40), "red").save(tmp_path / "best_median_worst.png")
    page = Seen(write_page(tmp_path))
    (source,) = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert source is not None
    assert source.startswith("data:image/webp;base64,")
    for _, attributes in page.elements:
        assert not any(
            str(value).startswith(("http", "//"))
            for value in attributes.values()
            if value not in (None, "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")
        )


def test_a_cross_validation_shows_the_cases_of_each_fold(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "cv", ["LV"])
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    (folder / "summary.json").write_text(json.dumps(summary | {"folds": 2}), encoding="utf-8")
    for number in (1, 2):
        of_fold = folder / f"fold_{number}" / "test"
        of_fold.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(of_fold / "best_median_worst.png")
    seen = Seen(write_page(folder))
    captions = [attributes["alt"] for tag, attributes in seen.elements if tag == "img"]
    assert captions == ["Fold 1", "Fold 2"]


def test_a_folder_of_several_gets_one_page(tmp_path: Path) -> None:
    page = Seen(write_page(evaluation(training(tmp_path), ["LV"])))
    headings = [text for text in page.texts if text.startswith(("Training of", "Evaluation of"))]
    assert headings[1:] == [f"Training of {HOSTILE}", "Evaluation of heart"]


def test_what_holds_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds nothing to report: give the folder of a training"):
        write_page(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(ValueError, match=r"report\.json is not valid JSON"):
        write_page(tmp_path)


def test_a_page_that_fails_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.csv").write_text("case_id\n")
    with caplog.at_level(logging.WARNING):
        assert try_to_write_page(tmp_path) is None
    assert "report.html is left out" in caplog.text
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("make", [evaluation, training, prediction])
def test_a_browser_opens_it_from_disk_in_silence(make: Any, tmp_path: Path) -> None:
    folder = tmp_path / "pages of <one> & 'two'"
    folder.mkdir()
    page = write_page(make(folder, NAMES) if make is evaluation else make(folder))
    shown, said, asked = browse(page, tmp_path)
    assert "Made by mixseg" in shown
    assert (said, asked) == ([], [])


def test_the_browser_would_tell(tmp_path: Path) -> None:
    """The page's policy blocks what would be fetched or run, and the console says so."""
    text = write_page(training(tmp_path)).read_text(encoding="utf-8")
    injected = '<img src="http://127.0.0.1:9/x.png"><script>document.title = "run"</script></main>'
    (tmp_path / "report.html").write_text(text.replace("</main>", injected))
    shown, said, _ = browse(tmp_path / "report.html", tmp_path)
    assert len(said) == 2
    assert all("Content Security Policy" in line for line in said)
    assert "<title>run" not in shown


def browse(page: Path, folder: Path) -> tuple[str, list[str], list[str]]:
    """What Chromium makes of a page: its elements, its console's lines, the hosts it asked."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    log = folder / "net.json"
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr",
            f"--log-net-log={log}", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    hosts = set(re.findall(r'"url":"https?://([^/"]*)', log.read_text(encoding="utf-8")))
    # The browser's own: its clock and its accounts.
    return done.stdout, said, [host for host in hosts if not host.endswith(".google.com")]
