"""Full-state checkpoints: atomic, with a fallback; selection of weights and early stop."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor

import mixseg.handlers.checkpoint as checkpoint
from mixseg.handlers import FullCheckpoint, History, Validation

Factory = Callable[..., Any]


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def main_weights(checkpoint: Path) -> dict[str, Any]:
    """The network's own part of a full state."""
    stored = load(checkpoint)["networks"].items()
    return {n.removeprefix("network."): v for n, v in stored if n.startswith("network.")}


def weights_by_epoch(trainer: Any) -> dict[int, dict[str, Tensor]]:
    """Filled while the trainer runs."""
    kept: dict[int, dict[str, Tensor]] = {}

    def keep(engine: Any) -> None:
        state = engine.inference_network.state_dict()
        kept[engine.state.epoch] = {name: value.clone() for name, value in state.items()}

    trainer.add_event_handler(Events.EPOCH_COMPLETED, keep)
    return kept


def test_files_of_a_run(make_trainer: Factory, tmp_path: Path) -> None:
    trainer = make_trainer([FullCheckpoint(tmp_path / "out", tmp_path / "models")])
    kept = weights_by_epoch(trainer)
    trainer.run()
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoint.pt",
        "checkpoint_previous.pt",
        "model_last.pt",
        "models",
    ]
    assert (load(out / "checkpoint.pt")["epoch"], load(out / "checkpoint.pt")["iteration"]) == (
        3,
        6,
    )
    assert load(out / "checkpoint_previous.pt")["epoch"] == 2
    assert main_weights(out / "checkpoint_previous.pt") == kept[2]
    # Without a validator the latest weights are the selected ones.
    assert load(out / "model_last.pt") == load(tmp_path / "models" / "model.pt") == kept[3]
    # The run's folder is whole, wherever else its weights are wanted.
    assert load(out / "models" / "model.pt") == kept[3]


def test_interval_and_last_epoch(make_trainer: Factory, tmp_path: Path) -> None:
    trainer = make_trainer([FullCheckpoint(tmp_path, tmp_path, interval=2)], max_epochs=5)
    written: list[int] = []
    path = tmp_path / "checkpoint.pt"

    def look(engine: Any) -> None:
        if path.is_file() and load(path)["epoch"] == engine.state.epoch:
            written.append(engine.state.epoch)

    trainer.add_event_handler(Events.EPOCH_COMPLETED, look)
    trainer.run()
    assert written == [2, 4, 5]


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_best_weights_are_selected(
    make_trainer: Factory, fake_evaluator: type, tmp_path: Path, ema_decay: float
) -> None:
    evaluator = fake_evaluator([0.2, 0.7, float("nan"), 0.7, 0.6])
    handler = FullCheckpoint(tmp_path, tmp_path / "models", evaluator=evaluator)
    trainer = make_trainer([Validation(evaluator), handler], max_epochs=5, ema_decay=ema_decay)
    kept = weights_by_epoch(trainer)
    trainer.run()
    # An equal score and a NaN do not replace the best.
    assert (handler.best, handler.best_epoch) == (0.7, 2)
    assert load(tmp_path / "models" / "model.pt") == kept[2]
    assert load(tmp_path / "model_last.pt") == kept[5]


def test_epochs_without_validation_select_nothing(
    make_trainer: Factory, fake_evaluator: type, tmp_path: Path
) -> None:
    evaluator = fake_evaluator([0.4, 0.3])
    handler = FullCheckpoint(tmp_path, tmp_path / "models", evaluator=evaluator)
    trainer = make_trainer([Validation(evaluator, 2), handler], max_epochs=4)
    kept = weights_by_epoch(trainer)
    trainer.run()
    assert (handler.best, handler.best_epoch) == (0.4, 2)
    assert load(tmp_path / "models" / "model.pt") == kept[2]


@pytest.mark.parametrize(
    ("patience", "epochs"), [(0, [1, 2, 3, 4, 5, 6, 7]), (2, [1, 2, 3, 4]), (3, [1, 2, 3, 4, 5])]
)
def test_patience(
    make_trainer: Factory,
    fake_evaluator: type,
    tmp_path: Path,
    patience: int,
    epochs: list[int],
) -> None:
    evaluator = fake_evaluator([0.1, 0.9, 0.2, 0.3, 0.4, 0.5, 0.6])
    handler = FullCheckpoint(tmp_path, tmp_path / "models", evaluator=evaluator, patience=patience)
    trainer = make_trainer([Validation(evaluator), handler], max_epochs=7)
    kept = weights_by_epoch(trainer)
    trainer.run()
    assert evaluator.epochs == epochs
    # The run ends in order: last weights beside the best.
    assert load(tmp_path / "model_last.pt") == kept[epochs[-1]]
    assert load(tmp_path / "models" / "model.pt") == kept[2]


