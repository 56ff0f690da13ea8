"""A corpus that can be asked: an index, an encoder for the query side, and what is done when the backbone would refuse.

::

    retriever = SafeRetriever.open("my-index", gate=GateAction.EMPTY)
    (retrieval,) = retriever.retrieve(["who wrote the Iliad?"], k=5)
    documents = retriever.documents(retrieval)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from safe_retrieval.encoder.texts import clean_texts
from safe_retrieval.errors import InputError
from safe_retrieval.index.filters import Where
from safe_retrieval.index.vectors import check_k, one_row
from safe_retrieval.retrieval.arms import Arm, ArmLoader
from safe_retrieval.retrieval.fusion import reciprocal_rank_fusion
from safe_retrieval.retrieval.guard import DEFAULT_THRESHOLD, RefusalGate, as_judged
from safe_retrieval.retrieval.lexical import LexicalIndex
from safe_retrieval.types import Document, Encoder, FloatMatrix, FloatVector, GateAction, Hit, QueryEncoding, Retrieval

if TYPE_CHECKING:
    from safe_retrieval.encoder.policy import ResponsePolicy

__all__ = ["Arm", "DocumentIndex", "FilteringIndex", "SafeRetriever"]

_Choice = TypeVar("_Choice", bound=StrEnum)

FUSION_DEPTH = 100
"""Hits that a hybrid takes from each side before it fuses them, or ``k`` if that is more."""


class DocumentIndex(Protocol):
    """What a retriever asks of an index; :class:`~safe_retrieval.index.folder.SearchableIndex` is one."""

    def search(self, vectors: FloatMatrix, k: int = 10) -> list[list[Hit]]:
        """At most ``k`` hits for each row of (q, d) float32 unit vectors, best first, ties by position."""

    def get_documents(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in order."""

    def documents(self) -> Iterator[Document]:
        """All documents by position."""

    def check_encoder(self, encoder: Encoder) -> None:
        """Raise ``EncoderMismatchError`` unless the encoder speaks the index's space."""


@runtime_checkable
class FilteringIndex(DocumentIndex, Protocol):
    """What a retriever asks besides for filters, range search and diversity; index folders have it."""

    def search(self, vectors: FloatMatrix, k: int = 10, *, where: Where = None) -> list[list[Hit]]:
        """As of any index, among the documents that fulfil a filter."""

    def search_range(self, vectors: FloatMatrix, min_score: float, *, where: Where = None) -> list[list[Hit]]:
        """All hits with a cosine of at least ``min_score``, in the same order."""

    def search_diverse(
        self, vectors: FloatMatrix, k: int = 10, *, candidates: int = 50, balance: float = 0.5, where: Where = None
    ) -> list[list[Hit]]:
        """Hits that are near the query and far from one another, in the order of choice."""

    def ids(self, *, where: Where = None) -> list[str]:
        """The ids of the documents that fulfil a filter, by position."""


