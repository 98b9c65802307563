"""Mean, spread and worst case of the scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from mixseg.metrics.scores import CaseScore

_METRICS = ("dice", "hd95_vox", "assd_vox", "hd95_mm", "assd_mm", "iou", "precision", "recall")
_BRANCH_ORDER = ("main", "teacher", "student", "ensemble")


def summarize(rows: Iterable[CaseScore]) -> dict[str, dict[str, dict[str, Any]]]:
    """Summarize the cases of each branch and class.

    Args:
        rows: scores of any number of cases, branches and classes.

    Returns:
        ``{branch: {class: summary}}`` with main, teacher, student and ensemble first and the
        classes in order of appearance. A summary has ``n``; for each of ``dice``, ``hd95_vox``,
        ``assd_vox``, ``hd95_mm``, ``assd_mm``, ``iou``, ``precision`` and ``recall`` a mapping
        ``mean``, ``sd`` (n − 1 in the denominator) and ``n``, where an unknown value counts in
        neither (mean NaN without any, sd NaN below two); ``worst`` with ``case_id`` and ``dice`` of
        the lowest Dice (the first of equals); and ``empty`` with the number of cases whose
        ``prediction``, ``reference`` or ``both`` lacked the class.
    """
    groups: dict[str, dict[str, list[CaseScore]]] = {}
    for row in rows:
        groups.setdefault(row.branch, {}).setdefault(row.class_name, []).append(row)
    known = [branch for branch in _BRANCH_ORDER if branch in groups]
    others = [branch for branch in groups if branch not in _BRANCH_ORDER]
    return {
        branch: {name: _summary(cases) for name, cases in groups[branch].items()}
        for branch in known + others
    }


def _summary(cases: list[CaseScore]) -> dict[str, Any]:
    worst = min(cases, key=lambda case: case.dice)
    empty = Counter(case.empty for case in cases)
    return {
        "n": len(cases),
        **{name: _statistics([getattr(case, name) for case in cases]) for name in _METRICS},
        "worst": {"case_id": worst.case_id, "dice": worst.dice},
        "empty": {kind: empty[kind] for kind in ("prediction", "reference", "both")},
    }


def _statistics(values: list[float | None]) -> dict[str, Any]:
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    return {
        "mean": float(known.mean()) if known.size else float("nan"),
        "sd": float(known.std(ddof=1)) if known.size > 1 else float("nan"),
        "n": int(known.size),
    }
