"""An index folder of ours, asked through any arm and gate; opened read-only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safe_retrieval.audit.encodings import CHUNK, EncodingCache
from safe_retrieval.audit.models import Models
from safe_retrieval.audit.query_side import QuerySide
from safe_retrieval.audit.searching import Answer, Found, Vectors
from safe_retrieval.audit.targets import AuditArm
from safe_retrieval.retrieval.guard import RefusalGate
from safe_retrieval.types import FloatMatrix, GateAction, QueryEncoding


class IndexSearcher:
    """What a :class:`~safe_retrieval.retrieval.retriever.SafeRetriever` over an index folder returns.

    Args:
        path: the folder; it is read, never written.
        arm: how queries become hits. ``gated`` is ``blend`` with a gate that returns nothing.
        gate: what is done with queries that would be refused.
        models: makes the encoders, given the name of the index's document encoder.
        encodings: where vectors are kept.

    Raises:
        IndexFolderError: there is no sound index, or the arm's encoder does not speak its space.
        ModelError, AdapterError: a model or adapter cannot be had.
    """

    batch = CHUNK  # so that an answer takes its vectors from the cache, chunk by chunk

    def __init__(
        self,
        path: Path,
        arm: AuditArm,
        gate: RefusalGate,
        *,
        models: Callable[[str], Models],
        encodings: EncodingCache,
    ) -> None:
        from safe_retrieval.index.folder import load_index
        from safe_retrieval.retrieval.lexical import LexicalIndex
        from safe_retrieval.retrieval.retriever import SafeRetriever

        self._index = load_index(path, read_only=True)
        self._arm = arm
        self._gate = RefusalGate(GateAction.EMPTY, gate.threshold) if arm is AuditArm.GATED else gate
        self._side = QuerySide(models(self._index.manifest.encoder.name), encodings)
        lexical = LexicalIndex(self._index.documents()) if arm is AuditArm.BM25 else None
        encoder = None if arm is AuditArm.BM25 else self._side.encoder(arm).encoder
        judge = self._side.encoder(AuditArm.OUTPUT).encoder if self._judged else None
        self._retriever = SafeRetriever(
            self._index, encoder, name=arm.value, gate=self._gate, lexical=lexical, refusal_encoder=judge
        )
        self._path = path
        self._texts: dict[str, str] = {}

    @property
    def _judged(self) -> bool:
        """Whether the response encoder is asked for verdicts alone."""
        return self._gate.needs_verdict and self._arm in {AuditArm.BM25, AuditArm.INPUT}

    @property
    def has_gate(self) -> bool:
        """Whether a gate can fire."""
        return self._gate.needs_verdict

    @property
    def vectors(self) -> Vectors | None:
        """The arm's queries and the index's document encoder; none where words are compared."""
        return None if self._arm is AuditArm.BM25 else _ArmVectors(self._side, self._arm)

    @property
    def record(self) -> Mapping[str, Any]:
        """Folder, arm, gate, encoders, and what the manifest says."""
        manifest = self._index.manifest
        return {
            "kind": "index",
            "path": str(self._path),
            "arm": self._arm.value,
            "gate": {"action": self._gate.action.value, "threshold": self._gate.threshold},
            "documents": manifest.count,
            "files": {record.name: record.sha256 for record in manifest.files()},
            **self._side.used,
        }

    def search(self, queries: Sequence[str], k: int) -> list[Answer]:
        """Ask a batch; the time is that of its encodings when they were made, and of the search."""
        encoding, seconds = self._encode(queries)
        start = time.perf_counter()
        retrievals = self._retriever.retrieve_encoded(encoding, k=k, queries=queries)
        each = (seconds + time.perf_counter() - start) / max(len(queries), 1)
        self._learn([hit.id for retrieval in retrievals for hit in retrieval.hits])
        return [
            Answer(
                tuple(Found(hit.id, hit.score, self._texts[hit.id]) for hit in retrieval.hits),
                each,
                retrieval.refusal,
                retrieval.flagged,
            )
            for retrieval in retrievals
        ]

    def _encode(self, queries: Sequence[str]) -> tuple[QueryEncoding, float]:
        if self._arm is AuditArm.BM25:
            encoding, seconds = self._retriever.encode(queries), 0.0
        else:
            encoded = self._side.encode(self._arm, queries)
            encoding, seconds = encoded.encoding, encoded.seconds
        if self._judged:
            verdict = self._side.encode(AuditArm.OUTPUT, queries)
            return encoding._replace(refusal=verdict.encoding.refusal), seconds + verdict.seconds
        return encoding, seconds

    def _learn(self, ids: Sequence[str]) -> None:
        new = [each for each in dict.fromkeys(ids) if each not in self._texts]
        self._texts |= {document.id: document.content for document in self._index.get_documents(new)}


class _ArmVectors:
    def __init__(self, side: QuerySide, arm: AuditArm) -> None:
        self._side, self._arm = side, arm

    @property
    def identity(self) -> str:
        return f"{self._arm.value} {self._side.encoder(self._arm).identity}"

    def queries(self, texts: Sequence[str]) -> FloatMatrix:
        return self._side.encode(self._arm, texts).encoding.vectors

    def documents(self, texts: Sequence[str]) -> FloatMatrix:
        return self._side.passages(texts)
