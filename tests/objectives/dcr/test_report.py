"""Tables and picture of learned instance weights."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from matplotlib.figure import Figure

from mixseg.objectives.dcr import figure as indicator_figures
from mixseg.objectives.dcr import report as indicator_report

from .indicator_toys import make_dataset, make_pictures, make_trainer, read


def test_tables(tmp_path: Path) -> None:
    """Two of four noisy masks lack their foreground; one case has no reference."""
    cases = make_pictures(1, 4, missing=(1, 3))
    del cases[4]["reference"]
    label, truth = cases[2 - 1]["label"], cases[2 - 1]["reference"]
    setup = make_trainer(tmp_path, make_dataset(cases))
    setup.trainer.run()
    rows = read(tmp_path / "indicators.csv")
    assert list(rows[0]) == [
        "case_id", "slice_index", "supervision", "gamma", "quality", "corrupted",
    ]  # fmt: skip
    assert [row["case_id"] for row in rows] == ["000", "001", "002", "003", "004"]
    assert [row["supervision"] for row in rows] == ["full"] + ["noisy"] * 4
    assert {row["slice_index"] for row in rows} == {"0"}
    gamma = [float(row["gamma"]) for row in rows]
    np.testing.assert_allclose(gamma, setup.objective.gamma, atol=1e-6)
    dice = [
        2 * ((label == c) & (truth == c)).sum() / ((label == c).sum() + (truth == c).sum())
        for c in (1, 2)
    ]
    assert float(rows[1]["quality"]) == pytest.approx(float(np.mean(dice)), abs=1e-6)
    assert (rows[0]["quality"], rows[2]["quality"], rows[4]["quality"]) == ("1.0", "0.0", "")
    assert [row["corrupted"] for row in rows] == ["false", "false", "true", "false", ""]

    history = read(tmp_path / "indicators_history.csv")
    assert [row["iteration"] for row in history] == ["3", "6"]
    last = history[-1]
    assert float(last["mean"]) == pytest.approx(np.mean(gamma[1:]), abs=1e-5)
    # Items 1 and 3 are intact, 2 is not: the share of pairs in the right order, ties half.
    auc = np.mean([(gamma[i] > gamma[2]) + 0.5 * (gamma[i] == gamma[2]) for i in (1, 3)])
    assert float(last["auc"]) == pytest.approx(auc)
    assert (last["at_zero"], last["at_one"]) == ("0.0", "0.0")
    assert (tmp_path / "indicators.png").stat().st_size > 10_000
    assert not list(tmp_path.glob(".*.tmp"))


def test_quality_of_a_mask() -> None:
    """Over pixels that both know; the mean of the classes that either has."""
    label = np.array([[1, 1, 2, 0], [3, 0, 0, 0]])
    reference = np.array([[1, 0, 0, 0], [1, 3, 0, 0]])
    # Class 1: 2 · 1 / (2 + 1); class 2 is in the label alone.
    assert indicator_report._compare(label, reference, 3) == (pytest.approx(1 / 3), False)
    assert indicator_report._compare(0 * label, 0 * reference, 3) == (1.0, False)
    assert indicator_report._compare(0 * label, reference, 3) == (0.0, True)
    assert indicator_report._compare(label, 0 * reference + 3, 3) == (None, None)


def test_without_a_reference(tmp_path: Path) -> None:
    dataset = make_dataset(make_pictures(1, 3, missing=(0,)), label_keys=("label",))
    make_trainer(tmp_path, dataset).trainer.run()
    rows = read(tmp_path / "indicators.csv")
    assert {(row["quality"], row["corrupted"]) for row in rows} == {("", "")}
    assert "auc" not in read(tmp_path / "indicators_history.csv")[0]
    assert (tmp_path / "indicators.png").is_file()


def test_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(indicator_figures, "save_png", lambda figure, path: drawn.append(figure))
    cases = make_pictures(1, 6, missing=(1, 4))
    setup = make_trainer(
        tmp_path, make_dataset(cases), handler={"class_names": ["background", "rim", "core"]}
    )
    setup.objective.gamma.copy_(torch.tensor([1.0, 0.9, 0.05, 0.6, 0.7, 0.2, 1.0]))
    setup.handler.report.record(3, setup.objective.gamma, setup.objective.learned)
    (figure,) = drawn
    pictures, (histogram, scatter) = figure.subfigs[0].axes, figure.subfigs[1].axes
    titles = [axes.get_title() for axes in pictures]
    lowest = ["γ 0.05", "γ 0.20", "γ 0.60", "γ 0.70", "γ 0.90", "γ 1.00"]
    assert titles == lowest + lowest[::-1]
    assert pictures[0].get_xlabel() == "002"
    assert [axes.get_ylabel() for axes in pictures if axes.get_ylabel()] == [
        "lowest weights", "highest weights",
    ]  # fmt: skip
    # Axis 0 of an array is x: the picture is its transpose.
    shown = np.asarray(pictures[0].get_images()[0].get_array())
    image = cases[2]["image"][0].numpy()
    low, high = np.percentile(image, (1, 99))
    np.testing.assert_allclose(shown, np.clip((image.T - low) / (high - low), 0, 1), atol=1e-6)
    # The mask of 002 is background: its reference has the only outlines, of two classes.
    assert [len(axes.collections) for axes in pictures[:3]] == [2, 2, 4]
    texts = [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()]
    assert texts == ["rim, as given", "core, as given", "reference"]
    assert sum(patch.get_height() for patch in histogram.patches) == 6
    labels = [text.get_text() for text in histogram.get_legend().get_texts()]
    assert labels == ["foreground there (4)", "foreground missing (2)"]
    assert scatter.get_title(loc="left") == "γ and quality, AUC 1.000"
    points = {line.get_label(): line.get_xydata() for line in scatter.get_lines()}
    np.testing.assert_allclose(points["foreground missing"], [[0, 0.05], [0, 0.2]], atol=1e-6)
    assert len(points["foreground there"]) == 4


def test_pictures_in_color(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(indicator_figures, "save_png", lambda figure, path: drawn.append(figure))
    panel = indicator_figures.InstancePanel(
        "007", np.random.default_rng(0).random((3, 6, 4)), np.zeros((6, 4)), None, 0.25
    )
    indicator_figures.plot_indicators(
        "unused.png", lowest=[panel], highest=[panel], gamma=[0.25], quality=[None],
        corrupted=[None], auc=None, class_names=["background", "cell"],
    )  # fmt: skip
    first = drawn[0].subfigs[0].axes[0]
    assert np.asarray(first.get_images()[0].get_array()).shape == (4, 6, 3)
    histogram, scatter = drawn[0].subfigs[1].axes
    assert [text.get_text() for text in histogram.get_legend().get_texts()] == ["unknown (1)"]
    assert scatter.get_title(loc="left") == "γ and quality"
    assert [text.get_text() for text in scatter.texts] == ["no reference is known"]
    with pytest.raises(ValueError, match=r"^nothing to draw: no instance has a learned weight$"):
        indicator_figures.plot_indicators(
            "unused.png", lowest=[], highest=[], gamma=[], quality=[], corrupted=[], auc=None,
            class_names=["background", "cell"],
        )  # fmt: skip


def test_pictures_wait_for_their_time_and_the_last_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []
    monkeypatch.setattr(
        indicator_report, "plot_indicators", lambda path, **data: drawn.append(data["gamma"][0])
    )
    clock = itertools.count(0, 10)
    setup = make_trainer(
        tmp_path,
        make_dataset(make_pictures(2, 2)),
        max_epochs=5,
        epoch_length=1,
        handler={"interval": 1, "picture_seconds": 25, "clock": lambda: next(clock)},
    )
    gammas: list[float] = []
    setup.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: gammas.append(float(setup.objective.gamma[2]))
    )
    setup.trainer.run()
    # Read at 0 after a drawing, then 10 and 20 and, late enough, 30 after it.
    assert len(gammas) == 5
    assert drawn == [gammas[0], gammas[3], gammas[4]]