class SafeRetriever:
    """Queries to hits, as :class:`~safe_retrieval.types.Retriever`.

    Args:
        index: where the documents are.
        encoder: turns queries into vectors; ``None`` for purely lexical retrieval.
        name: a name for people, for example ``gated``.
        gate: what is done with a query that would be refused; ``None`` is no gate.
        lexical: BM25 over the same documents; together with an encoder, both rankings are fused by reciprocal rank.
        refusal_encoder: gives the gate its refusal probabilities where ``encoder`` has none.

    Raises:
        EncoderMismatchError: ``encoder`` does not speak the index's space.
        InputError: there is neither encoder nor lexical index, or a gate that nothing can give a verdict to.
    """

    def __init__(
        self,
        index: DocumentIndex,
        encoder: Encoder | None,
        *,
        name: str = "retriever",
        gate: RefusalGate | None = None,
        lexical: LexicalIndex | None = None,
        refusal_encoder: Encoder | None = None,
    ) -> None:
        if encoder is not None:
            index.check_encoder(encoder)
        elif lexical is None:
            raise InputError("expected an encoder, a lexical index or both, got neither")
        elif gate is not None and gate.needs_verdict and refusal_encoder is None:
            raise InputError(f"the gate {gate.action.value!r} needs refusal probabilities; give a refusal_encoder")
        self.index = index
        self._encoder = encoder
        self._name = name
        self._gate = gate or RefusalGate(GateAction.ALLOW)
        self._lexical = lexical
        self._refusal_encoder = refusal_encoder

    @classmethod
    def open(
        cls,
        index_path: str | Path,
        *,
        arm: Arm | str = Arm.OUTPUT,
        gate: GateAction | str = GateAction.ALLOW,
        threshold: float = DEFAULT_THRESHOLD,
        adapter: str | Path | None = None,
        backbone: str | None = None,
        policy: str | ResponsePolicy | None = None,
        dtype: str = "auto",
        offline: bool = False,
    ) -> SafeRetriever:
        """Open an index folder and load what an arm needs to ask it.

        Args:
            index_path: a folder that ``build_index`` made.
            arm: how queries are turned into hits.
            gate: what is done with queries that the backbone would refuse.
            threshold: refusal probability from which the gate fires.
            adapter: folder of a response adapter; ``None`` takes the one shipped for backbone and document encoder.
            backbone: name, hub id or folder of the language model; ``None`` takes the adapter's, or the default.
            policy: name of a response policy, or a system prompt; ``None`` takes the adapter's.
            dtype: what the language model computes in, as :meth:`LanguageModel.load` takes it.
            offline: open no connection.

        Raises:
            InputError: no such arm, gate or policy, or the threshold is outside [0, 1].
            IndexFolderError: the folder is no sound index, or the arm's encoder does not speak its space.
            AdapterError, ModelError: the adapter or a model cannot be had.
        """
        from safe_retrieval.index.folder import load_index  # brings faiss

        arm = _member(Arm, arm)
        refusal_gate = RefusalGate(_member(GateAction, gate), threshold)
        index = load_index(index_path)
        loader = ArmLoader(
            index.manifest.encoder.name,
            adapter=adapter,
            backbone=backbone,
            offline=offline,
            policy=policy,
            dtype=dtype,
        )
        return cls(
            index,
            loader.encoder(arm),
            name=arm.value,
            gate=refusal_gate,
            lexical=LexicalIndex(index.documents()) if arm is Arm.BM25 else None,
            refusal_encoder=loader.refusal_encoder(arm) if refusal_gate.needs_verdict else None,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> SafeRetriever:
        """A retriever that asks the same index through the same models.

        Host frameworks copy what they hold, data sets and pipelines for example. Locks and open files cannot be copied,
        and gigabytes of weights that nobody changes need not be.
        """
        return copy(self)

    @property
    def name(self) -> str:
        """A name for people."""
        return self._name

    def retrieve(self, queries: Sequence[str], *, k: int = 10, where: Where = None) -> list[Retrieval]:
        """Search for each query.

        Args:
            queries: q texts.
            k: most hits for a query.
            where: what the metadata of a hit must fulfil (:mod:`safe_retrieval.index.filters`); k hits come back
                whenever k documents match.

        Returns:
            One :class:`~safe_retrieval.types.Retrieval` for each query, in input order: hits best first, ties by
            document position, and the refusal probability where the encoder or the gate's encoder gives one.

        Raises:
            InputError: a query is not a string, ``k`` is no whole number above 0, the filter is faulty, or the gate has
                no verdict to go by.
        """
        check_hits(k)
        texts = clean_texts(queries)
        if not texts:
            return []
        return self.retrieve_encoded(self.encode(texts), k=k, queries=texts, where=where)

    def retrieve_range(self, queries: Sequence[str], min_score: float, *, where: Where = None) -> list[Retrieval]:
        """All documents that are near enough to each query.

        Args:
            queries: q texts.
            min_score: smallest cosine, itself included.
            where: as in :meth:`retrieve`.

        Returns:
            As :meth:`retrieve`, but as many hits as there are.

        Raises:
            InputError: as in :meth:`retrieve`; ``min_score`` is no finite number; or this retriever looks at words,
                whose scores are no cosines.
        """
        return self._by_vectors(queries, lambda vectors: self._filtering.search_range(vectors, min_score, where=where))

    def retrieve_diverse(
        self, queries: Sequence[str], *, k: int = 10, candidates: int = 50, balance: float = 0.5, where: Where = None
    ) -> list[Retrieval]:
        """Near documents that are not all alike: maximal marginal relevance (Carbonell and Goldstein, 1998).

        Args:
            queries: q texts.
            k: most hits for a query.
            candidates: how many of the nearest documents the hits are chosen from; at least k are.
            balance: 1 asks for the nearest documents alone, 0 for those farthest from one another.
            where: as in :meth:`retrieve`.

        Returns:
            As :meth:`retrieve`, with hits in the order of choice, so scores (cosine to the query) need not fall.

        Raises:
            InputError: as in :meth:`retrieve`; ``balance`` is outside [0, 1]; or this retriever looks at words.
        """

        def search(vectors: FloatMatrix) -> list[list[Hit]]:
            return self._filtering.search_diverse(vectors, k, candidates=candidates, balance=balance, where=where)

        check_hits(k)
        return self._by_vectors(queries, search)

    def search_by_vector(self, vector: FloatVector, *, k: int = 10, where: Where = None) -> Retrieval:
        """The nearest documents to a vector, such as another document's.

        Args:
            vector: (d,) float32, unit norm, in the index's space.
            k: most hits.
            where: as in :meth:`retrieve`.

        Raises:
            InputError: the vector is not that, ``k`` is below 1, or there is a gate: a vector has no refusal
                probability, so the gate would have nothing to go by.
        """
        (hits,) = self._nearest(one_row(vector), check_hits(k), where)
        return self._gate.apply(hits, None)

    def _by_vectors(self, queries: Sequence[str], search: Callable[[FloatMatrix], list[list[Hit]]]) -> list[Retrieval]:
        if self._lexical is not None or self._encoder is None:
            raise InputError(
                f"{self.name} looks at words, whose scores are no cosines; take an arm of vectors alone (input, "
                "output, blend, hyde)"
            )
        texts = clean_texts(queries)
        if not texts:
            return []
        encoding = self.encode(texts)
        return self._gated(search(encoding.vectors), encoding)

    def encode(self, queries: Sequence[str]) -> QueryEncoding:
        """What :meth:`retrieve_encoded` takes: vectors, and the refusal probabilities that the gate needs.

        Without an encoder the vectors are (q, 0). With a gate, of each query that part is read which is judged.
        """
        queries = self._read(queries)
        if self._encoder is None:
            encoding = QueryEncoding(np.empty((len(queries), 0), dtype=np.float32), None)
        else:
            encoding = self._encoder.encode(queries)
        if encoding.refusal is None and self._refusal_encoder is not None:
            return encoding._replace(refusal=self._refusal_encoder.encode(queries).refusal)
        return encoding

    def retrieve_encoded(
        self,
        encoding: QueryEncoding,
        *,
        k: int = 10,
        queries: Sequence[str] | None = None,
        where: Where = None,
    ) -> list[Retrieval]:
        """Search with vectors that are there already, so that several retrievers can share one forward pass.

        Args:
            encoding: vectors (q, d) of this retriever's encoder, and refusal probabilities (q,) if there are any.
            k: most hits for a query.
            queries: the q texts; needed where there is a lexical index.
            where: as in :meth:`retrieve`.

        Raises:
            InputError: the parts do not fit together, texts are missing that are needed, or the gate has no verdict
                to go by.
        """
        return self._gated(self._rankings(encoding, check_hits(k), queries, where), encoding)

    def _gated(self, rankings: Sequence[list[Hit]], encoding: QueryEncoding) -> list[Retrieval]:
        refusals: Sequence[float | None] = [None] * len(rankings)
        if encoding.refusal is not None:
            refusals = _as_floats(encoding.refusal, len(rankings))
        return [self._gate.apply(hits, refusal) for hits, refusal in zip(rankings, refusals, strict=True)]

    def documents(self, retrieval: Retrieval) -> list[Document]:
        """The documents of a retrieval's hits, in their order."""
        return self.index.get_documents([hit.id for hit in retrieval.hits])

    def _rankings(
        self, encoding: QueryEncoding, k: int, queries: Sequence[str] | None, where: Where
    ) -> list[list[Hit]]:
        if self._lexical is None:
            return self._nearest(encoding.vectors, k, where)
        if queries is None or len(queries) != len(encoding.vectors):
            raise InputError(f"{self.name} searches by words: give the {len(encoding.vectors)} queries as texts too")
        queries = self._read(queries)
        within = None if where is None else set(self._filtering.ids(where=where))
        if self._encoder is None:
            return self._lexical.search(queries, k, within=within)
        depth = max(k, FUSION_DEPTH)
        dense = self._nearest(encoding.vectors, depth, where)
        lexical = self._lexical.search(queries, depth, within=within)
        return [reciprocal_rank_fusion(pair, k=k) for pair in zip(dense, lexical, strict=True)]

    def _read(self, queries: Sequence[str]) -> Sequence[str]:
        return as_judged(self._refusal_encoder or self._encoder, queries) if self._gate.needs_verdict else queries

    def _nearest(self, vectors: FloatMatrix, k: int, where: Where) -> list[list[Hit]]:
        return self.index.search(vectors, k) if where is None else self._filtering.search(vectors, k, where=where)

    @property
    def _filtering(self) -> FilteringIndex:
        if not isinstance(self.index, FilteringIndex):
            raise InputError(
                f"{type(self.index).__name__} has no filters, range search or diversity; open an index folder with "
                "load_index, which has them"
            )
        return self.index


def check_hits(k: int) -> int:
    """Refuse a number of hits that is no whole number above 0.

    Raises:
        InputError: it is not.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise InputError(f"expected k as a whole number of hits, got {k!r}")
    return check_k(int(k))


def _as_floats(refusal: FloatVector, count: int) -> list[float]:
    if refusal.shape != (count,):
        raise InputError(f"expected one refusal probability for each of {count} queries, got shape {refusal.shape}")
    return [float(value) for value in refusal]


def _member(choices: type[_Choice], value: str) -> _Choice:
    try:
        return choices(value)
    except ValueError as error:
        raise InputError(f"expected one of {', '.join(choices)}, got {value!r}") from error
