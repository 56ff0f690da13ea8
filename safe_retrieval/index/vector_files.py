"""Write the vectors of a segment: FAISS's file, of whichever kind, and the vectors as given where FAISS keeps codes.

Memory holds a sample to train on, then as many vectors as it may: flat vectors pass through it block by block, inverted
files are made in parts and joined on the disk. How many parts there were does not show in the bytes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from safe_retrieval.errors import InputError
from safe_retrieval.index.factories import Factory
from safe_retrieval.index.faiss_files import (
    Blocks,
    empty_copy,
    even_sample,
    in_larger_blocks,
    merge_parts,
    write_flat,
    write_part,
    write_rows,
)
from safe_retrieval.index.faiss_index import save_faiss
from safe_retrieval.types import FloatMatrix

TRAINED_NAME = "trained.faiss"
"""An index that is trained and still empty, inside the build folder."""

# Of the memory that is given: FAISS's clustering works beside its sample, and lists that grow are copied.
_SAMPLE_SHARE = 0.4
_PART_SHARE = 0.3
# Of what FAISS holds beyond the codes of a vector in a list: its id, and room to grow.
_LIST_OVERHEAD = 16


class VectorFiles(NamedTuple):
    """What was written: FAISS's file, and that of the vectors as they were given, if the kind needs one."""

    vectors: Path
    originals: Path | None


def write_vectors(
    folder: Path,
    factory: Factory,
    dimension: int,
    count: int,
    blocks: Callable[[], Iterable[FloatMatrix]],
    *,
    memory: int | None = None,
) -> VectorFiles:
    """Write vectors as an index of some kind.

    Args:
        folder: where the files go, and other ones while they are made.
        factory: the kind of index.
        dimension: length of a vector.
        count: number of vectors.
        blocks: gives them in the order of their positions, (n, dimension) float32 each, checked; asked several times.
        memory: bytes that vectors may take while they are written, libraries apart; ``None`` is no bound. With a bound,
            clusters may be trained on fewer vectors.

    Raises:
        InputError: there are too few vectors to train on, or the kind cannot be made within the memory.
        OSError: the disk is full or failing.
    """
    path = folder / "vectors.faiss"
    if factory.exact:
        write_flat(path, dimension, count, blocks())
        return VectorFiles(path, None)
    trained = folder / TRAINED_NAME
    write_trained(trained, factory, dimension, count, blocks, memory=memory)
    if factory.lists:
        write_lists(path, trained, factory, dimension, Blocks(0, blocks()), memory=memory)
    else:
        _write_whole(path, trained, in_larger_blocks(blocks()))
    trained.unlink()
    return VectorFiles(path, write_originals(folder, factory, dimension, count, blocks))


def readings(factory: Factory) -> int:
    """How often :func:`write_vectors` reads the vectors: to add them, to train on some, to keep them as given."""
    return 1 + (not factory.exact and factory.codes != "HNSW") + factory.lossy


def write_originals(
    folder: Path, factory: Factory, dimension: int, count: int, blocks: Callable[[], Iterable[FloatMatrix]]
) -> Path | None:
    """Write the vectors as they were given, for a kind that keeps codes; ``None`` for the others."""
    if not factory.lossy:
        return None
    path = folder / "originals.npy"
    shape = {"descr": "<f4", "fortran_order": False, "shape": (count, dimension)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, shape)
        write_rows(file, blocks())
    return path


