"""Write the vectors of a segment: FAISS's file, of whichever kind, and the vectors as given where FAISS keeps codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.format import open_memmap

from safe_retrieval.index.approximate import write_approximate
from safe_retrieval.index.factories import Factory
from safe_retrieval.index.faiss_index import write_faiss
from safe_retrieval.types import FloatMatrix


class VectorFiles(NamedTuple):
    """What was written: FAISS's file, and that of the vectors as they were given, if the kind needs one."""

    vectors: Path
    originals: Path | None


def write_vectors(
    folder: Path, factory: Factory, dimension: int, count: int, blocks: Callable[[], Iterable[FloatMatrix]]
) -> VectorFiles:
    """Write vectors as an index of some kind.

    Args:
        folder: where the files go.
        factory: the kind of index.
        dimension: length of a vector.
        count: number of vectors.
        blocks: gives them in the order of their positions, (n, dimension) float32 each, checked; asked several times.

    Raises:
        InputError: there are too few vectors to train on.
        OSError: the disk is full or failing.
    """
    path = folder / "vectors.faiss"
    if factory.exact:
        write_faiss(path, dimension, blocks())
        return VectorFiles(path, None)
    write_approximate(path, factory, dimension, count, blocks)
    if not factory.lossy:
        return VectorFiles(path, None)
    originals = folder / "originals.npy"
    rows = open_memmap(originals, mode="w+", dtype=np.float32, shape=(count, dimension))
    start = 0
    for block in blocks():
        rows[start : start + len(block)] = block
        start += len(block)
    rows.flush()
    return VectorFiles(path, originals)
