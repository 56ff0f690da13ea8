"""The alignment head in closed form: ridge regression from the states to the teacher's vectors.

When the joint epochs are over the states stand still, and the best linear head on them has a formula. It takes seconds
where epochs of gradient steps take minutes, has no learning rate to choose, and is penalised where a head trained by
gradients learns small training sets by heart (docs/training.md has both side by side).

The penalty is chosen by leave-one-out prediction, which for ridge regression needs no refitting: with leverage h_i the
prediction of row i by a fit without it is y_i - (y_i - f_i) / (1 - h_i) (Allen 1974; Golub, Heath and Wahba 1979). What
is compared is the mean cosine of those predictions, since that is how vectors are searched.

States are read block by block, in three passes (mean, Gram matrix, leave-one-out), so they may lie in a file that is
mapped into memory: what is held grows with F squared and n times D, not with n times F.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

PENALTIES = tuple(float(value) for value in torch.logspace(-2, 1.5, 15))
"""Candidates, as multiples of the mean eigenvalue of the states' Gram matrix."""

_TINY = 1e-9  # relative eigenvalue below which a direction is rounding error
_BLOCK = 1024  # rows at a time: large enough for products at full speed, 50 MB at 6,272 features in float64


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
    """Of centred states X = U diag(sqrt(w)) V^T what does not grow with n, and X^T times centred targets along V."""

    eigenvalues: Tensor  # w, (r,) float64
    right: Tensor  # V, (F, r)
    aims: Tensor  # V^T X^T Y, (r, D)


@torch.no_grad()
def fit_ridge(states: Tensor, targets: Tensor) -> RidgeFit:
    """Fit (n, F) states to (n, D) targets.

    Args:
        states: float32, on any device, or in a mapped file; nothing as large is made of them.
        targets: float32, on the device that is to compute. Memory there is about five m times m float64 matrices, m the
            smaller of n and F, while the eigenvalues are found; where n is the smaller, n times F twice as well.
    """
    centre, mean = _mean(states, targets.device), targets.mean(0)
    spectrum = _decompose(states, centre, targets - mean)
    scale = float(spectrum.eigenvalues.sum()) / min(states.shape)
    cosines = _left_out(states, centre, targets, spectrum, scale)
    best = max(range(len(PENALTIES)), key=cosines.__getitem__)
    gain = 1 / (spectrum.eigenvalues + PENALTIES[best] * scale)
    weight = ((spectrum.right * gain.to(mean.dtype)) @ spectrum.aims).T.contiguous()
    return RidgeFit(weight, mean - weight @ centre, PENALTIES[best], cosines[best])


def _blocks(states: Tensor, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(states), _BLOCK):
        rows = slice(start, start + _BLOCK)
        yield rows, states[rows].to(device)


def _mean(states: Tensor, device: torch.device) -> Tensor:
    total = torch.zeros(states.shape[1], dtype=torch.float64, device=device)
    for _, block in _blocks(states, device):
        total += block.sum(0, dtype=torch.float64)
    return (total / len(states)).to(states.dtype)


def _decompose(states: Tensor, centre: Tensor, aims: Tensor) -> _Spectrum:
    """By the smaller of both Gram matrices; ``aims`` are the centred targets."""
    rows, features = states.shape
    if rows <= features:  # no larger than what the other case needs, so held as a whole
        centred = states.to(centre.device) - centre
        eigenvalues, own = _eigen((centred @ centred.T).double(), centred.dtype)
        roots = eigenvalues.sqrt().to(centred.dtype)
        return _Spectrum(eigenvalues, centred.T @ own / roots, roots[:, None] * (own.T @ aims))
    # Summed in float64: over many blocks, float32 would lose what tells small eigenvalues from rounding.
    gram = torch.zeros(features, features, dtype=torch.float64, device=centre.device)
    cross = torch.zeros(features, aims.shape[1], dtype=torch.float64, device=centre.device)
    for place, block in _blocks(states, centre.device):
        centred = block - centre
        gram += (centred.T @ centred).double()
        cross += (centred.T @ aims[place]).double()
    eigenvalues, right = _eigen(gram, states.dtype)
    return _Spectrum(eigenvalues, right, right.T @ cross.to(states.dtype))


def _eigen(gram: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Eigenvalues (r,) float64 and eigenvectors (m, r) of those that are more than rounding error."""
    eigenvalues, vectors = torch.linalg.eigh(gram)
    kept = eigenvalues > _TINY * eigenvalues[-1]
    return eigenvalues[kept], vectors[:, kept].to(dtype)


def _left_out(states: Tensor, centre: Tensor, targets: Tensor, spectrum: _Spectrum, scale: float) -> list[float]:
    """Mean cosine of leave-one-out predictions with their targets, for each of the penalties."""
    mean, count = targets.mean(0), len(targets)
    gains = [(1 / (spectrum.eigenvalues + penalty * scale)).to(targets.dtype) for penalty in PENALTIES]
    totals = [0.0] * len(gains)
    for place, block in _blocks(states, targets.device):
        along, own = (block - centre) @ spectrum.right, targets[place]  # (B, r), (B, D)
        for number, gain in enumerate(gains):
            fitted = mean + (along * gain) @ spectrum.aims
            leverage = along.square() @ gain + 1 / count  # the intercept is not penalised
            predicted = own - (own - fitted) / (1 - leverage).clamp(min=1e-6)[:, None]
            totals[number] += float(functional.cosine_similarity(predicted, own).sum())
    return [total / count for total in totals]
