"""What an unfinished build has done already: files that are there as a whole, or not at all.

Each is two files: the bytes, and beside them ``.json`` with a key that says what they were made of and their SHA-256,
written after them. Both are renamed into place when they are complete. So what a stop, a power cut or a failing disk
left behind is never taken for finished work: what does not match its record is not there, and is made again.

Most of them are shards: one file of vectors for each run of documents, ``NNNNNN.npy`` with (n, d) float32. A shard is
known by a key over the encoder and the texts, not by where the run stood when it was stopped, so a build that starts
again finds exactly the shards that still fit, whatever happened in between.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
from numpy.lib import format as npy

from safe_retrieval.errors import IndexFolderError
from safe_retrieval.index.faiss_files import write_rows
from safe_retrieval.index.manifest import BUILD_FOLDER, sync_file
from safe_retrieval.index.plan import BuildPlan
from safe_retrieval.index.vector_files import TRAINED_NAME
from safe_retrieval.models.digest import sha256_of
from safe_retrieval.types import Encoder, FloatMatrix

_BLOCK_ROWS = 16_384
# Two encodings of one text by one encoder, in different batches and on different machines, agree far better than this.
_SAME_VECTOR = 0.999


def keep(aside: Path, path: Path, key: str) -> None:
    """Put a finished file in its place, with its record beside it.

    Args:
        aside: the file as it was written, under a name that no other process has.
        path: its place; whatever is there goes.
        key: what it was made of.

    Raises:
        OSError: the disk is full or failing.
    """
    record = _record(path)
    record.unlink(missing_ok=True)  # it speaks of the file that is about to go
    sync_file(aside)
    digest = sha256_of(aside)
    aside.replace(path)
    aside.write_text(json.dumps({"key": key, "sha256": digest}), encoding="utf-8")
    aside.replace(record)


def kept_sha256(path: Path, key: str) -> str | None:
    """SHA-256 of a file that was kept; ``None`` if it is missing, was made of something else, or is damaged."""
    try:
        digest = sha256_of(path)
        # The record is compared as a whole: a damaged one equals nothing.
        sound = json.loads(_record(path).read_text(encoding="utf-8")) == {"key": key, "sha256": digest}
    except (OSError, ValueError):
        return None
    return digest if sound else None


def aside_of(path: Path) -> Path:
    """Where a file is written before it is kept: a name of its own for each writer, since two may do the same work."""
    return path.with_name(f"{path.stem}-{uuid4().hex}.partial")


def _record(path: Path) -> Path:
    return path.with_suffix(".json")


def shard_key(encoder: Encoder, contents: Iterable[str]) -> str:
    """Identity of the vectors that ``encoder`` makes of ``contents``, hexadecimal."""
    digest = hashlib.sha256()
    for part in chain((encoder.name, encoder.space, str(encoder.dimension)), contents):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))  # lengths keep ("a", "bc") apart from ("ab", "c")
        digest.update(data)
    return digest.hexdigest()


class ShardStore:
    """The shards of one build.

    Args:
        folder: where they lie; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, number: int, key: str) -> bool:
        """Whether a shard is there, made of these texts, and sound."""
        return kept_sha256(self._path(number), key) is not None

    def is_done(self, number: int, key: str, encoder: Encoder, text: str) -> bool:
        """Whether a shard is there as in :meth:`has`, and ``encoder`` makes of its first text what is there.

        Equal names and spaces do not make equal weights: a model of the user's own may have been trained on meanwhile.
        Asked of each shard, since two stops and a change between them leave shards of both.
        """
        if not self.has(number, key):
            return False
        first = np.load(self._path(number), mmap_mode="r", allow_pickle=False)[0]
        return bool(np.vdot(encoder.encode_documents([text], progress=False)[0], first) > _SAME_VECTOR)

    def load(self, number: int, key: str) -> FloatMatrix | None:
        """A shard's vectors, or ``None`` if it is missing, was made of other texts, or is damaged."""
        if not self.has(number, key):
            return None
        vectors: FloatMatrix = np.load(self._path(number), allow_pickle=False)
        return vectors

    def blocks(self, number: int, key: str) -> Iterator[FloatMatrix] | None:
        """The same in blocks, (n, d) float32 each, of which one is held at a time; ``None`` as in :meth:`load`."""
        return _blocks(self._path(number)) if self.has(number, key) else None

    def save(self, number: int, key: str, vectors: FloatMatrix) -> None:
        """Keep a shard, in the place of whatever had its number."""
        self.save_blocks(number, key, len(vectors), [vectors])

    def save_blocks(self, number: int, key: str, count: int, blocks: Iterable[FloatMatrix]) -> None:
        """Keep a shard of ``count`` vectors that come in blocks, (n, d) float32 each, at least one."""
        path = self._path(number)
        aside = aside_of(path)
        with aside.open("wb") as file:
            remaining = iter(blocks)
            first = next(remaining)
            npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (count, first.shape[1])})
            write_rows(file, [first])
            write_rows(file, remaining)
        keep(aside, path, key)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npy"


