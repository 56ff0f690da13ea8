"""A probe set small enough to count by hand, and encoders that need no model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.probes import Probe, ProbeKind, ProbeSet
from safe_retrieval.types import Document, FloatMatrix, Hit, QueryEncoding, Retrieval

DIMENSION = 64


def document(identifier: str, *, harmful: bool, hazard: str | None = None) -> Document:
    metadata = {"harmful": harmful, "hazard": hazard, "kind": "harmful-standin" if harmful else "benign", "source": "t"}
    return Document(identifier, f"passage words of {identifier} zyxw", metadata=metadata)


def make_probe_set() -> ProbeSet:
    """Four harmful, four benign and two sensitive queries over eight documents."""
    harmful = [
        Probe("h1", "request wording one qqq", ProbeKind.HARMFUL, Hazard.CBRNE, "b1"),
        Probe("h2", "request wording two qqq", ProbeKind.HARMFUL, Hazard.CBRNE),
        Probe("h3", "request wording three qqq", ProbeKind.HARMFUL, Hazard.HATE),
        Probe("h4", "request wording four qqq", ProbeKind.HARMFUL),
    ]
    benign = [Probe(f"b{i}", f"benign wording {i} qqq", ProbeKind.BENIGN) for i in (1, 2, 3, 4)]
    sensitive = [Probe(f"s{i}", f"sensitive wording {i} qqq", ProbeKind.SENSITIVE) for i in (1, 2)]
    documents = [document(f"H{i}", harmful=True, hazard="cbrne" if i < 3 else "hate") for i in (1, 2, 3)]
    documents += [document(f"B{i}", harmful=False) for i in (1, 2, 3, 4)] + [document("S1", harmful=False)]
    qrels = {"h1": {"H1": 1}, "h2": {"H2": 1}, "h3": {"H3": 1}}
    qrels |= {f"b{i}": {f"B{i}": 1} for i in (1, 2, 3, 4)} | {"s1": {"S1": 1}}
    return ProbeSet("tiny", "1.0", "0" * 64, tuple(documents), (*harmful, *benign, *sensitive), qrels)


@pytest.fixture
def probe_set() -> ProbeSet:
    return make_probe_set()


@dataclass
class ScriptedRetriever:
    """Answers from a table of query text to ids; flags and verdicts too."""

    answers: dict[str, list[str]]
    name: str = "scripted"
    flagged: frozenset[str] = frozenset()
    refusal: dict[str, float] = field(default_factory=dict)

    def retrieve(self, queries: Sequence[str], *, k: int = 10) -> list[Retrieval]:
        return [
            Retrieval(
                tuple(Hit(identifier, 1.0 - rank / 10) for rank, identifier in enumerate(self.answers.get(query, []))),
                self.refusal.get(query),
                query in self.flagged,
            )
            for query in queries
        ]


def scripted(probe_set: ProbeSet, answers: dict[str, list[str]], **rest: object) -> ScriptedRetriever:
    """The same by probe id instead of text."""
    text = {probe.id: probe.text for probe in probe_set.queries}
    flagged = frozenset(text[identifier] for identifier in rest.get("flagged", ()))  # type: ignore[attr-defined]
    refusal = {text[identifier]: value for identifier, value in rest.get("refusal", {}).items()}  # type: ignore[attr-defined]
    return ScriptedRetriever({text[key]: ids for key, ids in answers.items()}, flagged=flagged, refusal=refusal)


def hashed_vectors(texts: Sequence[str]) -> FloatMatrix:
    """One unit vector a text from the words in it: texts that share words are near each other."""
    vectors = np.zeros((len(texts), DIMENSION), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().split():
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
            vectors[row] += np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
        vectors[row] /= np.linalg.norm(vectors[row])
    return vectors


class FakeEncoder:
    """Words to vectors; refuses what holds ``request``. Counts the texts it was given."""

    dimension = DIMENSION
    space = "sha256:fake-space"

    def __init__(self, name: str = "fake", *, verdict: bool = False) -> None:
        self.name = name
        self.verdict = verdict
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        self.encoded += texts
        refusal = np.array([0.9 if "request" in text else 0.1 for text in texts], dtype=np.float32)
        return QueryEncoding(hashed_vectors(texts), refusal if self.verdict else None)

    def encode_queries(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        return self.encode(texts).vectors

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        return hashed_vectors(texts)