def write_trained(
    path: Path,
    factory: Factory,
    dimension: int,
    count: int,
    blocks: Callable[[], Iterable[FloatMatrix]],
    *,
    memory: int | None = None,
) -> None:
    """Train an index on an even sample and write it without vectors; arguments and errors as in :func:`write_vectors`.

    Kinds that need no training are written too, so that all are made in the same way.
    """
    faiss: Any = importlib.import_module("faiss")
    factory.check_count(count)
    factory.check_dimension(dimension)
    check_memory(factory, dimension, count, memory)
    index = faiss.index_factory(dimension, factory.name, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        index.train(even_sample(blocks(), count, _sample_rows(factory, dimension, memory)))
    save_faiss(index, path)


def check_memory(factory: Factory, dimension: int, count: int, memory: int | None) -> None:
    """Refuse a kind that cannot be made within some memory.

    Raises:
        InputError: the message says what it would take.
    """
    if memory is None or factory.exact:
        return
    needed = 4.0 * dimension * factory.least_training / _SAMPLE_SHARE
    if not factory.lists:  # built as a whole
        needed = max(needed, factory.bytes_per_vector(dimension) * count)
    if needed > memory:
        raise InputError(
            f"{factory.name} over {count:,} vectors of length {dimension} needs {needed / 1e9:,.3g} GB while it is "
            f"made, more than the {memory / 1e9:,.3g} GB that were given; give more, take fewer clusters, or an "
            "inverted file (IVF<lists>,...), which is made in parts"
        )


def write_lists(
    path: Path, trained: Path, factory: Factory, dimension: int, blocks: Blocks, *, memory: int | None = None
) -> None:
    """Put vectors into the lists of a trained inverted file, as a file of their own.

    Args:
        path: the new file; parts of it are written beside it first, under names that begin with its own.
        trained: the trained inverted file without vectors.
        factory: its kind.
        dimension: length of a vector.
        blocks: the vectors; their positions become their ids.
        memory: bytes that vectors may take, as for :func:`write_vectors`; the trained file comes on top.

    Raises:
        OSError: a file cannot be written.
    """
    join_parts(path, trained, list(_parts(path, trained, _part_rows(factory, dimension, memory), blocks)))


def join_parts(path: Path, trained: Path, parts: list[Path]) -> None:
    """Make one inverted file of its parts, which are gone afterwards."""
    if len(parts) == 1:
        parts[0].replace(path)
        return
    merge_parts(path, trained, parts)
    for part in parts:
        part.unlink()


def _sample_rows(factory: Factory, dimension: int, memory: int | None) -> int:
    if memory is None:
        return factory.most_training
    return min(factory.most_training, max(1, int(_SAMPLE_SHARE * memory / (4 * dimension))))


def _part_rows(factory: Factory, dimension: int, memory: int | None) -> int | None:
    """Most vectors of a part; ``None`` where there is no bound."""
    if memory is None:
        return None
    return max(1, int(_PART_SHARE * memory / (factory.bytes_per_vector(dimension) + _LIST_OVERHEAD)))


def _parts(path: Path, trained: Path, rows: int | None, blocks: Blocks) -> Iterator[Path]:
    """Write parts of at most so many rows each, or of one block if that is larger, beside ``path``."""
    start, number = blocks.start, 0
    remaining = iter(blocks.vectors)
    first = next(remaining, None)
    while first is not None:
        part = _Run(first, remaining, rows)
        name = path.with_name(f"{path.name}-{number:06d}")
        write_part(name, trained, Blocks(start, part))
        yield name
        start, number, first = start + part.taken, number + 1, part.next


class _Run:
    """Blocks out of a stream until so many rows are taken; knows what came after them."""

    def __init__(self, first: FloatMatrix, remaining: Iterator[FloatMatrix], rows: int | None) -> None:
        self.next: FloatMatrix | None = first
        self.taken = 0
        self._remaining = remaining
        self._rows = rows

    def __iter__(self) -> Iterator[FloatMatrix]:
        while self.next is not None and self._takes(len(self.next)):
            block = self.next
            self.taken += len(block)
            yield block
            self.next = next(self._remaining, None)

    def _takes(self, rows: int) -> bool:
        return self._rows is None or not self.taken or self.taken + rows <= self._rows


def _write_whole(path: Path, trained: Path, blocks: Iterable[FloatMatrix]) -> None:
    index = empty_copy(trained)
    for block in blocks:
        index.add(block)
    save_faiss(index, path)
