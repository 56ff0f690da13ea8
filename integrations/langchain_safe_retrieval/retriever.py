"""LangChain's ``BaseRetriever`` with the refusal gate, over an index folder or over a vector store that is there.

::

    retriever = SafeRetriever.from_vectorstore(store, on_refusal="empty")  # its documents and vectors stay as they are
    retriever = SafeRetriever.open("my-index", arm="blend", hybrid=True, on_refusal="flag", k=5)
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.runnables import Runnable
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from langchain_safe_retrieval.embeddings import SafeRetrievalEmbeddings
from langchain_safe_retrieval.engine import EncodedQuery
from langchain_safe_retrieval.foreign import encoder_of
from langchain_safe_retrieval.gate import is_flagged
from langchain_safe_retrieval.hybrid import HybridSearch
from langchain_safe_retrieval.stores import AskedStore, Found, asked_store, check_vectors_by
from langchain_safe_retrieval.vectorstore import SafeRetrievalVectorStore
from safe_retrieval.errors import InputError
from safe_retrieval.retrieval.arms import Arm
from safe_retrieval.retrieval.guard import DEFAULT_THRESHOLD
from safe_retrieval.retrieval.retriever import check_hits

VERDICT_EVENT = "safe_retrieval_verdict"
"""Name of the event that callbacks get for each query: ``refusal``, ``flagged``, ``on_refusal``; never a text."""


class OnRefusal(StrEnum):
    """What a retriever does with a query that the backbone would refuse."""

    ALLOW = "allow"
    """Hand over the documents as if there were no gate."""
    EMPTY = "empty"
    """Hand over nothing, and search for nothing."""
    FLAG = "flag"
    """Hand over the documents, with ``flagged`` in their metadata."""
    REDIRECT = "redirect"
    """Hand over what ``redirect_to`` says instead."""


class _Question(NamedTuple):
    """What goes for one query."""

    k: int
    filter: Any
    least: float | None


class SafeRetriever(BaseRetriever):
    """Documents for a query, by the response encoder; refused queries are handled as ``on_refusal`` says.

    Documents come with ``score`` (cosine; fused ranks in a hybrid; ``None`` where a store does not say; the target's
    own after a redirection), ``refusal`` (probability, or ``None``) and ``flagged`` in their metadata. Give ``k``,
    ``filter`` or ``score_threshold`` to ``invoke`` to change them for one query. Who asks, whom, and what a refusal
    does cannot be changed afterwards.

    Raises:
        ValueError: a setting is not what it should be (pydantic's ``ValidationError``).
        IndexFolderError: there is no sound index in ``index_path``.
        EncoderMismatchError: the store's vectors were made by another model than ``embeddings`` has.
        ModelError: the document encoder cannot be had. The language model is loaded on the first query.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    index_path: str | None = Field(
        default=None, frozen=True, description="An index folder; either this or a vector store."
    )
    vectorstore: VectorStore | None = Field(default=None, frozen=True, description="Any LangChain vector store.")
    embeddings: SafeRetrievalEmbeddings = Field(
        default_factory=SafeRetrievalEmbeddings, frozen=True, description="Who asks."
    )
    k: int = Field(default=4, ge=1, description="Most documents.")
    score_threshold: float | None = Field(default=None, ge=-1, le=1, description="Smallest cosine of a document.")
    hybrid: bool = Field(
        default=False, frozen=True, description="Fuse with BM25 by reciprocal rank; an index of ours alone."
    )
    filter: Any = Field(default=None, description="As the store takes it; a mapping for an index of ours.")
    on_refusal: OnRefusal = Field(default=OnRefusal.ALLOW, frozen=True)
    refusal_threshold: float = Field(default=DEFAULT_THRESHOLD, ge=0, le=1, description="Probability that fires.")
    redirect_to: list[Document] | Runnable[str, list[Document]] | None = Field(
        default=None, frozen=True, description="Documents, or what finds them (another retriever), for refused queries."
    )

    _store: VectorStore = PrivateAttr()
    _asked: AskedStore = PrivateAttr()
    _hybrid_search: HybridSearch | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check(self) -> SafeRetriever:
        if (self.index_path is None) == (self.vectorstore is None):
            raise InputError("expected either index_path or vectorstore; open and from_vectorstore give one of them")
        if (self.redirect_to is not None) != (self.on_refusal is OnRefusal.REDIRECT):
            raise InputError('expected redirect_to together with on_refusal="redirect", and only then')
        if self.vectorstore is not None:
            self._store = self.vectorstore
        else:
            self._store = SafeRetrievalVectorStore.load_local(str(self.index_path), self.embeddings)
        self._asked = asked_store(self._store)
        if self.vectorstore is not None:
            check_vectors_by(self.embeddings.documents_by, self._store, self._asked)
        if self.hybrid:
            if not isinstance(self._store, SafeRetrievalVectorStore):
                raise InputError("hybrid needs the documents' words, which an index of ours has; take index_path")
            self._hybrid_search = HybridSearch(self._store.index, self.embeddings.documents_by)
        self._check_threshold(self.score_threshold)
        return self

    @classmethod
    def open(
        cls,
        index_path: str | Path,
        *,
        arm: Arm | str = Arm.OUTPUT,
        adapter: str | None = None,
        backbone: str | None = None,
        policy: str | None = None,
        dtype: str = "auto",
        offline: bool = False,
        **settings: Any,
    ) -> Self:
        """A retriever over an index folder, with the document encoder that the folder names.

        Args:
            index_path: the folder.
            arm: how queries are encoded: ``output``, ``blend``, ``hyde`` or ``input``.
            adapter: folder of a response adapter; ``None`` takes the one shipped for backbone and document encoder.
            backbone: language model; ``None`` takes the adapter's, or the default.
            policy: name of a response policy, or a system prompt; ``None`` takes the adapter's.
            dtype: what the language model computes in: ``auto``, ``float32``, ``bfloat16`` or ``int8``.
            offline: open no connection.
            settings: the class's other fields.

        Raises:
            ValueError, IndexFolderError, EncoderMismatchError, ModelError: as the class.
        """
        from safe_retrieval.index.manifest import read_manifest

        embeddings = SafeRetrievalEmbeddings(
            arm=arm,
            document_encoder=read_manifest(Path(index_path)).encoder.name,
            adapter=adapter,
            backbone=backbone,
            policy=policy,
            dtype=dtype,
            offline=offline,
        )
        return cls(index_path=str(index_path), embeddings=embeddings, **settings)

    @classmethod
    def from_vectorstore(
        cls, store: VectorStore, *, embeddings: SafeRetrievalEmbeddings | None = None, **settings: Any
    ) -> Self:
        """A retriever over a vector store that is there: its documents and vectors stay, the query side is ours.

        Both sides' models are checked now: some stored documents are embedded again, and the response adapter must have
        been trained for the model that embedded them.

        Args:
            store: InMemoryVectorStore, the community FAISS, Chroma, Qdrant or ours. Any other works without scores, and
                is judged by its embeddings in place of its vectors.
            embeddings: the query side; ``None`` takes the store's own if it is ours and has another arm than ``input``,
                which would swap nothing; with ``input``, and for any other store, the arm ``output``, and the document
                encoder that the store's embeddings name, or the default one.
            settings: the class's other fields.

        Raises:
            ValueError, EncoderMismatchError, AdapterError, ModelError: as the class.
        """
        retriever = cls(vectorstore=store, embeddings=embeddings or _query_side(store.embeddings), **settings)
        _ = (
            retriever.embeddings.queries_by
        )  # so that an adapter for another model shows here, and not on the first query
        return retriever

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that asks the same store through the same models: neither open files nor weights can be copied."""
        shared = {id(part): part for part in (self._store, self._asked, self._hybrid_search)}
        return super().__deepcopy__({**(memo or {}), **shared})

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """LangChain may write the settings down; a retriever over a folder can be made of them again."""
        return True

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Any = None,  # noqa: A002  # the host's word
        score_threshold: float | None = None,
    ) -> list[Document]:
        question = self._question(k, filter, score_threshold)
        encoded = self.embeddings.encode_query(query, judged=self._is_gated)
        flagged = self._is_flagged(encoded)
        config: Any = {"callbacks": run_manager.get_child()}
        dispatch_custom_event(VERDICT_EVENT, self._event(encoded, flagged), config=config)
        if flagged and self.on_refusal is OnRefusal.EMPTY:
            return []
        if flagged and isinstance(self.redirect_to, Runnable):
            return _marked(_redirected(self.redirect_to.invoke(query, config)), encoded, flagged)
        return self._found(question, encoded, flagged)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Any = None,  # noqa: A002  # the host's word
        score_threshold: float | None = None,
    ) -> list[Document]:
        question = self._question(k, filter, score_threshold)
        encoded = await self.embeddings.aencode_query(query, judged=self._is_gated)
        flagged = self._is_flagged(encoded)
        config: Any = {"callbacks": run_manager.get_child()}
        await adispatch_custom_event(VERDICT_EVENT, self._event(encoded, flagged), config=config)
        if flagged and self.on_refusal is OnRefusal.EMPTY:
            return []
        if flagged and isinstance(self.redirect_to, Runnable):
            documents = await self.redirect_to.ainvoke(query, config)
            return _marked(_redirected(documents), encoded, flagged)
        return await asyncio.to_thread(self._found, question, encoded, flagged)

    @property
    def _is_gated(self) -> bool:
        return self.on_refusal is not OnRefusal.ALLOW

    def _is_flagged(self, encoded: EncodedQuery) -> bool:
        return self._is_gated and is_flagged(encoded.refusal, self.refusal_threshold)

    def _event(self, encoded: EncodedQuery, flagged: bool) -> dict[str, Any]:
        return {"refusal": encoded.refusal, "flagged": flagged, "on_refusal": self.on_refusal.value}

    def _question(self, k: int | None, filter: Any, least: float | None) -> _Question:  # noqa: A002
        question = _Question(
            check_hits(self.k if k is None else k),
            self.filter if filter is None else filter,
            self.score_threshold if least is None else least,
        )
        self._check_threshold(question.least)
        return question

    def _found(self, question: _Question, encoded: EncodedQuery, flagged: bool) -> list[Document]:
        if flagged and isinstance(self.redirect_to, list):
            return _marked(_redirected(self.redirect_to), encoded, flagged)
        k, wanted, least = question
        if self._hybrid_search is not None:
            return _marked(self._hybrid_search.search(encoded, k, wanted), encoded, flagged)
        found = self._asked.search(encoded.vector.tolist(), k, wanted)
        return _marked([each for each in found if least is None or _cosine(each) >= least], encoded, flagged)

    def _check_threshold(self, least: float | None) -> None:
        if least is None:
            return
        if not -1 <= least <= 1:  # NaN fails too
            raise InputError(f"expected score_threshold as a cosine from -1 to 1, got {least}")
        if self.hybrid:
            raise InputError("score_threshold compares cosines, and a hybrid's scores are made of ranks; take one")

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = type(self._store).__name__
        params["ls_embedding_provider"] = type(self.embeddings).__name__
        params["ls_embedding_model"] = f"{self.embeddings.arm.value} over {self.embeddings.document_encoder}"
        return params


def _query_side(own: Embeddings | None) -> SafeRetrievalEmbeddings:
    """Who asks a store unless somebody is named; the arm ``input`` is what stored the documents, and swaps nothing."""
    if not isinstance(own, SafeRetrievalEmbeddings):
        return SafeRetrievalEmbeddings(document_encoder=encoder_of(own))
    return own if own.arm is not Arm.INPUT else SafeRetrievalEmbeddings(**{**own.model_dump(), "arm": Arm.OUTPUT})


def _redirected(documents: list[Document]) -> list[Found]:
    """Documents of a redirection; what another retriever scored keeps its score."""
    return [Found(each, each.metadata.get("score")) for each in documents]


def _cosine(found: Found) -> float:
    if found.cosine is None:
        raise InputError("expected a store whose scores are cosines to compare with score_threshold; leave it out")
    return found.cosine


def _marked(found: list[Found], encoded: EncodedQuery, flagged: bool) -> list[Document]:
    """New documents, so that what a store holds in memory stays as it is."""
    return [
        Document(
            id=document.id,
            page_content=document.page_content,
            metadata={**document.metadata, "score": cosine, "refusal": encoded.refusal, "flagged": flagged},
        )
        for document, cosine in found
    ]
