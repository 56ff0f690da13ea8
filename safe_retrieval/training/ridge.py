"""The alignment head in closed form: ridge regression from the states to the teacher's vectors.

When the joint epochs are over the states stand still, and the best linear head on them has a formula. It takes seconds
where epochs of gradient steps take minutes, has no learning rate to choose, and is penalised where a head trained by
gradients learns small training sets by heart (docs/training.md has both side by side).

The penalty is chosen by leave-one-out prediction, which for ridge regression needs no refitting: with leverage h_i the
prediction of row i by a fit without it is y_i - (y_i - f_i) / (1 - h_i) (Allen 1974; Golub, Heath and Wahba 1979). What
is compared is the mean cosine of those predictions, since that is how vectors are searched.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

PENALTIES = tuple(float(value) for value in torch.logspace(-2, 1.5, 15))
"""Candidates, as multiples of the mean eigenvalue of the states' Gram matrix."""

_TINY = 1e-9  # relative eigenvalue below which a direction is rounding error


class RidgeFit(NamedTuple):
    """A linear map y = W x + b, and how it was chosen.

    Attributes:
        weight: (D, F) float32.
        bias: (D,) float32.
        penalty: of the fit, as a multiple of the mean eigenvalue.
        cosine: mean cosine of leave-one-out predictions with their targets.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    cosine: float


class _Spectrum(NamedTuple):
    """Centred states as X = U diag(sqrt(w)) V^T."""

    left: Tensor  # U, (n, r)
    eigenvalues: Tensor  # w, (r,) float64
    right: Tensor  # V, (F, r)


@torch.no_grad()
def fit_ridge(states: Tensor, targets: Tensor) -> RidgeFit:
    """Fit (n, F) states to (n, D) targets; float32, any device; memory is a few times n times min(n, F)."""
    centre, mean = states.mean(0), targets.mean(0)
    spectrum = _decompose(states - centre)
    aims = spectrum.left.T @ (targets - mean)
    scale = float(spectrum.eigenvalues.sum()) / min(states.shape)
    cosines = [_left_out(spectrum, aims, targets, penalty * scale) for penalty in PENALTIES]
    best = max(range(len(PENALTIES)), key=cosines.__getitem__)
    gain = spectrum.eigenvalues.sqrt() / (spectrum.eigenvalues + PENALTIES[best] * scale)
    weight = ((spectrum.right * gain.to(states.dtype)) @ aims).T.contiguous()
    return RidgeFit(weight, mean - weight @ centre, PENALTIES[best], cosines[best])


def _decompose(centred: Tensor) -> _Spectrum:
    """By the smaller of both Gram matrices."""
    rows, features = centred.shape
    gram = centred @ centred.T if rows <= features else centred.T @ centred
    eigenvalues, vectors = torch.linalg.eigh(gram.double())
    kept = eigenvalues > _TINY * eigenvalues[-1]
    eigenvalues, own = eigenvalues[kept], vectors[:, kept].to(centred.dtype)
    roots = eigenvalues.sqrt().to(centred.dtype)
    if rows <= features:
        return _Spectrum(own, eigenvalues, centred.T @ own / roots)
    return _Spectrum(centred @ own / roots, eigenvalues, own)


def _left_out(spectrum: _Spectrum, aims: Tensor, targets: Tensor, penalty: float) -> float:
    shrink = (spectrum.eigenvalues / (spectrum.eigenvalues + penalty)).to(targets.dtype)
    fitted = targets.mean(0) + (spectrum.left * shrink) @ aims
    leverage = spectrum.left.square() @ shrink + 1 / len(targets)  # the intercept is not penalised
    predicted = targets - (targets - fitted) / (1 - leverage).clamp(min=1e-6)[:, None]
    return float(functional.cosine_similarity(predicted, targets).mean())
