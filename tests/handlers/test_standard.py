"""The handlers that every training and every evaluation has, in an order that works."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from mixseg.data import Datalist, data_hash
from mixseg.handlers import (
    FullCheckpoint,
    HandlerGroup,
    History,
    ProgressBar,
    Validation,
    WeightRamps,
    evaluation_handlers,
    standard_handlers,
)
from mixseg.objectives import ConfKD

Factory = Callable[..., Any]


class Counter:
    """A further handler with a state of its own."""

    def __init__(self) -> None:
        self.count = 0

    def attach(self, engine: Any) -> None:
        engine.register_state("counter", self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._add)

    def _add(self) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def train(make_trainer: Factory, handlers: HandlerGroup, epochs: int = 3) -> Any:
    trainer = make_trainer(max_epochs=epochs)
    handlers.attach(trainer)
    trainer.run()
    return trainer


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {"objective": ConfKD(), "output_dir": folder, "progress": False, **more}


def test_a_training_with_validation(
    make_trainer: Factory, fake_evaluator: Any, tmp_path: Path
) -> None:
    """The weights of the best validation are kept, and full states at their interval."""
    evaluator, counter = fake_evaluator([0.5, 0.9, 0.7]), Counter()
    kept: list[dict[str, torch.Tensor]] = []

    def copy(engine: Any) -> None:
        kept.append({k: v.clone() for k, v in engine.inference_network.state_dict().items()})

    handlers = standard_handlers(
        **settings(tmp_path),
        evaluator=evaluator,
        key_metric="val_dice_student",
        val_interval=2,
        checkpoint_interval=4,
        extra=[SimpleNamespace(attach=lambda e: e.add_event_handler(Events.EPOCH_COMPLETED, copy)),
               counter],
    )  # fmt: skip
    train(make_trainer, handlers, 6)
    assert evaluator.epochs == [2, 4, 6]
    model = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert model.keys() == kept[3].keys()
    assert all(torch.equal(value, kept[3][name]) for name, value in model.items())
    full = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (full["epoch"], full["handlers"]["counter"]) == (6, {"count": 6})
    assert full["handlers"]["selection"] == {"best": 0.9, "best_epoch": 4}
    rows = (tmp_path / "history.csv").read_text().splitlines()
    column = rows[0].split(",").index("val_dice_student")
    assert [row.split(",")[column] for row in rows[1:]] == ["", "0.5", "", "0.9", "", "0.7"]


@pytest.mark.parametrize("validate", [False, True])
def test_a_training_without_validation(
    make_trainer: Factory,
    fake_evaluator: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    validate: bool,
) -> None:
    """The evaluator is there and not asked, or has no case; the latest weights count."""
    evaluator = fake_evaluator([])
    if validate:
        evaluator.data_loader = SimpleNamespace(dataset=[])
    handlers = standard_handlers(
        **settings(tmp_path, ckpt_dir=tmp_path / "elsewhere"),
        evaluator=evaluator,
        scorer=object(),
        key_metric="val_dice_student",
        validate=validate,
    )
    assert not any(isinstance(handler, Validation) for handler in handlers.handlers)
    with caplog.at_level(logging.INFO):
        trainer = train(make_trainer, handlers)
    assert "weights of epoch 3 (the last) are in " in caplog.text
    assert evaluator.epochs == []
    model = torch.load(tmp_path / "elsewhere" / "model.pt", weights_only=True)
    last = trainer.inference_network.state_dict()
    assert all(torch.equal(value, last[name]) for name, value in model.items())


def test_a_resumed_training_takes_up_further_handlers(
    make_trainer: Factory, tmp_path: Path
) -> None:
    counters = [Counter(), Counter()]
    for epochs, resume, counter in ((2, False, counters[0]), (5, True, counters[1])):
        handlers = standard_handlers(
            **settings(tmp_path), validate=False, resume=resume, extra=[counter]
        )
        train(make_trainer, handlers, epochs)
    assert [counter.count for counter in counters] == [2, 5]


def test_a_training_from_given_weights_equals_one_that_has_them(
    make_trainer: Factory, tmp_path: Path
) -> None:
    """The averaged weights, too; and a resumed training continues from its checkpoint."""
    given = {"teacher": torch.tensor(3.0), "student": torch.tensor(2.0)}
    torch.save(given, tmp_path / "given.pt")
    found = []
    for name, source in (("own", None), ("given", tmp_path / "given.pt")):
        trainer = make_trainer(max_epochs=2, ema_decay=0.5)
        if source is None:
            trainer.network.load_state_dict(given)
        standard_handlers(**settings(tmp_path / name), validate=False, init_weights=source).attach(
            trainer
        )
        trainer.run()
        found.append(torch.load(tmp_path / name / "models" / "model.pt", weights_only=True))
    assert all(torch.equal(found[0][name], found[1][name]) for name in given)
    trainer = make_trainer(max_epochs=2, ema_decay=0.5)
    more = {"init_weights": tmp_path / "given.pt", "resume": True}
    standard_handlers(**settings(tmp_path / "own"), validate=False, **more).attach(trainer)
    trainer.run()
    resumed = trainer.inference_network.state_dict()
    assert all(torch.equal(found[0][name], resumed[name]) for name in given)


def test_patience_and_ramps(make_trainer: Factory, fake_evaluator: Any, tmp_path: Path) -> None:
    objective = ConfKD(lambda_ent=2.0)
    handlers = standard_handlers(
        **settings(tmp_path) | {"objective": objective},
        evaluator=fake_evaluator([0.9, 0.8, 0.7, 0.6]),
        key_metric="val_dice_student",
        patience=2,
        ramps={"lambda_ent": {"length": 100, "begin": 50}},
        ramp_shape="cosine",
    )
    trainer = train(make_trainer, handlers, 9)
    assert trainer.state.epoch == 3
    assert objective.lambda_ent == 0


def test_every_handler_is_there_in_its_order(tmp_path: Path) -> None:
    """Ramps before the step, results before what writes them, checkpoints after all states."""
    extra = Counter()
    kinds = [WeightRamps, ProgressBar, Validation, History, Counter, FullCheckpoint]
    handlers = standard_handlers(**settings(tmp_path), evaluator=Engine(lambda e, b: None),
                                 extra=[extra])  # fmt: skip
    assert [type(handler) for handler in handlers.handlers] == kinds


def test_evaluation_loads_the_runs_weights(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1)
    (tmp_path / "run" / "models").mkdir(parents=True)
    torch.save(
        {"weight": torch.tensor([[4.0]]), "bias": torch.zeros(1)},
        tmp_path / "run" / "models" / "model.pt",
    )
    datalist = Datalist(classes=["background", "LV"], unlabeled=2)
    scorer = SimpleNamespace(rows=[], panels=[], class_names=["background", "LV"])
    scorer.attach = lambda engine: None
    handlers = evaluation_handlers(
        network=network,
        bundle_root=tmp_path,
        ckpt_dir=tmp_path / "run" / "models",
        scorer=scorer,
        output_dir=tmp_path / "run",
        seed=3,
        datalist=datalist,
        dataset_dir=tmp_path,
        surfaces=False,
        progress=False,
    )
    *_, report = handlers.handlers
    assert (report.seed, report.data_hash) == (3, data_hash(datalist, tmp_path))
    assert report.surfaces is None
    engine = Engine(lambda engine, batch: None)
    handlers.handlers[0].attach(engine)
    engine.run([0])
    assert network.weight.item() == 4


def test_weights_of_the_run_around_the_folder_of_scores(tmp_path: Path) -> None:
    """``output_dir/models`` is the default of ``ckpt_dir``; scores often go into RUN/test."""
    network = torch.nn.Linear(1, 1, bias=False)
    scorer = SimpleNamespace(rows=[], panels=[], class_names=["background", "LV"])

    def loaded(output_dir: Path) -> float:
        handlers = evaluation_handlers(
            network=network,
            bundle_root=tmp_path / "bundle",
            ckpt_dir=f"{output_dir}/models",
            scorer=scorer,
            output_dir=output_dir,
            seed=0,
            datalist=Datalist(classes=["background", "LV"], unlabeled=2),
            dataset_dir=tmp_path,
            progress=False,
        )
        engine = Engine(lambda engine, batch: None)
        handlers.handlers[0].attach(engine)
        engine.run([0])
        return float(network.weight.item())

    def put(folder: Path, weight: float) -> None:
        folder.mkdir(parents=True)
        torch.save({"weight": torch.tensor([[weight]])}, folder / "model.pt")

    put(tmp_path / "bundle" / "models", 1)
    assert loaded(tmp_path / "run" / "test") == 1
    put(tmp_path / "run" / "models", 2)
    assert loaded(tmp_path / "run" / "test") == 2
    put(tmp_path / "run" / "test" / "models", 3)
    assert loaded(tmp_path / "run" / "test") == 3


def test_scores_of_their_own_folder_are_of_the_bundles_weights(tmp_path: Path) -> None:
    """Unless the folder of another training's weights is given."""

    def weights(ckpt_dir: Path) -> str:
        scorer = SimpleNamespace(rows=[], panels=[], class_names=["background"])
        handlers = evaluation_handlers(
            network=torch.nn.Linear(1, 1), bundle_root=tmp_path, ckpt_dir=ckpt_dir, scorer=scorer,
            output_dir=tmp_path / "scores", seed=0, dataset_dir=tmp_path, progress=False,
            datalist=Datalist(classes=["background", "LV"], unlabeled=2),
        ).handlers  # fmt: skip
        return str(handlers[0].load_path)

    own = tmp_path / "models" / "model.pt"
    own.parent.mkdir()
    torch.save({}, own)
    assert weights(tmp_path / "scores" / "models") == str(own)
    with pytest.raises(ValueError, match="there is no"):
        weights(tmp_path / "other")


