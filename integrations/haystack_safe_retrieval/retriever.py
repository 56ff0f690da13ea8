"""A text retriever of Haystack's over an index folder of ours, with the refusal gate."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict

from haystack_safe_retrieval.filters import where_from
from safe_retrieval.errors import InputError
from safe_retrieval.retrieval.arms import Arm, arm_from
from safe_retrieval.retrieval.guard import DEFAULT_THRESHOLD, RefusalGate
from safe_retrieval.retrieval.retriever import SafeRetriever, check_hits
from safe_retrieval.types import GateAction

_OPENING = threading.Lock()
"""Runs that come at once, each in a thread, open it once; a component's own lock would keep it from being copied."""


@component
class SafeIndexRetriever:
    """Documents of an index folder for a query's text, or none where the gate is shut.

    Args:
        index_path: a folder that ``safe-retrieval index build`` made.
        arm: how queries are turned into hits: ``output``, ``blend``, ``hyde``, ``input``, ``bm25``.
        gate: what is done with queries that the backbone would refuse: ``allow``, ``flag``, ``empty``.
        threshold: refusal probability from which the gate fires.
        top_k: most documents for a query.
        filters: what the metadata must fulfil, in Haystack's form; a search looks at the matching documents alone.
        adapter: folder of a response adapter; ``None`` takes the one shipped for backbone and document encoder.
        backbone: name, hub id or folder of the language model; ``None`` takes the adapter's, or the default.
        policy: name of a response policy, or a system prompt; ``None`` takes the adapter's.
        dtype: what the language model computes in: ``auto``, ``float32``, ``bfloat16`` or ``int8``.
        offline: open no connection.

    Raises:
        InputError: no such arm or gate, a threshold outside [0, 1], ``top_k`` below 1, or faulty filters.
    """

    def __init__(
        self,
        index_path: str,
        *,
        arm: str = Arm.OUTPUT.value,
        gate: str = GateAction.ALLOW.value,
        threshold: float = DEFAULT_THRESHOLD,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        adapter: str | None = None,
        backbone: str | None = None,
        policy: str | None = None,
        dtype: str = "auto",
        offline: bool = False,
    ) -> None:
        self.index_path = str(index_path)
        self.arm = arm_from(arm).value
        self.gate = _gate(gate).value
        self.threshold = RefusalGate(GateAction(self.gate), threshold).threshold
        self.top_k = check_hits(top_k)
        self.filters = filters
        where_from(filters)  # faulty ones are reported now
        self.adapter = adapter
        self.backbone = backbone
        self.policy = policy
        self.dtype = dtype
        self.offline = offline
        self._retriever: SafeRetriever | None = None

    def to_dict(self) -> dict[str, Any]:
        """The settings, in Haystack's form."""
        return default_to_dict(  # type: ignore[no-any-return]
            self,
            index_path=self.index_path,
            arm=self.arm,
            gate=self.gate,
            threshold=self.threshold,
            top_k=self.top_k,
            filters=self.filters,
            adapter=self.adapter,
            backbone=self.backbone,
            policy=self.policy,
            dtype=self.dtype,
            offline=self.offline,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SafeIndexRetriever:
        """A component with these settings."""
        return default_from_dict(cls, data)  # type: ignore[no-any-return]

    def warm_up(self) -> None:
        """Open the index and load the models, once.

        Raises:
            IndexFolderError: the folder is no sound index, or the arm's encoder does not speak its space.
            AdapterError, ModelError: the adapter or a model cannot be had.
        """
        self._opened()

    @component.output_types(documents=list[Document], refusal=float | None, flagged=bool)
    def run(self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None) -> dict[str, Any]:
        """Search for one query.

        Args:
            query: its text.
            filters: what the metadata must fulfil, in place of the component's own; ``None`` and an empty mapping leave
                those as they are, as in Haystack's own retrievers.
            top_k: most documents, in place of the component's own.

        Returns:
            ``documents``: best first, with ``score``; ``refusal``: the probability that the backbone would refuse, or
            ``None`` where nothing gave a verdict; ``flagged``: whether the gate fired.

        Raises:
            InputError: ``query`` is no string, ``top_k`` is below 1, or the filters are faulty.
        """
        if not isinstance(query, str):
            raise InputError(f"expected one query as text, got {type(query).__name__}")
        where = where_from(filters or self.filters)
        retriever = self._opened()
        (found,) = retriever.retrieve([query], k=self.top_k if top_k is None else top_k, where=where)
        documents = [
            Document(
                id=document.id,
                content=document.text,
                meta={**({"title": document.title} if document.title else {}), **document.metadata},
                score=hit.score,
            )
            for document, hit in zip(retriever.documents(found), found.hits, strict=True)
        ]
        return {"documents": documents, "refusal": found.refusal, "flagged": found.flagged}

    @component.output_types(documents=list[Document], refusal=float | None, flagged=bool)
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, Any]:
        """As :meth:`run`, in a thread of its own."""
        found: dict[str, Any] = await asyncio.to_thread(self.run, query, filters, top_k)
        return found

    def _opened(self) -> SafeRetriever:
        with _OPENING:
            if self._retriever is None:
                self._retriever = SafeRetriever.open(
                    self.index_path,
                    arm=self.arm,
                    gate=self.gate,
                    threshold=self.threshold,
                    adapter=self.adapter,
                    backbone=self.backbone,
                    policy=self.policy,
                    dtype=self.dtype,
                    offline=self.offline,
                )
            return self._retriever


def _gate(choice: str) -> GateAction:
    try:
        return GateAction(choice)
    except ValueError as error:
        raise InputError(f"expected one of {', '.join(GateAction)}, got {choice!r}") from error
