"""Vectors by position: what may go in, and the one order in which every index here ranks.

Two indexes agree in ids *and* scores only if both rank by the same numbers. Neither a BLAS product nor FAISS gives the
same last bits for the same pair of vectors in every batch, so both only nominate candidates, with a margin that covers
their rounding, and :func:`rank` scores those again in float64, one pair at a time.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.encoder.texts import readable
from safe_retrieval.errors import InputError
from safe_retrieval.types import FloatMatrix, FloatVector

NORM_TOLERANCE = 1e-3
"""How far a vector's length may be from one; covers encoders that compute in bfloat16 and normalise in float32."""


class Ranking(NamedTuple):
    """The best positions for one query.

    Attributes:
        positions: (m,) int64, best first, ties by position.
        scores: (m,) float32, inner products.
    """

    positions: NDArray[np.int64]
    scores: FloatVector


class Selection:
    """Which positions a search may find: those that a filter allows and nobody deleted.

    Args:
        mask: (n,) bool, one value for each position; not to be changed afterwards.
    """

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self.mask = mask
        self.count = int(np.count_nonzero(mask))

    @cached_property
    def bits(self) -> NDArray[np.uint8]:
        """The mask as FAISS's bitmap wants it, 8 positions a byte, the lowest bit first."""
        return np.packbits(self.mask, bitorder="little")


def check_vectors(vectors: NDArray[Any], dimension: int, *, what: str = "vector") -> FloatMatrix:
    """Refuse what FAISS would take in silence: another type or shape, NaN, infinity, zero, or another length than one.

    Args:
        vectors: expected (n, dimension) float32 of unit norm.
        dimension: of the index.
        what: how a row is called in messages.

    Returns:
        The same vectors, C-contiguous.

    Raises:
        InputError: the message names the first faulty row.
    """
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.shape[1] != dimension:
        found = f"shape {vectors.shape}" if isinstance(vectors, np.ndarray) else type(vectors).__name__
        raise InputError(f"expected a NumPy array of shape (n, {dimension}), got {found}")
    if vectors.dtype != np.float32:
        raise InputError(f"expected float32, got {vectors.dtype}; convert with vectors.astype(numpy.float32)")
    # Accumulated in float64: the square of a huge float32 would overflow and look like infinity.
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    if not np.all(np.abs(norms - 1) <= NORM_TOLERANCE):  # NaN is no length either
        _refuse_norms(norms, what)
    return np.ascontiguousarray(vectors)


def _refuse_norms(norms: NDArray[np.float64], what: str) -> None:
    """Say which row is at fault: the first one that has no length, then the first without direction, then the rest."""
    for faulty, message in (
        (~np.isfinite(norms), "{} {} holds NaN or infinity; leave it out, or mend the encoder"),
        (norms == 0, "{} {} is all zeros and has no direction; leave it out, or mend the encoder"),
        (
            np.abs(norms - 1) > NORM_TOLERANCE,
            "expected vectors of length one, {} {} is not; divide each row by its norm",
        ),
    ):
        rows = np.flatnonzero(faulty)
        if rows.size:
            raise InputError(message.format(what, rows[0]))


def one_row(vector: NDArray[Any]) -> NDArray[Any]:
    """A vector (d,) as the only row of a matrix (1, d); its type and values are not checked here.

    Raises:
        InputError: it is no array of one dimension.
    """
    if not isinstance(vector, np.ndarray) or vector.ndim != 1:
        found = f"shape {vector.shape}" if isinstance(vector, np.ndarray) else type(vector).__name__
        raise InputError(f"expected one vector as a NumPy array of shape (d,), got {found}")
    return vector[None]


def check_k(k: int) -> int:
    """Refuse a number of hits below 1.

    Raises:
        InputError: ``k`` is no whole number, or below 1.
    """
    try:
        whole = operator.index(k)
    except TypeError as error:
        raise InputError(f"expected a whole number as k, got {k!r}") from error
    if whole < 1:
        raise InputError(f"k must be at least 1, got {k}")
    return whole


def rounding_margin(dimension: int) -> float:
    """How far apart two float32 inner products of unit vectors can be whose true values are equal.

    The error of one product of length d is about d times the unit round-off at most (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1), in whatever order the terms are added. The unit round-off is half of eps, two
    products stand against each other, and the bound is doubled to spare.
    """
    return 2 * dimension * float(np.finfo(np.float32).eps)


def rank(query: FloatVector, positions: NDArray[np.int64], vectors: FloatMatrix, k: int) -> Ranking:
    """Score candidates again and order them.

    Args:
        query: (d,) float32.
        positions: (c,) positions of the candidates, in any order.
        vectors: (c, d) float32, their vectors.
        k: how many to keep.

    Returns:
        At most ``k`` candidates by falling score, ties by rising position. Scores are summed in float64 and rounded
        once, so equal vectors have equal scores whatever stands beside them.
    """
    return ordered(positions, score(query, vectors), k)


def score(query: FloatVector, vectors: FloatMatrix) -> FloatVector:
    """Inner products of a query (d,) and vectors (c, d); (c,) float32, summed in float64 and rounded once."""
    # Product and row sum, not a matrix product: BLAS adds up differently at the edge of a block.
    scores: FloatVector = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1).astype(np.float32)
    return scores


def ordered(positions: NDArray[np.int64], scores: FloatVector, k: int | None = None) -> Ranking:
    """Positions by falling score, ties by rising position; the best ``k``, or all."""
    best = np.lexsort((positions, -scores))[:k]
    return Ranking(positions[best], scores[best])


def check_ids(ids: Iterable[object]) -> list[str]:
    """Ids as a list of distinct, non-empty strings.

    Raises:
        InputError: one is no string, is empty, cannot be written as UTF-8, or comes twice.
    """
    refuse_one_string(ids)
    checked: dict[str, None] = {}
    for position, identifier in enumerate(ids):
        if not isinstance(identifier, str):
            raise InputError(f"id {position} is {type(identifier).__name__}, expected str; ids are strings here")
        if not is_valid_id(identifier):
            raise InputError(f"id {position} ({identifier!r}) is empty, or holds a NUL or a lone surrogate; rename it")
        if identifier in checked:
            raise InputError(f"id {identifier!r} comes twice; ids are unique")
        checked[identifier] = None
    return list(checked)


def refuse_one_string(ids: object) -> None:
    """Refuse a string in the place of a list of ids, whose characters would be taken for ids.

    Raises:
        InputError: it is one.
    """
    if isinstance(ids, str | bytes):
        raise InputError(f"expected a list of ids, got one {type(ids).__name__}; wrap it in a list")


def is_valid_id(identifier: str) -> bool:
    """Whether an id can be stored and found again: not empty, no NUL, no lone surrogate."""
    return bool(identifier) and readable(identifier) == identifier