def test_resume_of_a_run_that_stopped_early_is_done(
    make_trainer: Factory, fake_evaluator: type, tmp_path: Path
) -> None:
    def build(scores: list[float], patience: int, resume: bool) -> Any:
        evaluator = fake_evaluator(scores)
        handler = FullCheckpoint(
            tmp_path, tmp_path, evaluator=evaluator, patience=patience, resume=resume
        )
        return make_trainer([Validation(evaluator), handler], max_epochs=7), evaluator

    first, evaluator = build([0.1, 0.9, 0.2, 0.3], 2, False)
    first.run()
    assert evaluator.epochs == [1, 2, 3, 4]
    stopped = load(tmp_path / "model_last.pt")
    again, evaluator = build([], 2, True)
    again.run()
    assert evaluator.epochs == []
    assert load(tmp_path / "model_last.pt") == stopped
    # With more patience it continues.
    longer, evaluator = build([0.4, 0.5, 0.6], 5, True)
    longer.run()
    assert evaluator.epochs == [5, 6, 7]


def test_resume_keeps_the_best_score(
    make_trainer: Factory, fake_evaluator: type, tmp_path: Path
) -> None:
    def build(scores: list[float], max_epochs: int, resume: bool) -> tuple[Any, FullCheckpoint]:
        evaluator = fake_evaluator(scores)
        handler = FullCheckpoint(tmp_path, tmp_path, evaluator=evaluator, resume=resume)
        return make_trainer([Validation(evaluator), handler], max_epochs=max_epochs), handler

    first, _ = build([0.3, 0.8], 2, False)
    kept = weights_by_epoch(first)
    first.run()
    second, handler = build([0.5], 3, True)
    second.run()
    assert (handler.best, handler.best_epoch) == (0.8, 2)
    assert load(tmp_path / "model.pt") == kept[2]


def cut(path: Path) -> None:
    """Leave the first half of a file, as a crash of the machine may."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_truncated_checkpoint_falls_back_to_the_one_before(
    make_trainer: Factory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer([FullCheckpoint(tmp_path, tmp_path)])
    trainer.run()
    expected = load(tmp_path / "model_last.pt")
    cut(tmp_path / "checkpoint.pt")
    resumed = make_trainer([FullCheckpoint(tmp_path, tmp_path, resume=True)])
    epochs: list[int] = []
    resumed.add_event_handler(Events.EPOCH_STARTED, lambda e: epochs.append(e.state.epoch))
    with caplog.at_level(logging.INFO):
        resumed.run()
    assert epochs == [3]
    assert load(tmp_path / "model_last.pt") == expected
    assert any(
        m.startswith(f"'{tmp_path / 'checkpoint.pt'}' cannot be read")
        and m.endswith(": trying the one before")
        for m in caplog.messages
    )
    assert f"resuming {tmp_path / 'checkpoint_previous.pt'} after epoch 2" in caplog.messages


def test_nothing_to_resume_starts_from_the_beginning(
    make_trainer: Factory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer([FullCheckpoint(tmp_path, tmp_path, resume=True)])
    with caplog.at_level(logging.INFO):
        trainer.run()
    assert f"no checkpoint in {tmp_path}: starting from the beginning" in caplog.messages
    assert trainer.state.iteration == 6


def test_checkpoint_is_ignored_unless_resume_is_asked_for(
    make_trainer: Factory, tmp_path: Path
) -> None:
    make_trainer([FullCheckpoint(tmp_path, tmp_path)]).run()
    again = make_trainer([FullCheckpoint(tmp_path, tmp_path)])
    epochs: list[int] = []
    again.add_event_handler(Events.EPOCH_STARTED, lambda e: epochs.append(e.state.epoch))
    again.run()
    assert epochs == [1, 2, 3]


def test_resume_of_other_settings_is_refused(make_trainer: Factory, tmp_path: Path) -> None:
    make_trainer([FullCheckpoint(tmp_path, tmp_path)]).run()
    other = make_trainer([FullCheckpoint(tmp_path, tmp_path, resume=True)], iterations=5)
    message = (
        "the checkpoint's epochs have 2 iterations, this run's 5: "
        "resume with the same data, batch and epoch_length"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        other.run()


def test_failing_write_leaves_a_state_to_resume(
    make_trainer: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up while the state of epoch 3 is written."""
    whole = make_trainer([FullCheckpoint(tmp_path / "whole", tmp_path / "m")], max_epochs=4)
    whole.run()

    out = tmp_path / "out"
    trainer = make_trainer([FullCheckpoint(out, tmp_path / "models")], max_epochs=4)
    save = torch.save

    def full_disk(content: Any, file: Any) -> None:
        if "optimizer" in content and content["epoch"] == 3:
            file.write(b"PK half of an archive")
            raise RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos")
        save(content, file)

    monkeypatch.setattr(checkpoint.torch, "save", full_disk)
    with pytest.raises(OSError, match="its last version is kept") as caught:
        trainer.run()
    assert str(caught.value).startswith(f"{out / 'checkpoint.pt'} could not be written")
    assert not [p for p in out.iterdir() if p.suffix == ".tmp"]
    readable = [p for p in sorted(out.glob("checkpoint*.pt")) if load(p)["epoch"] == 2]
    assert len(readable) == 1

    monkeypatch.setattr(checkpoint.torch, "save", save)
    resumed = make_trainer([FullCheckpoint(out, tmp_path / "models", resume=True)], max_epochs=4)
    epochs: list[int] = []
    resumed.add_event_handler(Events.EPOCH_STARTED, lambda e: epochs.append(e.state.epoch))
    resumed.run()
    assert epochs == [3, 4]
    assert load(out / "model_last.pt") == load(tmp_path / "whole" / "model_last.pt")


