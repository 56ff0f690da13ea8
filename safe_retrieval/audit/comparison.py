"""An arm against the baseline on the same queries: how much safer, how much less useful, and is that just weakness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.audit.probes import ProbeKind
from safe_retrieval.audit.results import HEADLINE, Comparison, MetricChange, Selectivity
from safe_retrieval.audit.scoring import ArmRun
from safe_retrieval.metrics import (
    Change,
    Estimate,
    Qrels,
    Run,
    harm_per_query,
    mcnemar,
    paired_bootstrap,
    recall_per_query,
)
from safe_retrieval.metrics.statistics import percentile_interval, resampled_means

_SELECTIVITY_RESAMPLES = 2_000


def compare(baseline: ArmRun, arm: ArmRun, *, depth: int, seed: int) -> Comparison:
    """Compare ``arm`` with ``baseline`` on the queries that both were asked.

    Args:
        baseline: usually the ``input`` arm.
        arm: the other one.
        depth: how many passages each was asked for; the deepest cut-off that selectivity can look at.
        seed: of the bootstraps.
    """
    own = _shared(baseline.qrels(ProbeKind.HARMFUL), arm.qrels(ProbeKind.HARMFUL))
    benign = _shared(baseline.qrels(ProbeKind.BENIGN), arm.qrels(ProbeKind.BENIGN))
    first, second = baseline.ranked, arm.ranked
    return Comparison(
        baseline=baseline.name,
        harm=_change(harm_per_query(first, own, k=HEADLINE), harm_per_query(second, own, k=HEADLINE), seed),
        benign_recall=_change(
            recall_per_query(first, benign, k=HEADLINE), recall_per_query(second, benign, k=HEADLINE), seed
        ),
        selectivity=_selectivity(first, second, own, benign, depth=depth, seed=seed),
    )


def _shared(first: Qrels, second: Qrels) -> Qrels:
    return {query: grades for query, grades in first.items() if query in second}


def _change(first: Mapping[str, float], second: Mapping[str, float], seed: int) -> MetricChange | None:
    if not first:
        return None
    before, after = list(first.values()), [second[query] for query in first]
    graded = not {*before, *after} <= {0.0, 1.0}
    return MetricChange(
        relative=paired_bootstrap(before, after, change=Change.RELATIVE, seed=seed) if any(before) else None,
        difference=paired_bootstrap(before, after, seed=seed),
        test=None if graded else mcnemar(before, after),
    )


def _selectivity(baseline: Run, arm: Run, own: Qrels, benign: Qrels, *, depth: int, seed: int) -> Selectivity | None:
    """Harm of the arm minus harm of the baseline at the cut-off where both recall the same share of benign answers.

    The baseline's curves are taken at k = 0 (nothing found, nothing handed over), 1, ... ``depth`` and joined by
    straight lines. An arm that recalls more than the baseline at its deepest is matched with that deepest cut-off,
    which understates the arm. Harmful and benign queries are resampled apart.
    """
    cutoffs = range(1, depth + 1)
    harm_rows = _columns([harm_per_query(baseline, own, k=k) for k in cutoffs], harm_per_query(arm, own, k=HEADLINE))
    recall_rows = _columns(
        [recall_per_query(baseline, benign, k=k) for k in cutoffs], recall_per_query(arm, benign, k=HEADLINE)
    )
    if harm_rows is None or recall_rows is None:
        return None
    value, cutoff = _matched(harm_rows.mean(axis=0), recall_rows.mean(axis=0))
    harm_draws = resampled_means(harm_rows, seed=seed, resamples=_SELECTIVITY_RESAMPLES)
    recall_draws = resampled_means(recall_rows, seed=seed + 1, resamples=_SELECTIVITY_RESAMPLES)
    draws = [_matched(harm, recall)[0] for harm, recall in zip(harm_draws, recall_draws, strict=True)]
    low, high = percentile_interval(np.array(draws))
    return Selectivity(Estimate(value, low, high, len(harm_rows) + len(recall_rows)), cutoff)


def _columns(curve: Sequence[Mapping[str, float]], arm: Mapping[str, float]) -> NDArray[np.float64] | None:
    """(n, depth + 2): the baseline at 0, 1, ... depth, and last the arm."""
    if not arm:
        return None
    columns = [[values[query] for query in arm] for values in curve]
    return np.column_stack([np.zeros(len(arm)), *columns, list(arm.values())])


def _matched(harm: NDArray[np.float64], recall: NDArray[np.float64]) -> tuple[float, float]:
    """Difference in harm and the cut-off, from one row of means as :func:`_columns` lays them out."""
    # the first cut-off of a plateau: the baseline is not charged for passages it need not have shown
    levels, first = np.unique(recall[:-1], return_index=True)
    cutoff = float(np.interp(recall[-1], levels, first.astype(np.float64)))
    return float(harm[-1] - np.interp(recall[-1], levels, harm[first])), cutoff
