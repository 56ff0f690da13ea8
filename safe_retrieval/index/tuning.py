"""Which kind of index, searched how, is best for these very vectors: measured on a sample, not guessed.

Every sensible kind is made of the sample and asked with every sensible setting. Recall@10 is the share of the ten
nearest documents, by exact search, that are among the ten that were found; latency is the median of single queries on
this machine, exact scoring of candidates included; bytes are those of FAISS's file, which is what a search keeps in
memory. What no other combination beats in all three is the frontier, and the choice is made there.

A sample has fewer clusters than the whole. Settings are carried over by the share of clusters that is looked at.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import InputError
from safe_retrieval.index.advisor import lists_for
from safe_retrieval.index.approximate import ApproximateIndex
from safe_retrieval.index.base import VectorIndex
from safe_retrieval.index.factories import FLAT, Factory, parse_factory
from safe_retrieval.index.faiss_index import FaissIndex
from safe_retrieval.index.settings import SearchSettings
from safe_retrieval.index.vector_files import write_vectors
from safe_retrieval.types import FloatMatrix

K = 10
_EF = (40, 80, 160, 320)
_REFINE = (2, 4, 16)
_LEAST_LISTS = 4


class Measured(NamedTuple):
    """One kind of index with one setting, on the sample.

    Attributes:
        factory: the kind.
        settings: how it was searched.
        recall: recall@10 against exact search, in [0, 1].
        milliseconds: median of a single query.
        bytes_per_vector: of FAISS's file.
    """

    factory: Factory
    settings: SearchSettings
    recall: float
    milliseconds: float
    bytes_per_vector: float

    def beats(self, other: Measured) -> bool:
        """Whether it is as good in all three figures and better in one."""
        mine = (-self.recall, self.milliseconds, self.bytes_per_vector)
        theirs = (-other.recall, other.milliseconds, other.bytes_per_vector)
        return mine != theirs and all(one <= two for one, two in zip(mine, theirs, strict=True))


def sensible_factories(count: int, dimension: int) -> list[Factory]:
    """The kinds that can be made of so many vectors of a length."""
    lists = max(lists_for(count), min(_LEAST_LISTS, count // 39))
    names = [FLAT, "HNSW32", "SQ8", "RaBitQ"]
    if lists:
        slices = next(number for number in range(max(1, dimension // 8), 0, -1) if dimension % number == 0)
        names += [f"IVF{lists},{codes}" for codes in ("Flat", "SQ8", f"PQ{slices}", "RaBitQ")]
    return [factory for factory in map(parse_factory, names) if factory.least_training <= count]


def sensible_settings(factory: Factory) -> list[SearchSettings]:
    """The settings that are tried on a kind of index."""
    probes = [2**power for power in range(int(math.log2(factory.lists)) + 1)] if factory.lists else [0]
    ef = _EF if factory.codes == "HNSW" else (0,)
    refine = _REFINE if factory.lossy else (0,)
    return [SearchSettings(one, two, three) for one in probes for two in ef for three in refine]


def measure(
    vectors: FloatMatrix,
    queries: FloatMatrix,
    *,
    factories: Sequence[Factory] | None = None,
    report: Callable[[str], None] | None = None,
) -> list[Measured]:
    """Measure every kind with every setting.

    Args:
        vectors: (n, d) float32, unit norm, at least 11.
        queries: (q, d) float32, unit norm, none of them among ``vectors``.
        factories: the kinds; ``None`` takes the sensible ones.
        report: is told what is measured next.

    Raises:
        InputError: there are too few vectors, or no queries.
    """
    if len(vectors) <= K or not len(queries):
        raise InputError(f"expected more than {K} vectors and a query, got {len(vectors)} and {len(queries)}")
    found: list[Measured] = []
    with TemporaryDirectory() as folder:
        path = Path(folder)
        nearest = [ranking.positions for ranking in _made(path, parse_factory(FLAT), vectors).rankings(queries, K)]
        for factory in factories or sensible_factories(len(vectors), vectors.shape[1]):
            if report is not None:
                report(factory.name)
            index = _made(path, factory, vectors)
            size = (path / "vectors.faiss").stat().st_size / len(vectors)
            for settings in sensible_settings(factory):
                if isinstance(index, ApproximateIndex):
                    index.settings = settings
                recall, milliseconds = _asked(index, queries, nearest)
                found.append(Measured(factory, settings, recall, milliseconds, size))
    return found


def frontier(measured: Sequence[Measured]) -> list[Measured]:
    """Those that no other one beats, by falling recall."""
    best = [one for one in measured if not any(other.beats(one) for other in measured)]
    return sorted(best, key=lambda one: (-one.recall, one.milliseconds, one.bytes_per_vector))


def choose(measured: Sequence[Measured], *, recall: float, bytes_per_vector: float | None = None) -> Measured:
    """The fastest one that finds enough and fits; if none finds enough, the one that finds most.

    Args:
        measured: at least one.
        recall: least recall@10.
        bytes_per_vector: most bytes, or ``None``.

    Raises:
        InputError: none fits.
    """
    fitting = [one for one in measured if bytes_per_vector is None or one.bytes_per_vector <= bytes_per_vector]
    if not fitting:
        least = min(one.bytes_per_vector for one in measured)
        raise InputError(f"expected room for at least {least:,.0f} bytes a vector, got {bytes_per_vector:,.0f}")
    enough = [one for one in fitting if one.recall >= recall]
    if enough:
        return min(enough, key=lambda one: (one.milliseconds, one.bytes_per_vector))
    return max(fitting, key=lambda one: (one.recall, -one.milliseconds))


def for_the_whole(chosen: Measured, count: int) -> tuple[Factory, SearchSettings]:
    """Kind and settings for all ``count`` vectors, of which the sample was a part."""
    factory, settings = chosen.factory, chosen.settings
    lists = max(factory.lists, lists_for(count))
    if not factory.lists or lists == factory.lists:
        return factory, settings
    whole = parse_factory(f"IVF{lists},{factory.name.partition(',')[2]}")
    return whole, replace(settings, probes=min(lists, math.ceil(settings.probes * lists / factory.lists)))


class _Numbered:
    """Ids of a sample: nobody asks for them."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def ids_at(self, positions: Sequence[int]) -> list[str]:
        """The positions themselves."""
        return [str(position) for position in positions]


def _made(folder: Path, factory: Factory, vectors: FloatMatrix) -> VectorIndex:
    def blocks() -> Iterator[FloatMatrix]:
        yield vectors

    files = write_vectors(folder, factory, vectors.shape[1], len(vectors), blocks)
    ids = _Numbered(len(vectors))
    if factory.exact:
        return FaissIndex.read(files.vectors, ids=ids)
    return ApproximateIndex.read(files.vectors, factory, ids=ids, originals=files.originals)


def _asked(index: VectorIndex, queries: FloatMatrix, nearest: Sequence[NDArray[np.int64]]) -> tuple[float, float]:
    """Recall@10 and the median milliseconds of single queries."""
    shared, seconds = 0, []
    for row, wanted in enumerate(nearest):
        began = time.perf_counter()
        (found,) = index.rankings(queries[row : row + 1], K)
        seconds.append(time.perf_counter() - began)
        shared += len(np.intersect1d(found.positions, wanted))
    return shared / (K * len(nearest)), 1_000 * statistics.median(seconds)
