"""How good an adapter is on queries that were kept back: alignment, own-response retrieval, reconstruction."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Evaluation(NamedTuple):
    """Figures over the held-out queries.

    Attributes:
        cosine: mean cosine between an embedding and its target.
        own_response: share of queries whose nearest target among all held-out ones is their own.
        reconstruction: cross-entropy in nats a token on a fixed part of them; ``None`` where it was not computed.
    """

    cosine: float
    own_response: float
    reconstruction: float | None


def evaluate(vectors: Tensor, targets: Tensor, reconstruction: float | None = None) -> Evaluation:
    """Compare (n, D) embeddings with their (n, D) targets.

    Two queries with the very same target (the same refusal, say) both count as found.
    """
    similarity = functional.normalize(vectors, dim=-1) @ functional.normalize(targets, dim=-1).T
    own = similarity.diagonal()
    best = similarity.amax(1)
    return Evaluation(float(own.mean()), float(torch.isclose(own, best, atol=1e-5).float().mean()), reconstruction)