def test_death_between_the_renames_leaves_the_state_before(
    make_trainer: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies before the new checkpoint gets its name, at each of the renames."""
    expected = make_trainer([FullCheckpoint(tmp_path / "whole", tmp_path / "m")])
    expected.run()
    replace = os.replace
    for death in range(1, 12):
        out = tmp_path / f"out{death}"
        models = out / "models"
        count = 0

        def die(source: Any, target: Any, limit: int = death) -> None:
            nonlocal count
            count += 1
            if count == limit:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", die)
        trainer = make_trainer([FullCheckpoint(out, models)])
        try:
            trainer.run()
        except KeyboardInterrupt:
            finished = False
        else:
            finished = True
        monkeypatch.setattr(os, "replace", replace)
        make_trainer([FullCheckpoint(out, models, resume=True)]).run()
        assert main_weights(out / "checkpoint.pt") == expected.network.state_dict()
        if finished:
            break
    # model.pt, checkpoint.pt, (previous) in each of 3 epochs, and model_last.pt
    assert count == 2 + 3 + 3 + 1


def test_unwritable_folder_is_named(make_trainer: Factory, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    trainer = make_trainer([FullCheckpoint(tmp_path / "file" / "out", tmp_path / "models")])
    with pytest.raises(OSError, match="could not be written") as caught:
        trainer.run()
    out = tmp_path / "file" / "out"
    assert str(caught.value).startswith(f"{out / 'models' / 'model.pt'} could")


def test_nothing_is_trained_anew_over_checkpoints_that_cannot_be_read(
    make_trainer: Factory, tmp_path: Path
) -> None:
    make_trainer([FullCheckpoint(tmp_path, tmp_path)]).run()
    for name in ("checkpoint.pt", "checkpoint_previous.pt"):
        cut(tmp_path / name)
    trainer = make_trainer([FullCheckpoint(tmp_path, tmp_path, resume=True)])
    message = (
        f"cannot resume, unreadable: {tmp_path / 'checkpoint.pt'}, "
        f"{tmp_path / 'checkpoint_previous.pt'}. Remove them"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        trainer.run()
    assert trainer.state.iteration == 0


def contents(folder: Path) -> dict[str, bytes]:
    """Path below the folder → bytes."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_what_a_kill_after_the_last_checkpoint_left_out_is_written_on_resume(
    make_trainer: Factory, fake_evaluator: type, tmp_path: Path
) -> None:
    """Killed between the last checkpoint and model_last.pt: resume writes it and trains nothing."""

    def build(resume: bool) -> Any:
        evaluator = fake_evaluator([0.1, 0.4, 0.3])
        handler = FullCheckpoint(tmp_path, tmp_path, evaluator=evaluator, resume=resume)
        return make_trainer([Validation(evaluator), handler])

    build(False).run()
    files = contents(tmp_path)
    (tmp_path / "model_last.pt").unlink()
    trainer = build(True)
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: pytest.fail("it trains"))
    trainer.run()
    assert contents(tmp_path) == files


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "checkpoint_interval must be at least 1, got 0"),
        ({"patience": -1}, "patience must not be negative, got -1"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(
    tmp_path: Path, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        FullCheckpoint(tmp_path, tmp_path, **options)


def test_a_resumed_run_writes_the_bytes_of_an_undisturbed_one(
    make_trainer: Factory, tmp_path: Path
) -> None:
    """Texts that were loaded are other objects than those of a process, and pickled otherwise."""

    def build(folder: Path, max_epochs: int, resume: bool) -> Any:
        handlers = [
            History(folder, tensorboard=False),
            FullCheckpoint(folder, folder, resume=resume),
        ]
        torch.manual_seed(0)
        return make_trainer(handlers, max_epochs=max_epochs)

    build(tmp_path / "whole", 4, False).run()
    build(tmp_path / "cut", 2, False).run()
    build(tmp_path / "cut", 4, True).run()
    names = ["checkpoint.pt", "checkpoint_previous.pt", "history.csv", "model.pt", "model_last.pt"]
    # These two tell the time of the training.
    others = {"report.html", "training.json"}
    assert {path.name for path in (tmp_path / "cut").rglob("*.*")} == {*names, *others}
    for name in names:
        whole, cut = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "cut"))
        assert whole == cut, name
