"""Which kind of index fits a corpus, and why, in words.

The rules are FAISS's own guidelines, written down so that a reader can disagree: look at every vector as long as that
is fast; then a graph where memory is plentiful and little is deleted; then clusters; and codes where memory is short.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from safe_retrieval.errors import InputError
from safe_retrieval.index.factories import FLAT, Factory, parse_factory

_MOST_FLAT = 100_000
"""Vectors that are all looked at in some 10 ms at 384 dimensions on one core."""

_MOST_GRAPH = 2_000_000
"""Vectors beyond which building a graph takes hours on one machine."""


_TRAINING = 39
"""Vectors a cluster, below which FAISS warns."""


class Advice(NamedTuple):
    """A choice and its reasons.

    Attributes:
        factory: the kind of index.
        reasons: whole sentences.
    """

    factory: Factory
    reasons: tuple[str, ...]


def advise(count: int, dimension: int, *, memory: int | None = None, deletes: bool = False) -> Advice:
    """Choose a kind of index.

    Args:
        count: number of vectors.
        dimension: their length.
        memory: bytes that the vectors may take while they are searched; ``None`` is no bound.
        deletes: whether documents will be deleted or replaced often.

    Raises:
        InputError: a number is below 1.
    """
    if count < 1 or dimension < 1 or (memory is not None and memory < 1):
        raise InputError(f"expected numbers of at least 1, got {count} vectors of length {dimension}, memory {memory}")
    reasons = [f"{count:,} vectors of length {dimension} take {_size(4 * count * dimension)} as they are."]
    if memory is not None:
        reasons.append(f"They may take {_size(memory)} of memory.")
    for factory, reason in _candidates(count, deletes=deletes):
        needed = math.ceil(count * factory.bytes_per_vector(dimension))
        if memory is None or needed <= memory:
            return Advice(factory, (*reasons, f"{factory.name}: {reason}; it takes {_size(needed)}."))
        reasons.append(f"{factory.name} would take {_size(needed)}.")
    raise InputError(" ".join(reasons) + " Nothing fits: give more memory, or take an encoder with fewer dimensions")


def _candidates(count: int, *, deletes: bool) -> list[tuple[Factory, str]]:
    """Kinds from the best answers to the smallest memory."""

    def named(name: str, reason: str) -> tuple[Factory, str]:
        return parse_factory(name), reason

    found = []
    if count <= _MOST_FLAT:
        found.append(named(FLAT, "so few that looking at each of them is fast, and exact"))
    elif count <= _MOST_GRAPH and not deletes:
        found.append(named("HNSW32", "a graph finds nearly all neighbours in the least time, and memory allows it"))
    lists = lists_for(count)
    if not lists:
        found.append(named("SQ8", "a byte a dimension, all looked at; too few vectors for clusters"))
        found.append(named("RaBitQ", "a bit a dimension, all looked at; too few vectors for clusters"))
        return found
    why = f"{lists} clusters of some {count // lists:,} vectors, of which a search looks at the nearest"
    found.append(named(f"IVF{lists},Flat", why))
    found.append(named(f"IVF{lists},SQ8", f"{why}, and a byte a dimension"))
    found.append(named(f"IVF{lists},RaBitQ", f"{why}, and a bit a dimension"))
    return found


def lists_for(count: int) -> int:
    """Clusters for so many vectors: a power of two near 4 sqrt(n), FAISS's steps above a million; 0 where none pay."""
    if count < 20_000:
        return 0
    if count > 1_000_000:
        lists = 262_144 if count > 10_000_000 else 65_536
    else:
        lists = int(2 ** round(math.log2(4 * math.sqrt(count))))
    while _TRAINING * lists > count:
        lists //= 2
    return lists


def _size(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1_000:
            return f"{size:.3g} {unit}"
        size /= 1_000
    return f"{size:,.3g} GB" if size < 1_000 else f"{size:,.0f} GB"
