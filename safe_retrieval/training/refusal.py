"""The refusal head: fitted on the verdicts of the backbone's own responses, or on another model's probabilities.

For its own responses there are two candidates: the log-odds of the first answer token alone (training-free but for its
calibration), and those log-odds together with the state at the end of the prompt (a logistic regression with a strong
penalty). The one with the higher cross-validated AUROC is kept, the simpler one where they are level. A strong penalty
pulls probabilities towards the base rate, so the scores that cross-validation gave to rows it had not seen are mapped
to probabilities (Platt 1999), and that map becomes part of the head. Labelling by where a query came from instead of by
the model's verdict does not work: it learns style.

Another model's probabilities say more than its verdicts do: how sure it is. There the head is a ridge regression on
their log-odds, calibrated in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from safe_retrieval.encoder.adapter import RefusalFeatures, RefusalHead
from safe_retrieval.errors import TrainingError
from safe_retrieval.metrics.auroc import auroc
from safe_retrieval.training.reliability import Calibration, calibration_of

if TYPE_CHECKING:
    from safe_retrieval.backbone.tokenizer import TextTokenizer

FOLDS = 5
"""Folds of cross-validation, and so the fewest responses of either kind."""

_PENALTY = 0.01  # C of the logistic regression on the state (docs/method.md)
_FREE = 1e6  # C of the calibration alone: two numbers on thousands of rows need no penalty
_LEVEL = 0.002  # AUROC by which the trained head must be better to be worth its weights
_PENALTIES = (0.02, 0.06, 0.2, 0.6, 2.0)  # of the regression on log-odds, as shares of the number of rows
_SURE = 1e-3  # how much surer a judge is than one in a thousand is not learned


THRESHOLDS = (0.5, 0.75, 0.9)
"""Of a gate, for which a run's record says what it would do to the training queries."""


class FittedRefusal(NamedTuple):
    """A calibrated head, which candidate it is, and what cross-validation says of it.

    Attributes:
        head: the head, fitted on all rows.
        method: which candidate.
        auroc: of the rows' scores, each by a fit that had not seen its row.
        probabilities: (n,) float64 in [0, 1], those scores as refusal probabilities.
        calibration: how far such probabilities can be taken at their word; measured with maps from scores to
            probabilities that had not seen the row either.
    """

    head: RefusalHead
    method: str
    auroc: float
    probabilities: NDArray[np.float64]
    calibration: Calibration


def fit_refusal(features: RefusalFeatures, refused: NDArray[np.bool_], first_tokens: tuple[int, ...]) -> FittedRefusal:
    """Fit both candidates and keep the better one.

    Args:
        features: of n prompts.
        refused: (n,) verdicts of the backbone's own responses.
        first_tokens: ids that start a refusal.

    Raises:
        TrainingError: as :func:`require_both_verdicts`.
    """
    require_both_verdicts(refused)
    first = features.first_token.double().cpu().numpy()[:, None]
    state = features.state.double().cpu().numpy()
    mean, deviation = state.mean(0), state.std(0) + 1e-6
    free = _fit(first, refused, penalty=_FREE)
    trained = _fit(np.hstack((first, (state - mean) / deviation)), refused, penalty=_PENALTY)
    head = RefusalHead(state.shape[1], first_tokens)
    if trained.auroc < free.auroc + _LEVEL:
        _fill(head, scale=free.coefficients[0], bias=free.bias)
        method = "first answer token, calibrated"
        return FittedRefusal(head, method, free.auroc, free.probabilities, free.calibration)
    scale, weight = trained.coefficients[0], trained.coefficients[1:]
    _fill(head, scale=scale, weight=weight, mean=mean, deviation=deviation, bias=trained.bias)
    method = "first answer token and prompt state, logistic regression, calibrated"
    return FittedRefusal(head, method, trained.auroc, trained.probabilities, trained.calibration)


