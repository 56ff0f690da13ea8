"""From an arm's record to rankings: encodings through the cache, then search, gate and fusion.

The response encoder's pass and the teacher's vectors are made once and shared by all arms that need them; what was
encoded stays in the cache, so a cut benchmark goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np

from safe_retrieval.audit.corpus import CorpusIndex
from safe_retrieval.audit.encodings import Encoded, EncodingCache
from safe_retrieval.audit.lexical import LexicalRetriever
from safe_retrieval.audit.models import RecordedEncoder
from safe_retrieval.audit.probes import Probe
from safe_retrieval.audit.targets import Answers
from safe_retrieval.bench.arms import Arm, DocumentSide, QuerySide
from safe_retrieval.bench.models import ArmModels
from safe_retrieval.encoder.blend import BlendEncoder
from safe_retrieval.retrieval.guard import RefusalGate
from safe_retrieval.retrieval.lexical import LexicalIndex
from safe_retrieval.retrieval.retriever import SafeRetriever
from safe_retrieval.types import Document, Encoder, FloatMatrix, GateAction, QueryEncoding, Retrieval

Search: TypeAlias = Callable[[QueryEncoding, Sequence[str], int], list[Retrieval]]
"""Encodings, the same queries as texts, and k; to one retrieval a query."""


class Ranked(NamedTuple):
    """Answers to some queries and the seconds they took: encoding (when it was done) and search."""

    retrievals: tuple[Retrieval, ...]
    encode_seconds: float
    search_seconds: float


class ArmEncoder:
    """Texts to vectors as an arm's record says.

    Args:
        models: the encoders.
        cache: where encodings are kept.
    """

    def __init__(self, models: ArmModels, cache: EncodingCache) -> None:
        self.models = models
        self._cache = cache

    def queries(self, arm: Arm, texts: Sequence[str], *, instruction: str = "") -> Encoded:
        """Vectors of queries, and refusal probabilities where the arm has or needs them.

        Args:
            arm: the arm.
            texts: n queries.
            instruction: put before what the backbone reads; the teacher reads the query alone.

        Returns:
            (n, d) unit vectors, (n, 0) for an arm of words alone.
        """
        asked = arm.asked(texts, instruction)
        match arm.query:
            case QuerySide.NONE:
                encoded = Encoded(QueryEncoding(np.empty((len(texts), 0), dtype=np.float32), None), 0.0)
            case QuerySide.BLEND:
                encoded = self._blend(arm, texts, asked)
            case _:
                encoded = self._encode(self.models.query(arm), asked)
        if not arm.needs_verdict:
            return encoded
        verdict = self._encode(self.models.response, list(texts))
        judged = encoded.encoding._replace(refusal=verdict.encoding.refusal)
        return Encoded(judged, encoded.seconds + verdict.seconds)

    def documents(self, arm: Arm, texts: Sequence[str]) -> tuple[FloatMatrix, Encoder]:
        """(n, d) unit vectors of documents, and who made them."""
        recorded = self.models.document if arm.documents is DocumentSide.TEACHER else self.models.query(arm)
        identity = f"{recorded.identity} passages"
        encoded = self._cache.encode("passages", identity, partial(_encode_passages, recorded.encoder), texts)
        return encoded.encoding.vectors, recorded.encoder

    def _blend(self, arm: Arm, texts: Sequence[str], asked: Sequence[str]) -> Encoded:
        response = self._encode(self.models.response, asked)
        own = self._encode(self.models.document, texts)
        start = time.perf_counter()
        mixed = BlendEncoder.blend(response.encoding, own.encoding.vectors, arm.weight or self.models.blend_weight)
        return Encoded(mixed, response.seconds + own.seconds + time.perf_counter() - start)

    def _encode(self, recorded: RecordedEncoder, texts: Sequence[str]) -> Encoded:
        encode = partial(recorded.encoder.encode, progress=False)
        return self._cache.encode(f"queries, {recorded.encoder.name}", recorded.identity, encode, texts)


class ArmRetriever:
    """One arm over one corpus, also as a target of the audit's scoring.

    Args:
        arm: the arm.
        documents: the corpus.
        encoder: the arm's encodings.
        instruction: see :meth:`ArmEncoder.queries`.

    Raises:
        EncoderMismatchError: the adapter's teacher is not the document encoder.
    """

    def __init__(self, arm: Arm, documents: Sequence[Document], encoder: ArmEncoder, *, instruction: str = "") -> None:
        self._arm, self._encoder, self._instruction = arm, encoder, instruction
        self._search = self._by_words(documents) if arm.query is QuerySide.NONE else self._by_vectors(documents)

    @property
    def name(self) -> str:
        """The arm's name."""
        return self._arm.name

    @property
    def has_gate(self) -> bool:
        """Whether it can refuse a query."""
        return self._arm.gate is not None

    def rank(self, texts: Sequence[str], *, k: int) -> Ranked:
        """At most ``k`` hits for each query."""
        encoded = self._encoder.queries(self._arm, texts, instruction=self._instruction)
        start = time.perf_counter()
        found = self._search(encoded.encoding, texts, k)
        return Ranked(tuple(found), encoded.seconds, time.perf_counter() - start)

    def ask(self, probes: Sequence[Probe], *, k: int) -> Answers:
        """Answer all probes; see :class:`~safe_retrieval.audit.targets.Target`."""
        ranked = self.rank([probe.text for probe in probes], k=k)
        return Answers(tuple(probes), ranked.retrievals, ranked.encode_seconds, ranked.search_seconds)

    def _by_words(self, documents: Sequence[Document]) -> Search:
        retriever = LexicalRetriever(documents)
        return lambda _, texts, k: retriever.retrieve(texts, k=k)

    def _by_vectors(self, documents: Sequence[Document]) -> Search:
        vectors, owner = self._encoder.documents(self._arm, [document.content for document in documents])
        retriever = SafeRetriever(
            CorpusIndex(documents, vectors, owner),
            self._encoder.models.query(self._arm).encoder,
            name=self._arm.name,
            gate=None if self._arm.gate is None else RefusalGate(GateAction.EMPTY, self._arm.gate),
            lexical=LexicalIndex(documents) if self._arm.lexical else None,
        )
        return lambda encoding, texts, k: retriever.retrieve_encoded(encoding, k=k, queries=texts)


def _encode_passages(encoder: Encoder, texts: Sequence[str]) -> QueryEncoding:
    return QueryEncoding(encoder.encode_documents(texts, progress=False), None)
