"""FAISS's files written piece by piece, so that an index may be larger than the memory it is built in.

FAISS writes an index that it holds as a whole. Two of its formats allow more: in a flat index the vectors come last,
in an inverted file the lists do, so what stands before them is taken from an empty index of the same kind, with the
number of vectors put in. The bytes are those that FAISS itself would have written (tests/index/test_faiss_files.py), in
whatever pieces the vectors came.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import IndexFolderError
from safe_retrieval.index.faiss_index import load_faiss, save_faiss
from safe_retrieval.types import FloatMatrix

# Behind the four letters of its kind and the dimension, every FAISS index has the number of its vectors.
_TOTAL = slice(8, 16)
_SIZE = struct.Struct("<Q")
_LISTS = b"ilar"
_ID_BYTES = 8
_AT_ONCE = 16_384
_MOST_OPEN = 128
"""Parts that are joined at once; systems allow a process some 256 to 1,024 open files unless told otherwise."""


class Blocks(NamedTuple):
    """Vectors by position: the first position, and (n, d) float32 each in order."""

    start: int
    vectors: Iterable[FloatMatrix]


def write_flat(path: Path, dimension: int, count: int, blocks: Iterable[FloatMatrix]) -> None:
    """Write vectors as a flat inner-product index; holds one block at a time.

    Args:
        path: the file.
        dimension: length of a vector.
        count: number of vectors.
        blocks: (n, dimension) float32 each, checked, in the order of their positions.

    Raises:
        OSError: the file cannot be written.
        IndexFolderError: there are more or fewer vectors than ``count``.
    """
    with FlatWriter(path, dimension) as writer:
        for block in blocks:
            writer.append(block)
    if len(writer) != count:
        raise IndexFolderError(f"{path}: expected {count} vectors, got {len(writer)}; run the same again")


class FlatWriter:
    """Writes a flat inner-product index of which nobody knows yet how many vectors it will have.

    What is at the path is an index once the writer is closed; the context manager closes it.

    Args:
        path: the file.
        dimension: length of a vector.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, dimension: int) -> None:
        self._dimension = dimension
        self._count = 0
        self._file = path.open("wb")
        self._file.write(_flat_head(dimension, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self._count

    def append(self, block: FloatMatrix) -> None:
        """Append (n, dimension) float32 vectors, checked."""
        self._count += write_rows(self._file, [block])

    def close(self) -> None:
        """Put in how many vectors there are, and close the file; a second time does nothing."""
        if self._file.closed:
            return
        with self._file:
            self._file.seek(0)
            self._file.write(_flat_head(self._dimension, self._count))


def _flat_head(dimension: int, count: int) -> bytes:
    import faiss

    head = bytearray(faiss.serialize_index(faiss.IndexFlatIP(dimension)).tobytes())
    head[_TOTAL] = _SIZE.pack(count)
    head[-_SIZE.size :] = _SIZE.pack(count * dimension)
    return bytes(head)


def read_flat(path: Path, dimension: int, count: int) -> Iterator[FloatMatrix]:
    """The vectors of a flat index in their order, (n, dimension) float32 each; holds one block at a time."""
    with path.open("rb") as file:  # read, not mapped: pages of a mapped file would count as memory
        file.seek(len(_flat_head(dimension, count)))
        for start in range(0, count, _AT_ONCE):
            rows = min(_AT_ONCE, count - start)
            yield np.fromfile(file, np.float32, rows * dimension).reshape(rows, dimension)


def write_rows(file: IO[bytes], blocks: Iterable[FloatMatrix]) -> int:
    """Append (n, d) float32 blocks to a file as they are; returns the number of rows."""
    rows = 0
    for block in blocks:
        file.write(np.ascontiguousarray(block).data)
        rows += len(block)
    return rows


def in_larger_blocks(blocks: Iterable[FloatMatrix], rows: int = _AT_ONCE) -> Iterator[FloatMatrix]:
    """The same vectors in blocks of at least so many rows, the last apart: FAISS adds large blocks faster."""
    waiting: list[FloatMatrix] = []
    for block in blocks:
        waiting.append(block)
        if sum(map(len, waiting)) >= rows:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def empty_copy(trained: Path) -> Any:
    """A trained index without vectors, as it was saved."""
    return load_faiss(trained)


def write_part(path: Path, trained: Path, blocks: Blocks) -> None:
    """Put some vectors into the lists of a trained inverted file, as a file of their own.

    Args:
        path: the new file.
        trained: the trained inverted file without vectors.
        blocks: the vectors; their positions become their ids.

    Raises:
        OSError: the file cannot be written.
    """
    index = empty_copy(trained)
    start = blocks.start
    for block in in_larger_blocks(blocks.vectors):
        index.add_with_ids(block, np.arange(start, start + len(block)))
        start += len(block)
    save_faiss(index, path)


def merge_parts(path: Path, trained: Path, parts: Sequence[Path]) -> None:
    """Join parts of an inverted file, list by list; holds one list at a time, and how long those of each part are.

    More than :data:`_MOST_OPEN` parts are joined in groups first, which need as much room on the disk again: a process
    may not open thousands of files, and their lengths alone would be gigabytes.

    Args:
        path: the new file.
        trained: the trained inverted file without vectors, of which all parts were made.
        parts: in the order of their positions.

    Raises:
        OSError: a file cannot be read or written.
        IndexFolderError: a part is damaged, or of another index.
    """
    with ExitStack() as aside:
        joined = list(parts)
        while len(joined) > _MOST_OPEN:
            groups = [joined[start : start + _MOST_OPEN] for start in range(0, len(joined), _MOST_OPEN)]
            joined = [path.with_name(f"{path.name}.{len(groups)}-{number}") for number in range(len(groups))]
            for name, group in zip(joined, groups, strict=True):
                aside.callback(name.unlink, missing_ok=True)
                _merge_open(name, trained, group)
        _merge_open(path, trained, joined)


def _merge_open(path: Path, trained: Path, parts: Sequence[Path]) -> None:
    """Join so many parts that all of them can be open at once."""
    faiss: Any = importlib.import_module("faiss")
    empty = faiss.serialize_index(empty_copy(trained)).tobytes()
    head = empty[: empty.rindex(_LISTS)]
    with ExitStack() as stack:
        opened = [_Part(stack.enter_context(part.open("rb")), part, head) for part in parts]
        sizes = np.zeros_like(opened[0].sizes)
        for part in opened:
            sizes += part.sizes
        whole = bytearray(head)
        whole[_TOTAL] = _SIZE.pack(int(sizes.sum()))
        with path.open("wb") as file:
            file.write(whole)
            file.write(_list_head(sizes, opened[0].code_size))
            for number in range(len(sizes)):
                lists = [part.read_list(number) for part in opened]
                for codes, _ in lists:
                    file.write(codes)
                for _, ids in lists:
                    file.write(ids)


def _list_head(sizes: NDArray[np.uint64], code_size: int) -> bytes:
    """What stands before the lists: their number, the size of a code, and how long each of them is."""
    filled = np.flatnonzero(sizes)
    head = _LISTS + _SIZE.pack(len(sizes)) + _SIZE.pack(code_size)
    if len(filled) > len(sizes) // 2:
        return head + b"full" + _SIZE.pack(len(sizes)) + sizes.tobytes()
    pairs = np.stack([filled.astype(np.uint64), sizes[filled]], axis=1)
    return head + b"sprs" + _SIZE.pack(2 * len(filled)) + pairs.tobytes()


class _Part:
    """A part that is read list by list, in order."""

    def __init__(self, file: IO[bytes], path: Path, head: bytes) -> None:
        self._file, self._path = file, path
        own = bytearray(self._exactly(len(head)))
        own[_TOTAL] = head[_TOTAL]
        if bytes(own) != head or self._exactly(len(_LISTS)) != _LISTS:
            raise self._damaged()
        count, self.code_size = self._number(), self._number()
        layout = self._exactly(4)
        numbers = np.frombuffer(self._exactly(_SIZE.size * self._number()), dtype=np.uint64)
        if layout == b"full":
            self.sizes = numbers
        else:
            self.sizes = np.zeros(count, dtype=np.uint64)
            self.sizes[numbers[0::2].astype(np.int64)] = numbers[1::2]

    def read_list(self, number: int) -> tuple[bytes, bytes]:
        """Codes and ids of the next list, whose number is given."""
        size = int(self.sizes[number])
        return self._exactly(size * self.code_size), self._exactly(size * _ID_BYTES)

    def _number(self) -> int:
        (value,) = _SIZE.unpack(self._exactly(_SIZE.size))
        return int(value)

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise self._damaged()
        return data

    def _damaged(self) -> IndexFolderError:
        return IndexFolderError(
            f"{self._path} is damaged, or a part of another index; delete it and run the same again"
        )


def even_sample(blocks: Iterable[FloatMatrix], count: int, most: int) -> FloatMatrix:
    """At most ``most`` rows, as evenly spread as can be, since corpora are often sorted by topic; (m, d) float32."""
    chosen = np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
    sample: FloatMatrix | None = None
    start = taken = 0
    for block in blocks:
        low, high = np.searchsorted(chosen, [start, start + len(block)])
        if sample is None:
            sample = np.empty((len(chosen), block.shape[1]), dtype=np.float32)  # once, at its full size
        sample[taken : taken + high - low] = block[chosen[low:high] - start]
        taken += high - low
        start += len(block)
    if sample is None:
        raise IndexFolderError("expected vectors to train on, got none; run the same again")
    return sample
