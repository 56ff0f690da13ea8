"""The refusal head: fitted on the verdicts of the backbone's own responses.

Two candidates, both calibrated by maximum likelihood: the log-odds of the first answer token alone (training-free but
for Platt's scale and bias), and those log-odds together with the state at the end of the prompt (a logistic regression
with a strong penalty). The one with the higher cross-validated AUROC is kept, the simpler one where they are level.
Labelling by where a query came from instead of by the model's verdict does not work: it learns style.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from safe_retrieval.encoder.adapter import RefusalFeatures, RefusalHead
from safe_retrieval.errors import TrainingError
from safe_retrieval.metrics.auroc import auroc

if TYPE_CHECKING:
    from safe_retrieval.backbone.tokenizer import TextTokenizer

_FOLDS = 5
_PENALTY = 0.01  # C of the logistic regression on the state (docs/method.md)
_FREE = 1e6  # C of the calibration alone: two numbers on thousands of rows need no penalty
_LEVEL = 0.002  # AUROC by which the trained head must be better to be worth its weights


class FittedRefusal(NamedTuple):
    """A calibrated head, which candidate it is, and its AUROC by cross-validation."""

    head: RefusalHead
    method: str
    auroc: float


def fit_refusal(features: RefusalFeatures, refused: NDArray[np.bool_], first_tokens: tuple[int, ...]) -> FittedRefusal:
    """Fit both candidates and keep the better one.

    Args:
        features: of n prompts.
        refused: (n,) verdicts of the backbone's own responses.
        first_tokens: ids that start a refusal.

    Raises:
        TrainingError: fewer than ``5`` responses of one kind, so nothing can be validated.
    """
    counts = (int(refused.sum()), int((~refused).sum()))
    if min(counts) < _FOLDS:
        raise TrainingError(
            f"expected at least {_FOLDS} refusing and {_FOLDS} answering responses, got {counts[0]} and {counts[1]}; "
            "add queries that the backbone refuses (or another policy)"
        )
    first = features.first_token.double().cpu().numpy()[:, None]
    state = features.state.double().cpu().numpy()
    mean, deviation = state.mean(0), state.std(0) + 1e-6
    both = np.hstack((first, (state - mean) / deviation))
    free = _cross_validated(first, refused, penalty=_FREE)
    trained = _cross_validated(both, refused, penalty=_PENALTY)
    head = RefusalHead(state.shape[1], first_tokens)
    if trained < free + _LEVEL:
        coefficients, bias = _logistic(first, refused, penalty=_FREE)
        _fill(head, scale=coefficients[0], bias=bias)
        return FittedRefusal(head, "first answer token, calibrated", free)
    coefficients, bias = _logistic(both, refused, penalty=_PENALTY)
    _fill(head, scale=coefficients[0], weight=coefficients[1:], mean=mean, deviation=deviation, bias=bias)
    return FittedRefusal(head, "first answer token and prompt state, logistic regression", trained)


def refusal_tokens(tokenizer: TextTokenizer) -> tuple[int, ...]:
    """Ids of the tokens that a refusal starts with: "I" (am sorry, cannot) and "Sorry"."""
    return tuple(dict.fromkeys(tokenizer.encode_text([word], max_tokens=1)[0][0] for word in ("I", "Sorry")))


def _logistic(x: NDArray[np.float64], y: NDArray[np.bool_], *, penalty: float) -> tuple[NDArray[np.float64], float]:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=penalty, max_iter=2000).fit(x, y)
    return fitted.coef_[0], float(fitted.intercept_[0])


def _cross_validated(x: NDArray[np.float64], y: NDArray[np.bool_], *, penalty: float) -> float:
    """AUROC over held-out folds, scores pooled; folds by position within each class, so that it is repeatable."""
    fold = np.empty(len(y), dtype=int)
    for kind in (True, False):
        rows = np.flatnonzero(y == kind)
        fold[rows] = np.arange(len(rows)) % _FOLDS
    scores = np.empty(len(y))
    for held_out in range(_FOLDS):
        inside = fold != held_out
        coefficients, bias = _logistic(x[inside], y[inside], penalty=penalty)
        scores[~inside] = x[~inside] @ coefficients + bias
    return auroc(scores[y], scores[~y])


def _fill(head: RefusalHead, **values: float | NDArray[np.float64]) -> None:
    for name, value in values.items():
        getattr(head, name).copy_(torch.as_tensor(value, dtype=torch.float32))