def test_scores_go_to_another_folder_than_the_runs(tmp_path: Path) -> None:
    """The weights are those of a training in the bundle's folder; a folder that is asked for is."""
    network = torch.nn.Linear(1, 1, bias=False)
    for name, value in (("bundle/eval", 4.0), ("other", 5.0)):
        (tmp_path / name / "models").mkdir(parents=True)
        state = {"weight": torch.tensor([[value]])}
        torch.save(state, tmp_path / name / "models" / "model.pt")
    scorer = SimpleNamespace(rows=[], panels=[], class_names=["background", "LV"])
    common: dict[str, Any] = {
        "network": network,
        "bundle_root": tmp_path / "bundle",
        "scorer": scorer,
        "seed": 0,
        "datalist": Datalist(classes=["background", "LV"], unlabeled=2),
        "dataset_dir": tmp_path,
        "surfaces": False,
    }
    for output, ckpt_dir, expected in (
        ("bundle/eval/test", "bundle/eval/test/models", 4),
        ("other", "other/models", 5),
        ("test", "other/models", 5),
    ):
        places = {"output_dir": tmp_path / output, "ckpt_dir": tmp_path / ckpt_dir}
        loader = evaluation_handlers(**common, **places).handlers[0]
        engine = Engine(lambda engine, batch: None)
        loader.attach(engine)
        engine.run([0])
        assert network.weight.item() == expected
    with pytest.raises(ValueError, match=r"there is no .*absent.*model\.pt"):
        evaluation_handlers(**common, output_dir=tmp_path, ckpt_dir=tmp_path / "absent")