def fit_foreseen(
    features: RefusalFeatures, probabilities: NDArray[np.float64], first_tokens: tuple[int, ...]
) -> FittedRefusal:
    """Fit a head that foresees another model's refusal probabilities; the penalty is chosen by cross-validation.

    Args:
        features: of n prompts, in an order that does not depend on what they are.
        probabilities: (n,) of the other model, in [0, 1].
        first_tokens: ids that start a refusal.

    Raises:
        TrainingError: as :func:`require_both_verdicts`, one half and more being a refusal.
    """
    refused = probabilities >= 0.5
    require_both_verdicts(refused)
    first = features.first_token.double().cpu().numpy()[:, None]
    raw = np.hstack((first, features.state.double().cpu().numpy()))
    mean, deviation = raw.mean(0), raw.std(0) + 1e-6
    x, odds = (raw - mean) / deviation, _log_odds(probabilities)
    by_penalty = {penalty: _foreseen(x, odds, penalty=penalty) for penalty in _PENALTIES}
    penalty = min(by_penalty, key=lambda one: float(np.square(by_penalty[one] - odds).mean()))
    scores = by_penalty[penalty]
    slope, shift = _calibration(scores, probabilities)
    coefficients, bias = _ridge(x, odds, penalty=penalty)
    head = RefusalHead(raw.shape[1] - 1, first_tokens)
    scale = slope * coefficients[0] / deviation[0]
    shifted = slope * bias + shift - scale * mean[0]  # the head reads the first token's log-odds as they are
    _fill(head, scale=scale, weight=slope * coefficients[1:], mean=mean[1:], deviation=deviation[1:], bias=shifted)
    method = "first answer token and prompt state, ridge regression on a judge's log-odds, calibrated"
    calibration = _reliability(_folds_by_position(len(odds)), scores, probabilities)
    return FittedRefusal(
        head, method, auroc(scores[refused], scores[~refused]), _sigmoid(slope * scores + shift), calibration
    )