def _blocks(path: Path) -> Iterator[FloatMatrix]:
    with path.open("rb") as file:  # read, not mapped: pages of a mapped file would count as memory
        npy.read_magic(file)
        (count, dimension), _, _ = npy.read_array_header_1_0(file)
        for start in range(0, count, _BLOCK_ROWS):
            rows = min(_BLOCK_ROWS, count - start)
            yield np.fromfile(file, np.float32, rows * dimension).reshape(rows, dimension)


class Kept(NamedTuple):
    """A file, and the key that its record must have."""

    path: Path
    key: str


class BuildFiles:
    """What the steps of a planned build leave: shards, the trained index, and a part of it for each shard.

    Args:
        out: the index folder.
        plan: the build's.

    Attributes:
        shards: the shards.
        trained: the trained index, under a name that says of which plan it was made: another corpus or kind is trained
            anew.
    """

    def __init__(self, out: Path, plan: BuildPlan) -> None:
        self._out = out
        self._plan = plan
        self.shards = ShardStore(out / BUILD_FOLDER / "shards")
        self._parts = out / BUILD_FOLDER / "parts"
        key = hashlib.sha256(plan.to_json().encode()).hexdigest()
        self.trained = Kept(out / BUILD_FOLDER / f"{key[:16]}-{TRAINED_NAME}", key)

    def shard_vectors(self, number: int) -> Iterator[FloatMatrix]:
        """The vectors of one shard in blocks, (n, d) float32 each.

        Raises:
            IndexFolderError: it is missing or damaged.
        """
        blocks = self.shards.blocks(number, self._plan.shards[number].key)
        if blocks is None:
            raise self._missing("shard", number, "embed")
        return blocks

    def vectors(self) -> Iterator[FloatMatrix]:
        """Those of all shards, in the order of their documents; errors as in :meth:`shard_vectors`."""
        for number in range(len(self._plan.shards)):
            yield from self.shard_vectors(number)

    def trained_sha256(self) -> str:
        """Of the trained index.

        Raises:
            IndexFolderError: it is missing or damaged.
        """
        digest = kept_sha256(*self.trained)
        if digest is None:
            raise IndexFolderError(
                f"{self._out}: the index is not trained yet, or what training left is damaged; run: safe-retrieval "
                f"index shards train {self._out}"
            )
        return digest

    def part(self, number: int, trained: str) -> Kept:
        """A shard's part, under a name that says of which trained index it is one, by SHA-256, and of which vectors.

        The trained index alone would not do: documents that are not in its sample may change, and it stays the same.
        """
        key = hashlib.sha256(f"{trained} {self._plan.shards[number].key}".encode()).hexdigest()
        return Kept(self._parts / f"{key[:16]}-{number:06d}.faiss", key)

    def forget_made_of(self, number: int) -> None:
        """Remove what was made of a shard's old vectors: it is about to have others, of the same texts."""
        for path in (self.trained.path, *self._parts.glob(f"*-{number:06d}.faiss")):
            path.unlink(missing_ok=True)

    def sound_parts(self) -> list[Path]:
        """The parts of all shards.

        Raises:
            IndexFolderError: one is missing or damaged, or the trained index is.
        """
        trained = self.trained_sha256()
        parts = [self.part(number, trained) for number in range(len(self._plan.shards))]
        for number, part in enumerate(parts):
            if kept_sha256(*part) is None:
                raise self._missing("part", number, "add")
        return [part.path for part in parts]

    def _missing(self, what: str, number: int, step: str) -> IndexFolderError:
        of = len(self._plan.shards)
        return IndexFolderError(
            f"{self._out}: {what} {number + 1} of {of} is missing or damaged; run: safe-retrieval index shards {step} "
            f"{self._out} --shard {number + 1}/{of}"
        )
