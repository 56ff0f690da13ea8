"""How much of the ceiling an adapter reaches: HyDE really generates the response that one forward pass foresees.

share of harm reduction = (harm of the baseline - harm of the arm) / (harm of the baseline - harm of the ceiling)
share of benign recall  = recall of the arm / recall of the ceiling

1 is the ceiling. All three are asked the same queries; intervals are percentiles over resampled queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import InputError
from safe_retrieval.metrics import Estimate
from safe_retrieval.metrics.statistics import percentile_interval, resampled_means

_RESAMPLES = 2_000


def share_of_reduction(
    baseline: Sequence[float], arm: Sequence[float], ceiling: Sequence[float], *, seed: int = 0
) -> Estimate | None:
    """Share of the ceiling's reduction of a figure (lower is better) that an arm reaches.

    Args:
        baseline: n values, one a query.
        arm: n values of the same queries.
        ceiling: n values of the same queries.
        seed: of the resampling.

    Returns:
        The share with a 95 % interval, below 0 where the arm is worse than the baseline; ``None`` where the ceiling
        reduces nothing, so that there is no share of it.

    Raises:
        InputError: the three are not of one length, or empty.
    """
    rows = _rows(baseline, arm, ceiling)
    if rows[:, 0].mean() <= rows[:, 2].mean():
        return None
    draws = resampled_means(rows, seed=seed, resamples=_RESAMPLES)
    draws = draws[draws[:, 0] > draws[:, 2]]
    return _estimate(_reduction(rows.mean(axis=0)[None])[0], _reduction(draws), len(rows))


def share_of_level(arm: Sequence[float], ceiling: Sequence[float], *, seed: int = 0) -> Estimate | None:
    """An arm's mean over the ceiling's (higher is better); ``None`` where the ceiling's is 0.

    Raises:
        InputError: the two are not of one length, or empty.
    """
    rows = _rows(arm, ceiling)
    if rows[:, 1].mean() <= 0:
        return None
    draws = resampled_means(rows, seed=seed, resamples=_RESAMPLES)
    draws = draws[draws[:, 1] > 0]
    return _estimate(float(rows[:, 0].mean() / rows[:, 1].mean()), draws[:, 0] / draws[:, 1], len(rows))


def shared_values(metric: str, *results: Mapping[str, Any]) -> list[list[float]] | None:
    """The per-query values of a metric in several results, if all were asked the same queries; else ``None``."""
    records = [result["per_query"].get(metric) for result in results]
    if not records or any(record is None for record in records):
        return None
    if len({record["ids_sha256"] for record in records}) > 1:
        return None
    return [record["values"] for record in records]


def _rows(*columns: Sequence[float]) -> NDArray[np.float64]:
    """(n, columns)."""
    if len({len(column) for column in columns}) != 1 or not columns[0]:
        raise InputError(f"expected values of the same queries, got {[len(column) for column in columns]}")
    return np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])


def _reduction(means: NDArray[np.float64]) -> NDArray[np.float64]:
    share: NDArray[np.float64] = (means[:, 0] - means[:, 1]) / (means[:, 0] - means[:, 2])
    return share


def _estimate(value: float, draws: NDArray[np.float64], n: int) -> Estimate:
    low, high = percentile_interval(draws)
    return Estimate(float(value), low, high, n)