def gate_shares(
    probabilities: NDArray[np.float64], refused: NDArray[np.bool_], sources: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What a gate would hold back, for each of :data:`THRESHOLDS`.

    Args:
        probabilities: (n,) refusal probabilities of queries, by fits that had not seen them.
        refused: (n,) whether the backbone's own response refuses.
        sources: (n,) where each query came from.

    Returns:
        By threshold: ``refused`` and ``answered``, the shares of either kind that are held back, and
        ``answered_by_source``, the latter within each source.
    """
    origin = np.asarray(sources)
    shares: dict[str, dict[str, Any]] = {}
    for threshold in THRESHOLDS:
        held = probabilities >= threshold
        by_source = {source: ~refused & (origin == source) for source in sorted(set(sources))}
        shares[f"{threshold:g}"] = {
            "refused": round(float(held[refused].mean()), 4),
            "answered": round(float(held[~refused].mean()), 4),
            "answered_by_source": {
                source: round(float(held[rows].mean()), 4) for source, rows in by_source.items() if rows.any()
            },
        }
    return shares


def require_both_verdicts(refused: NDArray[np.bool_]) -> None:
    """Check that a refusal head can be fitted, as early as the verdicts are known.

    Raises:
        TrainingError: fewer than :data:`FOLDS` responses of one kind, so nothing can be validated.
    """
    counts = (int(refused.sum()), int((~refused).sum()))
    if min(counts) < FOLDS:
        raise TrainingError(
            f"expected at least {FOLDS} refusing and {FOLDS} answering responses, got {counts[0]} and {counts[1]}; "
            "add queries that the backbone refuses (or another policy)"
        )


def refusal_tokens(tokenizer: TextTokenizer) -> tuple[int, ...]:
    """Ids of the tokens that a refusal starts with: "I" (am sorry, cannot) and "Sorry".

    A word counts only if it is one token: the first piece of a longer one starts many other words as well.
    """
    whole = [ids[0] for ids in tokenizer.encode_text(["I", "Sorry"], max_tokens=2) if len(ids) == 1]
    if not whole:
        raise TrainingError('expected a tokenizer with a token "I" or "Sorry", where refusals start; it has neither')
    return tuple(dict.fromkeys(whole))


class _Logistic(NamedTuple):
    """Calibrated log-odds ``x @ coefficients + bias``, and of the rows outside of their fold's fit AUROC,
    probabilities and their calibration."""

    coefficients: NDArray[np.float64]
    bias: float
    auroc: float
    probabilities: NDArray[np.float64]
    calibration: Calibration


def _fit(x: NDArray[np.float64], y: NDArray[np.bool_], *, penalty: float) -> _Logistic:
    fold = _folds_by_verdict(y)
    scores = _out_of_fold(fold, x, lambda inside: _logistic(x[inside], y[inside], penalty=penalty))
    slopes, shift = _logistic(scores[:, None], y, penalty=_FREE)
    coefficients, bias = _logistic(x, y, penalty=penalty)
    return _Logistic(
        slopes[0] * coefficients,
        float(slopes[0] * bias + shift),
        auroc(scores[y], scores[~y]),
        _sigmoid(slopes[0] * scores + shift),
        _reliability(fold, scores, y.astype(np.float64)),
    )


def _logistic(x: NDArray[np.float64], y: NDArray[np.bool_], *, penalty: float) -> tuple[NDArray[np.float64], float]:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=penalty, max_iter=2000).fit(x, y)
    return fitted.coef_[0], float(fitted.intercept_[0])


def _folds_by_verdict(y: NDArray[np.bool_]) -> NDArray[np.int_]:
    """The fold of each row, by its position among those of its class, so that it is repeatable."""
    fold = np.empty(len(y), dtype=int)
    for kind in (True, False):
        rows = np.flatnonzero(y == kind)
        fold[rows] = np.arange(len(rows)) % FOLDS
    return fold


def _folds_by_position(count: int) -> NDArray[np.int_]:
    return np.arange(count) % FOLDS


def _out_of_fold(
    fold: NDArray[np.int_],
    x: NDArray[np.float64],
    fit: Callable[[NDArray[np.bool_]], tuple[NDArray[np.float64], float]],
) -> NDArray[np.float64]:
    """Scores of all rows, each by a linear fit on the rows outside of its fold."""
    scores = np.empty(len(x))
    for held_out in range(FOLDS):
        inside = fold != held_out
        coefficients, bias = fit(inside)
        scores[~inside] = x[~inside] @ coefficients + bias
    return scores


def _reliability(
    fold: NDArray[np.int_], scores: NDArray[np.float64], probabilities: NDArray[np.float64]
) -> Calibration:
    """Of scores by fits that had not seen their row, once Platt's map has not seen it either.

    The map has two numbers, but it is the map that is judged here.
    """

    def without(inside: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
        slope, shift = _calibration(scores[inside], probabilities[inside])
        return np.array([slope]), shift

    return calibration_of(_sigmoid(_out_of_fold(fold, scores[:, None], without)), probabilities)


def _sigmoid(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-odds))


def _log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(probabilities, _SURE, 1 - _SURE)
    return np.log(inside / (1 - inside))


def _foreseen(x: NDArray[np.float64], odds: NDArray[np.float64], *, penalty: float) -> NDArray[np.float64]:
    """Predictions for all rows, each by a fit without its fold."""
    fold = _folds_by_position(len(odds))
    return _out_of_fold(fold, x, lambda inside: _ridge(x[inside], odds[inside], penalty=penalty))


def _ridge(x: NDArray[np.float64], odds: NDArray[np.float64], *, penalty: float) -> tuple[NDArray[np.float64], float]:
    from sklearn.linear_model import Ridge

    fitted = Ridge(alpha=penalty * len(x)).fit(x, odds)
    return fitted.coef_, float(fitted.intercept_)


def _calibration(scores: NDArray[np.float64], probabilities: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and shift of Platt's map onto probabilities instead of verdicts: each row counts for both, by its share."""
    from sklearn.linear_model import LogisticRegression

    twice = np.concatenate((scores, scores))[:, None]
    verdicts = np.arange(len(twice)) < len(scores)
    weights = np.concatenate((probabilities, 1 - probabilities))
    fitted = LogisticRegression(C=_FREE, max_iter=2000).fit(twice, verdicts, sample_weight=weights)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def _fill(head: RefusalHead, **values: float | NDArray[np.float64]) -> None:
    for name, value in values.items():
        getattr(head, name).copy_(torch.as_tensor(value, dtype=torch.float32))
