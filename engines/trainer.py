"""Training with batches of several supervision kinds."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from ignite.engine import Events
from monai.engines import Trainer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from mixseg.engines.network_set import MAIN, NetworkSet
from mixseg.engines.precision import autocast_dtype
from mixseg.engines.ranks import averaging_ranks
from mixseg.engines.schedule import load_schedule
from mixseg.engines.step import ForwardStep
from mixseg.engines.turn import Turn
from mixseg.objectives.base import NetworkSpec, Objective


class NonFiniteLossError(RuntimeError):
    """A loss term became NaN or infinite; the message names the term and the cases."""


def _is_not_a_false_resume(record: logging.LogRecord) -> bool:
    """Whether a message is other than Ignite's that a fresh training resumes.

    MONAI sets ``max_epochs`` before it starts the engine, which Ignite takes for a resume.
    """
    return not record.getMessage().startswith("Engine run resuming from iteration 0,")


class MixedSupervisionTrainer(Trainer):
    """Trainer of any :class:`mixseg.objectives.Objective` on mixed batches.

    A batch is a dictionary with ``image`` (B, channels, *spatial), ``label`` (B, 1, *spatial),
    ``supervision`` and ``case_id`` (B strings each), as
    :class:`mixseg.data.MixedDataLoader` makes it. The trainer splits it by supervision kind,
    forwards each kind, sums ``weight × term`` over the objective's terms and steps. Networks that
    an objective lets train in turn (:class:`mixseg.objectives.TurnSpec`) then have theirs.

    ``engine.state.output`` is ``[{"loss": …, term: …}]``, detached scalars on the device: one item,
    as MONAI's trainers leave one for each image, so that ``from_engine(["loss"], first=True)`` and
    the handlers that log by it (``StatsHandler``, ``TensorBoardStatsHandler``, ``MLFlowHandler``)
    find the loss.

    Under ``torch.distributed`` the forward step is wrapped in DistributedDataParallel.

    Args:
        device: where to train.
        max_epochs: epochs in all, those before a resume included.
        train_data_loader: mixed batches; ``set_epoch`` is called where it exists.
        network: takes ``branch=`` (see :class:`mixseg.networks.DualBranchUNet`), on ``device``; or
            a :class:`NetworkSet`, which a method with several networks or with heads needs.
        optimizer: over the network's parameters, or the set's ``trained_parameters()``.
        objective: the method.
        lr_scheduler: None keeps the rate.
        lr_step: what ``lr_scheduler`` is stepped after, ``"epoch"`` or ``"iteration"``.
        augmentation: random transforms of a whole batch on the device, called before the batch is
            split; a :class:`mixseg.transforms.BatchAugmentation`, whose generator takes part in
            checkpoints.
        epoch_length: iterations an epoch, None for the loader's length.
        separate_forward: see :class:`mixseg.engines.ForwardStep`.
        amp: automatic mixed precision of the forward pass, see
            :func:`mixseg.engines.autocast_dtype`; losses stay in float32.
        amp_dtype: ``"bfloat16"``, or ``"float16"`` with gradient scaling, on CUDA.
        clip_grad_norm: largest 2-norm of the gradient, 0 for no clipping.
        accumulation_steps: batches whose gradients are averaged into one step.
        ema_decay: largest decay of an exponential moving average of the weights and batch
            statistics, which validation and the exported model then use; 0 for none.
        channels_last: keep networks and images in channels-last memory, faster on CPU and CUDA.
        train_handlers: Ignite handlers.

    Raises:
        ValueError: on an option out of range, or weights that the optimizer does not step.
        NonFiniteLossError: while training, before the step that a bad term would spoil.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Any,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        *,
        lr_scheduler: Any = None,
        lr_step: Literal["epoch", "iteration"] = "epoch",
        augmentation: Any = None,
        epoch_length: int | None = None,
        separate_forward: bool = True,
        amp: bool | str = False,
        amp_dtype: str = "bfloat16",
        clip_grad_norm: float = 0.0,
        accumulation_steps: int = 1,
        ema_decay: float = 0.0,
        channels_last: bool = True,
        train_handlers: Sequence | None = None,
    ) -> None:
        if max_epochs < 1:
            raise ValueError(f"max_epochs must be at least 1, got {max_epochs}")
        if lr_step not in ("epoch", "iteration"):
            raise ValueError(f"lr_step must be 'epoch' or 'iteration', got {lr_step!r}")
        if clip_grad_norm < 0:
            raise ValueError(f"clip_grad_norm must not be negative, got {clip_grad_norm}")
        if accumulation_steps < 1:
            raise ValueError(f"accumulation_steps must be at least 1, got {accumulation_steps}")
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {ema_decay}")
        device = torch.device(device)
        self.networks = NetworkSet.of(network, objective)
        self.network = self.networks[MAIN]
        self.optimizer = optimizer
        self.objective = objective.to(device)
        _check_stepped(self.networks, optimizer)
        if augmentation is not None and not hasattr(augmentation, "state_dict"):
            raise ValueError(
                f"augmentation is a {type(augmentation).__name__}, which has no state to resume "
                "with and may not transform whole batches: give a BatchAugmentation, null for "
                "none, or transforms of one item as train#dataset#slice_transform (in 3D "
                "train#dataset#random_transform)"
            )
        self.lr_scheduler = lr_scheduler
        self.augmentation = augmentation
        self.amp_dtype = autocast_dtype(amp, device, amp_dtype)
        self._amp = str(amp)
        #: Types of the forward pass so far; more than one where a resumed run changed machines.
        self.precisions = [self.precision]
        self.clip_grad_norm = clip_grad_norm
        self.accumulation_steps = accumulation_steps
        self.memory_format = torch.contiguous_format
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        if channels_last and (rank := next(self.network.parameters()).ndim) in formats:
            self.memory_format = formats[rank]
            self.networks.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self._inferred = MAIN
        if ema_decay:
            self._inferred = "average"
            # Buffers are averaged too: batch statistics must fit the averaged weights.
            spec = NetworkSpec(average_of=MAIN, decay=ema_decay, buffers=True)
            self.networks.add(self._inferred, spec)
        self.step_module = averaging_ranks(
            ForwardStep(self.networks, objective, separate_forward),
            device,
            find_unused=len(objective.trained_branches) < 2,
        )
        self.turns = [
            Turn(name, self.networks, objective, device) for name in self.networks.in_turn
        ]
        self._stateful: dict[str, Any] = {}
        #: Called with the trainer when it is run, before anything else: a resume happens here.
        self.before_run: list[Callable[[MixedSupervisionTrainer], None]] = []
        #: Called with the trainer when it has run, also where that has failed.
        self.after_run: list[Callable[[MixedSupervisionTrainer], None]] = []
        #: Called with the trainer when it is run and all epochs are done: what the process before
        #: did not live to write is written here.
        self.when_done: list[Callable[[MixedSupervisionTrainer], None]] = []
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            non_blocking=True,
            amp=self.amp_dtype is not None,
            handlers=None,
            decollate=False,
        )
        self.logger.addFilter(_is_not_a_false_resume)
        # Only float16 needs scaled gradients; a disabled scaler passes everything through.
        self.scaler = torch.amp.GradScaler(
            device.type, enabled=self.amp and self.amp_dtype is torch.float16
        )
        self.add_event_handler(Events.EPOCH_STARTED, self._set_epoch)
        if lr_scheduler is not None:
            per_iteration = lr_step == "iteration"
            event = Events.ITERATION_COMPLETED if per_iteration else Events.EPOCH_COMPLETED
            self.add_event_handler(event, lambda: lr_scheduler.step())
        for turn in self.turns:
            if turn.lr_scheduler is not None:
                self.add_event_handler(Events.ITERATION_COMPLETED, _step(turn.lr_scheduler))
        if augmentation is not None:
            self.register_state("augmentation", augmentation)
        if train_handlers is not None:
            self._register_handlers(train_handlers)

    @property
    def precision(self) -> str:
        """Type of the forward pass: ``float32``, ``bfloat16`` or ``float16``."""
        return str(self.amp_dtype or torch.float32).removeprefix("torch.")

    @property
    def inference_network(self) -> nn.Module:
        """The network to validate and export: the moving average where there is one."""
        return self.networks[self._inferred]

    def run(self) -> None:
        """Train up to ``max_epochs``; a resumed trainer continues where its state stands."""
        try:
            for hook in self.before_run:
                hook(self)
            if self.state.epoch >= self.state.max_epochs:
                self.logger.info(
                    "epoch %d of %d is done already", self.state.epoch, self.state.max_epochs
                )
                for hook in self.when_done:
                    hook(self)
                return
            if not any(group["lr"] for group in self.optimizer.param_groups):
                self.logger.warning(
                    "the learning rate is 0 and its schedule has ended: epochs after %d change "
                    "nothing unless it rises again",
                    self.state.epoch,
                )
            self.logger.info("training on %s in %s", self.state.device, self.precision)
            # Ignite opens the first data iterator before the first EPOCH_STARTED.
            self._set_epoch(self, self.state.epoch + 1)
            # Trainer.run would replace the scaler, and its state with it.
            super(Trainer, self).run()
        finally:
            for hook in self.after_run:
                hook(self)

    def _set_epoch(self, engine: Any, epoch: int | None = None) -> None:
        if hasattr(self.data_loader, "set_epoch"):
            self.data_loader.set_epoch(self.state.epoch if epoch is None else epoch)

    def split_batch(self, batch: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
        """Tensors of a batch by supervision kind, on the device and in the network's layout."""
        kinds = batch["supervision"]
        arrays = {
            key: value.to(self.state.device, non_blocking=self.non_blocking)
            for key, value in batch.items()
            if isinstance(value, Tensor)
        }
        if self.augmentation is not None:
            arrays = self.augmentation(arrays)
        groups: dict[str, dict[str, Tensor]] = {}
        for kind in dict.fromkeys(kinds):
            first, count = kinds.index(kind), kinds.count(kind)
            if kinds[first : first + count] == [kind] * count:
                group = {key: array[first : first + count] for key, array in arrays.items()}
            else:
                chosen = [i for i, other in enumerate(kinds) if other == kind]
                group = {key: array[chosen] for key, array in arrays.items()}
            if kind == "none":
                group = {"image": group["image"]}
            group["image"] = group["image"].contiguous(memory_format=self.memory_format)
            groups[kind] = group
        return groups

    def _iteration(self, engine: Any, batchdata: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        groups = self.split_batch(batchdata)
        position = (self.state.iteration - 1) % self.state.epoch_length + 1
        accumulate = self.accumulation_steps
        last = position % accumulate == 0 or position == self.state.epoch_length
        # The last group of an epoch may be short: average over what it holds.
        size = accumulate
        if position > self.state.epoch_length - self.state.epoch_length % accumulate:
            size = self.state.epoch_length % accumulate
        self.step_module.train()
        if (position - 1) % accumulate == 0:
            for optimizer, _ in self._optimized():
                optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.state.device.type, self.amp_dtype, enabled=self.amp):
            terms = self.step_module(groups)
        if not terms:
            raise ValueError(
                f"{type(self.objective).__name__} learns nothing from a batch of "
                f"{', '.join(groups)}: add cases of another supervision, or give its terms a weight"
            )
        weights = self.objective.weights
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        if not torch.isfinite(loss):
            raise NonFiniteLossError(self._explain(terms, groups, batchdata))
        self.scaler.scale(loss / size).backward()
        values = {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}
        for turn in self.turns:
            values |= self._take(turn, groups, batchdata, size)
        if last:
            for optimizer, parameters in self._optimized():
                if self.clip_grad_norm:
                    self.scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(parameters, self.clip_grad_norm)
                self.scaler.step(optimizer)
            self.scaler.update()
            self.networks.update_averages(self.state.epoch)
        return [values]

    def _take(
        self, turn: Turn, groups: dict[str, dict[str, Tensor]], batch: Mapping[str, Any], size: int
    ) -> dict[str, Tensor]:
        """Gradients of one network's turn; its terms, detached."""
        with turn.alone():
            with torch.autocast(self.state.device.type, self.amp_dtype, enabled=self.amp):
                terms = turn.step_module(self._forward_step.seen, groups)
            if terms:
                loss = torch.stack(list(terms.values())).sum()
                if not torch.isfinite(loss):
                    raise NonFiniteLossError(self._explain(terms, groups, batch))
                self.scaler.scale(loss / size).backward()
        return {name: term.detach() for name, term in terms.items()}

    def _optimized(self) -> list[tuple[torch.optim.Optimizer, list[nn.Parameter]]]:
        """Every optimizer that has gradients to step by, with its parameters."""
        return [
            (self.optimizer, self.networks.trained_parameters()),
            *((turn.optimizer, turn.parameters) for turn in self.turns if turn.has_gradient()),
        ]

    @property
    def _forward_step(self) -> ForwardStep:
        return cast(ForwardStep, getattr(self.step_module, "module", self.step_module))

    @torch.no_grad()
    def _explain(
        self,
        terms: Mapping[str, Tensor],
        groups: dict[str, dict[str, Tensor]],
        batch: Mapping[str, Any],
    ) -> str:
        """Which terms are not finite, and in which cases the images or logits are not."""
        bad_terms = [name for name, term in terms.items() if not torch.isfinite(term)]
        suspects: list[str] = []
        for kind, output in self._forward_step.outputs(groups).items():
            logits = (output,) if isinstance(output, Tensor) else output
            finite = torch.isfinite(groups[kind]["image"]).flatten(1).all(1)
            # With batch statistics one bad image spoils all logits, so images are asked first.
            if finite.all():
                finite = torch.stack([torch.isfinite(z).flatten(1).all(1) for z in logits]).all(0)
            cases = [
                c for c, k in zip(batch["case_id"], batch["supervision"], strict=True) if k == kind
            ]
            suspects += [c for c, ok in zip(cases, finite.tolist(), strict=True) if not ok]
        where = (
            "cases " + ", ".join(dict.fromkeys(suspects))
            if suspects
            else (
                "no image or logit that is not finite; batch of "
                + ", ".join(dict.fromkeys(batch["case_id"]))
            )
        )
        return (
            f"loss term {', '.join(bad_terms) or 'sum'} is not finite at iteration "
            f"{self.state.iteration} (epoch {self.state.epoch}): {where}. "
            "Lower the learning rate, set clip_grad_norm, or check these cases' images."
        )

    def register_state(self, name: str, owner: Any) -> None:
        """Let ``owner`` (``state_dict``, ``load_state_dict``) take part in checkpoints."""
        self._stateful[name] = owner

    def full_state(self) -> dict[str, Any]:
        """Everything needed to resume: tensors, numbers, strings and containers of them only."""
        state: dict[str, Any] = {
            "networks": self.networks.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "objective": self.objective.state_dict(),
            "epoch": self.state.epoch,
            "iteration": self.state.iteration,
            "epoch_length": self.state.epoch_length,
            "amp": self._amp,
            "precision": ", ".join(self.precisions),
            "random": _random_state(),
        }
        if self.lr_scheduler is not None:
            state["lr_scheduler"] = self.lr_scheduler.state_dict()
        state["turns"] = {turn.name: turn.state_dict() for turn in self.turns}
        state["handlers"] = {name: owner.state_dict() for name, owner in self._stateful.items()}
        return state

    def load_full_state(self, state: Mapping[str, Any]) -> None:
        """Undo of :meth:`full_state`.

        Raises:
            ValueError: where the state is of a run with other settings.
        """
        stored = "lr_scheduler" in state
        if stored != (self.lr_scheduler is not None):
            raise ValueError(
                f"the checkpoint was written {'with' if stored else 'without'} lr_scheduler, "
                f"this run is set up {'without' if stored else 'with'} it"
            )
        names = {key.partition(".")[0] for key in state.get("networks", {}) if "." in key}
        if names != set(self.networks):
            held = ", ".join(sorted(names)) or "of an earlier version"
            raise ValueError(
                f"the checkpoint holds the networks {held}, this run has "
                f"{', '.join(sorted(self.networks))}: resume with the same method, ema_decay and "
                "version of mixseg"
            )
        if state["epoch_length"] != self.state.epoch_length:
            raise ValueError(
                f"the checkpoint's epochs have {state['epoch_length']} iterations, this run's "
                f"{self.state.epoch_length}: resume with the same data, batch and epoch_length"
            )
        if (before := state.get("amp", self._amp)) != self._amp:
            raise ValueError(
                f"the checkpoint was written with amp {before}, this run has {self._amp}: resume "
                f"with --amp {before}"
            )
        precisions = state.get("precision", self.precision).split(", ")
        if precisions[-1] != self.precision:
            self.logger.warning(
                "the run was trained in %s before; this machine trains in %s, so the result will "
                "differ a little from that of an uninterrupted run",
                precisions[-1],
                self.precision,
            )
            precisions.append(self.precision)
        self.precisions = precisions
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.objective.load_state_dict(state["objective"])
        if self.lr_scheduler is not None:
            load_schedule(self.lr_scheduler, state["lr_scheduler"])
        for turn in self.turns:
            turn.load_state_dict(state["turns"][turn.name])
        for name, owner in self._stateful.items():
            owner.load_state_dict(state["handlers"][name])
        self.state.epoch, self.state.iteration = state["epoch"], state["iteration"]
        _set_random_state(state["random"])


def _step(lr_scheduler: LRScheduler) -> Callable[[], None]:
    return lambda: lr_scheduler.step()


def _check_stepped(networks: NetworkSet, optimizer: torch.optim.Optimizer) -> None:
    """Refuse weights that no optimizer steps, or two optimizers do."""
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name in networks.in_turn:
        if any(id(p) in stepped for p in networks[name].parameters()):
            raise ValueError(
                f"the optimizer holds parameters of {name}, which has an optimizer of its own: "
                "build it over NetworkSet.trained_parameters()"
            )
    left = sum(id(p) not in stepped for p in networks.trained_parameters())
    if left:
        raise ValueError(
            f"the optimizer misses {left} parameters of the method's networks or heads: build it "
            "over NetworkSet.trained_parameters()"
        )


def _random_state() -> dict[str, Any]:
    """States of the global generators, in types that ``weights_only=True`` loads."""
    # MONAI and its users may draw from NumPy's global generator, so its state is kept too.
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = cast(tuple, np.random.get_state(legacy=True))  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(internal), gauss],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
