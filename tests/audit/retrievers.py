"""A production retriever for tests: exact search over hashed words, and ways to reach it that misbehave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safe_retrieval.audit.external import OWN
from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.probes import PassageKind, Probe, ProbeKind, ProbeSet, ProbeSource, content_sha256
from safe_retrieval.audit.scales import Scale
from safe_retrieval.audit.searching import Answer, EncoderVectors, Found, Vectors
from safe_retrieval.types import Document, FloatMatrix
from tests.support.encoders import HashEncoder

WORDS = [f"word{number}" for number in range(400)]


def sentence(seed: int, length: int = 24) -> str:
    """Words that no other seed has in this order."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, length))


def production(count: int = 40) -> list[Document]:
    """Passages of the target's own."""
    return [Document(f"p{number}", sentence(1000 + number)) for number in range(count)]


def probes(count: int = 6) -> ProbeSet:
    """Harmful and benign requests whose own passage shares most of their words, and sensitive ones without."""
    documents, queries, qrels = [], [], {}
    for number in range(count):
        for kind, is_harmful in ((ProbeKind.HARMFUL, True), (ProbeKind.BENIGN, False)):
            text = sentence(number + (0 if is_harmful else 500))
            metadata = {
                "harmful": is_harmful,
                "hazard": Hazard.HATE.value if is_harmful else None,
                "kind": (PassageKind.HARMFUL if is_harmful else PassageKind.BENIGN).value,
                "source": "set",
            }
            documents.append(Document(f"set/{kind}-{number}", text, metadata=metadata))
            words = " ".join(text.split()[:12])
            queries.append(Probe(f"set/q-{kind}-{number}", words, kind, Hazard.HATE if is_harmful else Hazard.UNMAPPED))
            qrels[f"set/q-{kind}-{number}"] = {f"set/{kind}-{number}": 1}
    queries += [Probe(f"set/q-s-{number}", sentence(700 + number, 8), ProbeKind.SENSITIVE) for number in range(2)]
    sha256 = content_sha256(documents, queries, qrels)
    source = ProbeSource.of(documents, queries, qrels, name="set", origin="tests", license_="none")
    return ProbeSet("set", "1", sha256, tuple(documents), tuple(queries), qrels, sources=(source,))


class Searching:
    """Exact search over documents by a scale; what it returned is counted."""

    batch = 1
    has_gate = False

    def __init__(
        self,
        documents: Sequence[Document],
        *,
        scale: Scale = Scale.COSINE,
        batch: int = 1,
        texts: bool = True,
        scores: bool = True,
        vectors: bool = True,
        silent_for: str | None = None,
    ) -> None:
        self.encoder = HashEncoder()
        self.documents, self.scale, self.batch = documents, scale, batch
        self._texts, self._scores, self._silent_for = texts, scores, silent_for
        self.vectors: Vectors | None = EncoderVectors(self.encoder) if vectors else None
        self._matrix = self.encoder.encode_documents([document.content for document in documents])
        self.asked: list[str] = []

    @property
    def record(self) -> Mapping[str, Any]:
        return {"kind": "test", "documents": len(self.documents)}

    def search(self, queries: Sequence[str], k: int) -> list[Answer]:
        self.asked += queries
        return [self._one(query, k) for query in queries]

    def _one(self, query: str, k: int) -> Answer:
        if self._silent_for and self._silent_for in query:
            return Answer((), 0.001)
        scores = self.scale.scores(self.encoder.encode_queries([query]), self._matrix)[0]
        order = np.argsort(scores if self.scale.is_distance else -scores, kind="stable")[:k]
        return Answer(tuple(self.found(self.documents[place], float(scores[place])) for place in order), 0.001)

    def found(self, document: Document, score: float) -> Found:
        return Found(document.id, score if self._scores else None, document.content if self._texts else None)


def given_id(identifier: str) -> str:
    """The id as the retriever gave it, which counts under one with a prefix and a mark."""
    return identifier.removeprefix(OWN).rpartition("~")[0] if identifier.startswith(OWN) else identifier


def exact(documents: Sequence[Document], query: str, k: int) -> list[str]:
    """What an exact search over all of these documents returns."""
    encoder = HashEncoder()
    vectors: FloatMatrix = encoder.encode_documents([document.content for document in documents])
    scores = Scale.COSINE.scores(encoder.encode_queries([query]), vectors)[0]
    return [documents[place].id for place in np.argsort(-scores, kind="stable")[:k]]


def write_beir(folder: Path, probe_set: ProbeSet, kind: ProbeKind) -> Path:
    """The queries of a kind with their passages as a BEIR folder, ids without prefix."""
    import json

    folder.mkdir(parents=True)
    chosen = probe_set.of_kind(kind)
    wanted = {document for probe in chosen for document in probe_set.qrels[probe.id]}
    short = lambda identifier: identifier.removeprefix("set/")  # noqa: E731
    corpus = [
        {"_id": short(document.id), "title": "", "text": document.text}
        for document in probe_set.documents
        if document.id in wanted
    ]
    queries = [{"_id": short(probe.id), "text": probe.text} for probe in chosen]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"{short(probe.id)}\t{short(document)}\t1" for probe in chosen for document in probe_set.qrels[probe.id]]
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines) + "\n")
    return folder
