"""The weights of a training, handed to the server that predicts with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events

from mixseg.apps.bundle.weights import build_network, misfits
from mixseg.files.atomic import write_bytes_atomic
from mixseg.files.weights import read_weights


class PublishWeights:
    """Replace the model's weights by those of its training, where they load.

    The working model stays as it is unless the new weights can be read, are finite and fit the
    network that the server predicts with.
    """

    def __init__(self, source: str | os.PathLike[str], model: str | os.PathLike[str]) -> None:
        self.source = Path(source)
        self.model = Path(model)
        self._published = 0

    def attach(self, engine: Any) -> None:
        """Publish after epochs of ``engine``, a trainer; attach it after the checkpoints."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.when_done.append(self)

    def __call__(self, engine: Any) -> None:
        """Publish what is new.

        Raises:
            ValueError: the weights do not load; the model keeps its own.
        """
        if not self.source.is_file():
            return
        written = self.source.stat().st_mtime_ns
        if written == self._published:
            return
        # A new network draws random weights: the training resumes as if it had not.
        with torch.random.fork_rng(devices=[]):
            network = build_network(self.model / "configs" / "inference.yaml", {})
        if faults := misfits(network, read_weights(self.source)):
            raise ValueError(
                f"the training's weights '{self.source}' do not fit the network that predicts; the "
                f"model keeps its own: {'; '.join(faults)}"
            )
        write_bytes_atomic(self.model / "models" / "model.pt", self.source.read_bytes())
        self._published = written
