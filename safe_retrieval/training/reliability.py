"""How far refusal probabilities can be taken at their word: of queries given 0.5, does one half refuse?

Both figures compare what was foretold with what came, on rows that neither the head nor its calibration had seen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 10
"""Of the calibration error, equal in count: most queries are answered, and bins of equal width would be empty."""

NEAR_HALF = (0.4, 0.6)
"""Foretold probabilities that count as one half: where a gate usually stands."""


class Calibration(NamedTuple):
    """Foretold probabilities against what came.

    Attributes:
        error: expected calibration error in [0, 1]: the mean over rows of the distance, in their bin, between the mean
            foretold probability and the share that refused.
        near_half: how many rows were foretold a probability within :data:`NEAR_HALF`.
        foretold_near_half: their mean foretold probability; ``None`` without such rows.
        refused_near_half: the share of them that refused; ``None`` without such rows.
    """

    error: float
    near_half: int
    foretold_near_half: float | None
    refused_near_half: float | None


def calibration_of(foretold: NDArray[np.float64], came: NDArray[np.float64]) -> Calibration:
    """Measure n foretold probabilities.

    The expected calibration error is that of Naeini et al. (2015), with bins of equal count instead of equal width.

    Args:
        foretold: (n,) in [0, 1], n at least 1, each by a fit that had not seen its row.
        came: (n,) in [0, 1]: 1 where the answer refused and 0 where it did not, or a judge's probability of it.
    """
    order = np.argsort(foretold, kind="stable")
    bins = [rows for rows in np.array_split(order, BINS) if len(rows)]
    apart = sum(len(rows) * abs(foretold[rows].mean() - came[rows].mean()) for rows in bins)
    near = (foretold >= NEAR_HALF[0]) & (foretold <= NEAR_HALF[1])
    half = (float(foretold[near].mean()), float(came[near].mean())) if near.any() else (None, None)
    return Calibration(float(apart / len(foretold)), int(near.sum()), *half)


def rounded(calibration: Calibration) -> dict[str, float | int | None]:
    """As an adapter's record holds it, to four digits."""
    return {
        name: round(value, 4) if isinstance(value, float) else value for name, value in calibration._asdict().items()
    }
