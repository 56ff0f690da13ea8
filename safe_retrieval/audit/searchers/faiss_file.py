"""A FAISS file and the texts of its vectors, asked with the encoder that made them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safe_retrieval.audit.encodings import CHUNK
from safe_retrieval.audit.searching import Answer, Found, Vectors
from safe_retrieval.errors import AuditError, ConfigError
from safe_retrieval.models.digest import sha256_of
from safe_retrieval.types import Document


class FaissSearcher:
    """Search a FAISS index of any kind, as it is in the file.

    Args:
        path: the file, read with limits on what it can make FAISS allocate; check where it comes from all the same.
        texts: the passages, in the order of the vectors; of an ``IndexIDMap`` the ids are their labels.
        vectors: of the encoder that made the index.
        nprobe: lists that an inverted file looks at; ``None`` leaves what the file says.

    Raises:
        IndexFormatError: the file is missing or damaged.
        ConfigError: there is not one text a vector, or ``nprobe`` for an index without lists.
    """

    batch = CHUNK
    has_gate = False

    def __init__(self, path: Path, texts: Sequence[Document], vectors: Vectors, *, nprobe: int | None = None) -> None:
        from safe_retrieval.index.faiss_index import load_faiss

        self._index: Any = load_faiss(path)
        self._path = path
        self._sha256 = sha256_of(path)
        self._vectors = vectors
        self._has_labels = type(self._index).__name__.startswith("IndexIDMap")
        if self._index.ntotal != len(texts):
            raise ConfigError(
                f"{path} holds {self._index.ntotal} vectors and there are {len(texts)} texts; expected one text a "
                "vector, in the same order"
            )
        self._texts = texts
        self._texts_sha256 = _sha256_of_texts(texts)
        self._by_label = {document.id: document for document in texts} if self._has_labels else {}
        self._nprobe = self._set_nprobe(nprobe)

    def _set_nprobe(self, nprobe: int | None) -> int | None:
        import faiss

        try:
            lists: Any = faiss.extract_index_ivf(self._index)
        except RuntimeError:  # FAISS's way of saying that there are none
            if nprobe is not None:
                raise ConfigError(
                    f"{self._path} has no inverted lists, so nprobe means nothing; leave it out"
                ) from None
            return None
        if nprobe is not None:
            lists.nprobe = nprobe
        return int(lists.nprobe)

    @property
    def vectors(self) -> Vectors | None:
        """What the index compares."""
        return self._vectors

    @property
    def record(self) -> Mapping[str, Any]:
        """File, kind, metric and hashes of index and texts."""
        return {
            "kind": "faiss",
            "path": str(self._path),
            "sha256": self._sha256,
            "index": type(self._index).__name__,
            "metric": int(self._index.metric_type),
            "nprobe": self._nprobe,
            "vectors": int(self._index.ntotal),
            "texts_sha256": self._texts_sha256,
            "encoder": self._vectors.identity,
        }

    def search(self, queries: Sequence[str], k: int) -> list[Answer]:
        """Ask a batch; the time is that of encoding and search.

        Raises:
            AuditError: the encoder's vectors have another length than the index's, or a label has no text.
        """
        start = time.perf_counter()
        vectors = self._vectors.queries(queries)
        if vectors.shape[1] != self._index.d:
            raise AuditError(
                f"{self._path} holds vectors of length {self._index.d}, its encoder gives {vectors.shape[1]}; name the "
                "encoder that made the index"
            )
        scores, labels = self._index.search(np.ascontiguousarray(vectors, dtype=np.float32), k)
        each = (time.perf_counter() - start) / max(len(queries), 1)
        return [
            Answer(
                tuple(
                    self._found(int(label), float(score))
                    for label, score in zip(row, row_scores, strict=True)
                    if label >= 0  # FAISS pads with -1 where there are fewer
                ),
                each,
            )
            for row, row_scores in zip(labels, scores, strict=True)
        ]

    def _found(self, label: int, score: float) -> Found:
        if not self._has_labels and label >= len(self._texts):  # as an inverted file has that was filled with ids
            raise AuditError(
                f"{self._path} returned the label {label}, and there are {len(self._texts)} texts; its vectors have "
                "ids of their own, so fill it anew in the order of the texts"
            )
        document = self._by_label.get(str(label)) if self._has_labels else self._texts[label]
        if document is None:
            raise AuditError(f"{self._path} returned the label {label}, and no text has the id {str(label)!r}")
        return Found(document.id, score, document.content)


def _sha256_of_texts(texts: Sequence[Document]) -> str:
    """Hex digest of ids and texts in their order; another order gives other answers."""
    digest = hashlib.sha256()
    for document in texts:
        digest.update(json.dumps([document.id, document.content]).encode("ascii"))
    return digest.hexdigest()
