"""The refusal gate as a step of a chain: would the backbone refuse this query?"""

from __future__ import annotations

from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig, RunnableSerializable
from pydantic import ConfigDict, Field

from langchain_safe_retrieval.embeddings import SafeRetrievalEmbeddings
from langchain_safe_retrieval.engine import EncodedQuery
from safe_retrieval.retrieval.guard import DEFAULT_THRESHOLD
from safe_retrieval.retrieval.guard import RefusalGate as Gate
from safe_retrieval.types import GateAction


class Verdict(TypedDict):
    """What a gate thinks of a query."""

    query: str
    """The query itself, for the step that comes next."""
    refusal: float
    """Calibrated probability in [0, 1] that the backbone would refuse to answer."""
    flagged: bool
    """Whether it reaches the threshold."""


def is_flagged(refusal: float | None, threshold: float) -> bool:
    """Whether a gate of this threshold fires.

    Raises:
        InputError: there is no refusal probability to go by.
    """
    return Gate(GateAction.FLAG, threshold).apply((), refusal).flagged


class RefusalGate(RunnableSerializable[str, Verdict]):
    """A query to its :class:`Verdict`, for chains that do not retrieve through :class:`SafeRetriever`.

    ::

        gate = RefusalGate(threshold=0.8)
        chain = gate | RunnableBranch((itemgetter("flagged"), decline), itemgetter("query") | answer)

    Raises:
        ValueError: the threshold is outside [0, 1] (pydantic's ``ValidationError``).
    """

    model_config = ConfigDict(extra="forbid")

    embeddings: SafeRetrievalEmbeddings = Field(default_factory=SafeRetrievalEmbeddings)
    threshold: float = Field(default=DEFAULT_THRESHOLD, ge=0, le=1)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """LangChain may write the settings down."""
        return True

    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> Verdict:  # noqa: A002  # the host's word
        """Judge one query.

        Raises:
            InputError: it is no string.
            AdapterError, ModelError: the adapter or a model cannot be had.
        """
        return self._call_with_config(self._judged, input, config, **kwargs)

    async def ainvoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> Verdict:  # noqa: A002  # the host's word
        """As :meth:`invoke`; queries that are judged at the same time share a forward pass."""
        return await self._acall_with_config(self._ajudged, input, config, **kwargs)

    def _judged(self, query: str) -> Verdict:
        return self._verdict(query, self.embeddings.encode_query(query, judged=True))

    async def _ajudged(self, query: str) -> Verdict:
        return self._verdict(query, await self.embeddings.aencode_query(query, judged=True))

    def _verdict(self, query: str, encoded: EncodedQuery) -> Verdict:
        flagged = is_flagged(encoded.refusal, self.threshold)
        return Verdict(query=query, refusal=encoded.refusal or 0.0, flagged=flagged)
