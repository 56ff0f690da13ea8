"""Encoded documents on their way into an index: one file of vectors for each run of documents, kept until it is done.

A shard is known by a key over the encoder and the texts, not by where the run stood when it was stopped. So a build
that starts again finds exactly the shards that still fit, whatever happened in between: what was changed, cut short
or damaged is encoded again.

A shard is two files. ``NNNNNN.npy`` holds (n, d) float32; ``NNNNNN.json`` holds key, shape and SHA-256 of the former
and is written after it. Both are renamed into place when they are complete, so a shard is there or it is not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np

from safe_retrieval.index.manifest import file_sha256
from safe_retrieval.types import Encoder, FloatMatrix


def shard_key(encoder: Encoder, contents: Sequence[str]) -> str:
    """Identity of the vectors that ``encoder`` makes of ``contents``, hexadecimal."""
    digest = hashlib.sha256()
    for part in (encoder.name, encoder.space, str(encoder.dimension), *contents):
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

    def load(self, number: int, key: str) -> FloatMatrix | None:
        """A shard's vectors, or ``None`` if it is missing, was made of other texts, or is damaged."""
        vectors_path, record_path = self._paths(number)
        try:
            record = json.loads(record_path.read_text(encoding="utf-8"))
            # The record is checked as a whole: a damaged one equals nothing.
            if record != {"key": key, "sha256": file_sha256(vectors_path)}:
                return None
        except (FileNotFoundError, ValueError):
            return None
        vectors: FloatMatrix = np.load(vectors_path, allow_pickle=False)
        return vectors

    def save(self, number: int, key: str, vectors: FloatMatrix) -> None:
        """Keep a shard, in the place of whatever had its number."""
        vectors_path, record_path = self._paths(number)
        record_path.unlink(missing_ok=True)  # it speaks of the vectors that are about to go
        # A name of its own for each writer: two processes may have been given the same shard.
        partial = self.folder / f"{number:06d}-{uuid4().hex}.partial"
        with partial.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        digest = file_sha256(partial)
        partial.replace(vectors_path)
        partial.write_text(json.dumps({"key": key, "sha256": digest}), encoding="utf-8")
        partial.replace(record_path)

    def _paths(self, number: int) -> tuple[Path, Path]:
        return self.folder / f"{number:06d}.npy", self.folder / f"{number:06d}.json"
