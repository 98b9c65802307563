"""Tables and picture of learned instance weights."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_roc_auc
from numpy.typing import NDArray
from torch import Tensor

from mixseg.data import SliceDataset
from mixseg.files.atomic import write_csv
from mixseg.metrics import dice_coefficient
from mixseg.objectives.dcr.figure import InstancePanel, plot_indicators

logger = logging.getLogger(__name__)

#: Instances with the lowest and with the highest weights that are pictured.
_PICTURED = 6
#: Items that are read at once.
_CHUNK = 64


class IndicatorReport:
    """Write what the weights of a dataset's items came to.

    ``indicators.csv``, anew at each step
        A row an item: ``case_id``, ``slice_index``, ``supervision``, ``gamma``, ``quality`` (Dice
        of the item's label with its ``reference``, the mean of the classes that either has) and
        ``corrupted``, whether a label without foreground stands for a reference with some. Both
        are empty where the dataset has no reference; nothing else depends on it.
    ``indicators_history.csv``
        A row per step: ``iteration``, ``mean`` of the learned weights, the shares ``at_zero`` and
        ``at_one``, and ``auc``, the area under the ROC curve of γ for items that are not corrupted.
    ``indicators.png``
        The items with the lowest and the highest weights, their histogram, and γ against quality.

    All are written atomically.

    Args:
        dataset: items without random transforms.
        output_dir: folder of the run.
        class_names: C names, background first; None numbers them.
        picture_seconds: least time between two drawings; 0 draws at every step.
        clock: seconds on any scale that only goes forward.

    Raises:
        ValueError: when the time is negative.
    """

    def __init__(
        self,
        dataset: SliceDataset,
        output_dir: str | os.PathLike[str],
        *,
        class_names: Sequence[str] | None = None,
        picture_seconds: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if picture_seconds < 0:
            raise ValueError(f"picture_seconds must not be negative, got {picture_seconds}")
        self.dataset = dataset
        self.output_dir = Path(output_dir)
        self.class_names = list(class_names or map("class {}".format, range(dataset.num_classes)))
        self.picture_seconds = picture_seconds
        self.clock = clock
        #: Those of ``indicators_history.csv``.
        self.rows: list[dict[str, float]] = []
        self._drawn: float | None = None
        self._pending: tuple[NDArray[Any], NDArray[np.bool_]] | None = None
        self._truth: tuple[list[float | None], list[bool | None]] | None = None

    def record(self, iteration: int, gamma: Tensor, learned: Tensor) -> None:
        """Write the tables of a step, and the picture where the last one is old enough."""
        weights, chosen = gamma.cpu().numpy(), learned.cpu().numpy()
        quality, corrupted = self._compared()
        data = self.dataset
        write_csv(
            self.output_dir / "indicators.csv",
            [
                {
                    "case_id": data.case_ids[i],
                    "slice_index": data.slice_indices[i],
                    "supervision": data.supervision[i],
                    "gamma": round(float(weights[i]), 6),
                    "quality": None if (dice := quality[i]) is None else round(dice, 6),
                    "corrupted": None if corrupted[i] is None else str(corrupted[i]).lower(),
                }
                for i in range(len(data))
            ],
        )
        values = weights[chosen]
        row = {
            "iteration": iteration,
            "mean": round(float(values.mean()), 6),
            "at_zero": round(float((values == 0).mean()), 6),
            "at_one": round(float((values == 1).mean()), 6),
        }
        auc = _auc(weights, chosen, corrupted)
        self.rows.append(row if auc is None else row | {"auc": round(auc, 6)})
        write_csv(self.output_dir / "indicators_history.csv", self.rows)
        logger.info("indicators: %s", ", ".join(f"{k} {v:g}" for k, v in self.rows[-1].items()))
        self._pending = weights, chosen
        if self._drawn is None or self.clock() - self._drawn >= self.picture_seconds:
            self.draw()

    def draw(self) -> None:
        """Draw the last step, unless it is drawn already."""
        if self._pending is None:
            return
        weights, chosen = self._pending
        quality, corrupted = self._compared()
        items = np.flatnonzero(chosen)
        order = items[np.argsort(weights[items], kind="stable")]
        plot_indicators(
            self.output_dir / "indicators.png",
            lowest=self._panels(order[:_PICTURED], weights),
            highest=self._panels(order[::-1][:_PICTURED], weights),
            gamma=weights[items],
            quality=[quality[i] for i in items],
            corrupted=[corrupted[i] for i in items],
            auc=self.rows[-1].get("auc"),
            class_names=self.class_names,
        )
        self._pending, self._drawn = None, self.clock()

    def _batch(self, items: Sequence[int]) -> dict[str, Any]:
        batch = self.dataset.__getitems__(list(items))
        assert isinstance(batch, dict)  # as there is no random transform
        return batch

    def _compared(self) -> tuple[list[float | None], list[bool | None]]:
        """Quality of each item's label, and whether its foreground is missing; None if unknown."""
        if self._truth is None:
            self._truth = [], []
            classes = self.dataset.num_classes
            for start in range(0, len(self.dataset), _CHUNK):
                batch = self._batch(range(start, min(start + _CHUNK, len(self.dataset))))
                labels = batch["label"]
                references = batch.get("reference", torch.full_like(labels, classes))
                for label, reference in zip(labels.numpy(), references.numpy(), strict=True):
                    quality, corrupted = _compare(label, reference, classes)
                    self._truth[0].append(quality)
                    self._truth[1].append(corrupted)
        return self._truth

    def _panels(self, items: NDArray[np.intp], weights: NDArray[Any]) -> list[InstancePanel]:
        data = self.dataset
        batch = self._batch(items.tolist())
        panels = []
        for k, i in enumerate(items):
            several = data.case_ids.count(data.case_ids[i]) > 1
            panels.append(
                InstancePanel(
                    data.case_ids[i] + (f", slice {data.slice_indices[i]}" if several else ""),
                    batch["image"][k].numpy(),
                    batch["label"][k, 0].numpy(),
                    batch["reference"][k, 0].numpy() if "reference" in batch else None,
                    float(weights[i]),
                )
            )
        return panels


def _compare(
    label: NDArray[Any], reference: NDArray[Any], num_classes: int
) -> tuple[float | None, bool | None]:
    """Mean Dice of the foreground classes that are in either, and whether all of it is missing.

    Over the pixels that both know; 1 where neither has foreground.
    """
    known = (label < num_classes) & (reference < num_classes)
    if not known.any():
        return None, None
    label, reference = label[known], reference[known]
    classes = sorted({*np.unique(label).tolist(), *np.unique(reference).tolist()} - {0})
    dice = [dice_coefficient(label == c, reference == c) for c in classes]
    missing = bool((reference > 0).any() and not (label > 0).any())
    return float(np.mean(dice)) if dice else 1.0, missing


def _auc(
    weights: NDArray[Any], learned: NDArray[np.bool_], corrupted: Sequence[bool | None]
) -> float | None:
    """Probability that γ ranks an intact item above a corrupted one; None without either."""
    known = [i for i in np.flatnonzero(learned).tolist() if corrupted[i] is not None]
    intact = [not corrupted[i] for i in known]
    if len(set(intact)) < 2:
        return None
    return float(compute_roc_auc(torch.as_tensor(weights[known]), torch.as_tensor(intact).int()))
