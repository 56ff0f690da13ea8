"""LlamaIndex's ``BaseRetriever`` over an index folder of ours, with the refusal gate."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Self

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import MetadataFilters

from llama_index_safe_retrieval.filters import where_from
from safe_retrieval.retrieval.retriever import SafeRetriever, check_hits
from safe_retrieval.types import Document, Retrieval

VERDICT_KEYS = ("refusal", "flagged")
"""Metadata that says what the gate thought of the query; neither a language model nor an embedding gets to read it."""


class SafeRetrievalRetriever(BaseRetriever):
    """Nodes for a query, or none where the gate is shut.

    Args:
        retriever: what searches.
        similarity_top_k: most nodes for a query.
        filters: what the metadata must fulfil; a search looks at the matching documents alone.
        arguments: passed on to LlamaIndex's class: ``callback_manager``, ``verbose`` and so on.

    Raises:
        InputError: ``similarity_top_k`` is no whole number above 0, or a filter looks into texts.
    """

    def __init__(
        self,
        retriever: SafeRetriever,
        *,
        similarity_top_k: int = 10,
        filters: MetadataFilters | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.similarity_top_k = check_hits(similarity_top_k)
        self._where = where_from(filters)
        self._retriever = retriever

    @classmethod
    def open(
        cls,
        index_path: str | Path,
        *,
        similarity_top_k: int = 10,
        filters: MetadataFilters | None = None,
        callback_manager: CallbackManager | None = None,
        **settings: Any,
    ) -> Self:
        """Open an index folder; the other arguments and errors are those of ``SafeRetriever.open``."""
        retriever = SafeRetriever.open(index_path, **settings)
        return cls(retriever, similarity_top_k=similarity_top_k, filters=filters, callback_manager=callback_manager)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        # Always from the text: an embedding that came with the bundle was made by some other encoder.
        (found,) = self._retriever.retrieve([query_bundle.query_str], k=self.similarity_top_k, where=self._where)
        documents = self._retriever.documents(found)
        return [
            NodeWithScore(node=_node(document, found), score=hit.score)
            for document, hit in zip(documents, found.hits, strict=True)
        ]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _node(document: Document, found: Retrieval) -> TextNode:
    title = {"title": document.title} if document.title else {}
    return TextNode(
        id_=document.id,
        text=document.text,
        metadata={**title, **document.metadata, "refusal": found.refusal, "flagged": found.flagged},
        excluded_llm_metadata_keys=list(VERDICT_KEYS),
        excluded_embed_metadata_keys=list(VERDICT_KEYS),
    )
