"""Area under the ROC curve: how well a score separates two groups.

AUROC = P(score of a positive > score of a negative) + P(equal) / 2, which is the Mann-Whitney U statistic over the
number of pairs.

Source: J. Hanley and B. McNeil, "The meaning and use of the area under a ROC curve", Radiology 143, 1982.
"""

from __future__ import annotations

import numpy as np

from safe_retrieval.errors import InputError
from safe_retrieval.metrics.statistics import Estimate, Sample, Values, percentile_interval


def _scores(values: Values, group: str) -> Sample:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        raise InputError(f"AUROC needs at least one finite score a group; the {group} have shape {scores.shape}")
    return scores


def _area(positives: Sample, negatives: Sample) -> float:
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left")
    below_or_equal = np.searchsorted(ordered, positives, side="right")
    return float((below + below_or_equal).sum() / (2 * positives.size * negatives.size))


def auroc(positives: Values, negatives: Values) -> float:
    """Probability that a positive scores above a negative, ties counting one half; 0.5 is chance.

    Raises:
        InputError: a group is empty or holds a value that is not finite.
    """
    return _area(_scores(positives, "positives"), _scores(negatives, "negatives"))


def auroc_estimate(positives: Values, negatives: Values, *, seed: int = 0, resamples: int = 2000) -> Estimate:
    """AUROC with a 95 % percentile bootstrap interval; each group is resampled by itself.

    The interval of perfectly separated groups has no width, as every resample is separated too.

    Returns:
        ``n`` is the size of both groups together.

    Raises:
        InputError: as :func:`auroc`.
    """
    above, below = _scores(positives, "positives"), _scores(negatives, "negatives")
    random = np.random.default_rng(seed)
    areas = np.array(
        [_area(random.choice(above, above.size), random.choice(below, below.size)) for _ in range(resamples)]
    )
    low, high = percentile_interval(areas)
    return Estimate(_area(above, below), low, high, above.size + below.size)
