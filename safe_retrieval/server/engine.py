"""What answers requests: encoders behind batching lanes, and an index; it knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.encoder.paired import PairedEncoder
from safe_retrieval.errors import IndexFolderError, InputError, ModelError
from safe_retrieval.index.filters import Where, texts_in
from safe_retrieval.index.searchable import SearchableIndex
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.retrieval.arms import Arm, ArmLoader
from safe_retrieval.retrieval.guard import RefusalGate, as_judged
from safe_retrieval.retrieval.retriever import SafeRetriever
from safe_retrieval.server.batching import Batcher, Encode, Encoded, Pass
from safe_retrieval.server.settings import ServerSettings
from safe_retrieval.types import Document, Encoder, FloatVector, GateAction, QueryEncoding, Retrieval

CountTokens: TypeAlias = Callable[[Sequence[str]], Sequence[int]]
"""Tokens of each text."""

_REFRESH_SECONDS = 1.0
"""How old the state of the index may be that a search sees, where another process changes it."""

_STRICTNESS = {GateAction.ALLOW: 0, GateAction.FLAG: 1, GateAction.EMPTY: 2}

_WARM_UP = "How do tides work?"

_NO_INDEX = "this server has no index to search; start it with an index folder"

_NO_VERDICT = (
    "nothing here gives refusal probabilities; start the server with another arm than input, or with a gate, which "
    "loads the language model"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """What a server serves.

    Attributes:
        name: the model's name; with ``-document`` after it, it is the name of the document side.
        encoder: queries through the one side, documents through the other.
        judge: gives refusal probabilities where the query side has none; ``None`` leaves it without.
        count_tokens: tokens of texts, for the usage that responses report.
        gate: what is done with queries that would be refused. A request may ask for a stricter gate, never for a
            looser one.
        index: what is searched; ``None`` serves no search.
    """

    name: str
    encoder: PairedEncoder
    count_tokens: CountTokens
    gate: RefusalGate
    judge: Encoder | None = None
    index: SearchableIndex | None = None


def open_served(
    index: Path | None,
    *,
    arm: Arm,
    gate: RefusalGate,
    document_encoder: str = DEFAULT_DOCUMENT_ENCODER,
    adapter: Path | None = None,
    backbone: str | None = None,
    policy: str | None = None,
    dtype: str = "auto",
    name: str | None = None,
    offline: bool = False,
    filter_seconds: float | None = None,
) -> Served:
    """Load what a server needs.

    Args:
        index: an index folder to search; it decides which document encoder is used.
        arm: how queries become vectors.
        gate: the gate; any other than ``allow`` needs a verdict, so the arm ``input`` loads the language model for it.
        document_encoder: the document encoder where there is no index.
        adapter: folder of a response adapter; ``None`` takes the one shipped for backbone and document encoder.
        backbone: name, hub id or folder of the language model; ``None`` takes the adapter's, or the default.
        policy: name of a response policy, or a system prompt; ``None`` takes the adapter's.
        dtype: what the language model computes in, as :meth:`LanguageModel.load` takes it.
        name: the model's name to callers; ``None`` makes it of the arm.
        offline: open no connection.
        filter_seconds: most that the filter of a request may take, which keeps a thread from other searches.

    Raises:
        InputError: the arm has no vectors.
        IndexFolderError: the folder is no sound index, or the arm's encoder does not speak its space.
        AdapterError, ModelError: the adapter or a model cannot be had.
    """
    from safe_retrieval.encoder.input import InputEncoder
    from safe_retrieval.encoder.pooled import PooledEncoder
    from safe_retrieval.encoder.progress import quiet_loading
    from safe_retrieval.index.folder import load_index  # brings faiss

    with ExitStack() as on_failure:
        opened = None
        if index is not None:
            opened = on_failure.enter_context(load_index(index, read_only=True, filter_seconds=filter_seconds))
        chosen = document_encoder if opened is None else opened.manifest.encoder.name
        loader = ArmLoader(chosen, adapter=adapter, backbone=backbone, offline=offline, policy=policy, dtype=dtype)
        with quiet_loading():  # stderr is the log
            pair = loader.paired(arm)
            judge = loader.refusal_encoder(arm) if gate.needs_verdict else None
        if opened is not None:
            opened.check_encoder(pair)
        if not isinstance(pair.document, InputEncoder | PooledEncoder):
            raise ModelError(f"expected a document encoder that counts tokens, got {type(pair.document).__name__}")
        on_failure.pop_all()  # the engine closes the index
    return Served(
        name=name or f"safe-retrieval-{arm.value}",
        encoder=pair,
        count_tokens=pair.document.token_counts,
        gate=gate,
        judge=judge,
        index=opened,
    )


class Found(NamedTuple):
    """The answer to one query of a search; ``documents`` are those of the hits, in their order."""

    retrieval: Retrieval
    documents: list[Document]


class Searched(NamedTuple):
    """The answers to the queries of a search, the gate they passed, and the tokens they had."""

    found: list[Found]
    gate: RefusalGate
    tokens: int


class Engine:
    """Encoders behind lanes, and an index. Used in one event loop, between :meth:`start` and :meth:`close`.

    All lanes share one thread: a forward pass uses every core by itself, and two at once would only slow each other.

    Args:
        served: what is served.
        settings: limits.
        observe: is told of every forward pass.
    """

    def __init__(self, served: Served, settings: ServerSettings, observe: Callable[[Pass], None]) -> None:
        self.served = served
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encoding")
        self._searching = ThreadPoolExecutor(2, thread_name_prefix="searching")
        self._refreshed = time.monotonic()
        self._batch = settings.max_batch

        def lane(name: str, encode: Encode) -> Batcher:
            return Batcher(
                name,
                encode,
                self._encoding,
                max_batch=settings.max_batch,
                wait=settings.batch_wait,
                max_waiting=settings.max_waiting,
                observe=observe,
            )

        encoder, judge = served.encoder, served.judge
        self._queries = lane("query", lambda texts: self._judged(encoder, as_judged(judge, texts)))
        self._documents = lane("document", self._encode_documents)
        self._verdicts = None if judge is None else lane("verdict", lambda texts: self._judged(judge, texts))
        self.has_verdict = judge is not None

    @property
    def lanes(self) -> list[Batcher]:
        """All lanes, for metrics."""
        return [lane for lane in (self._queries, self._documents, self._verdicts) if lane is not None]

    async def start(self) -> None:
        """Begin to work, and compute once, so that the first caller does not wait for what is set up on first use."""
        for lane in self.lanes:
            lane.start()
        encoded = await self._queries.encode([_WARM_UP])
        await self._documents.encode([_WARM_UP])
        if self._verdicts is not None:
            await self._verdicts.encode([_WARM_UP])
        self.has_verdict = self.has_verdict or encoded.refusal is not None

    async def close(self) -> None:
        """Stop working and close the index."""
        for lane in self.lanes:
            await lane.close()
        self._encoding.shutdown(wait=False, cancel_futures=True)
        self._searching.shutdown(wait=True)
        if self.served.index is not None:
            self.served.index.close()

    async def encode_queries(self, texts: Sequence[str]) -> Encoded:
        """Encode queries; see :class:`~safe_retrieval.server.batching.Encoded`."""
        return await self._queries.encode(texts)

    async def encode_documents(self, texts: Sequence[str]) -> Encoded:
        """Encode documents; ``refusal`` is ``None``."""
        return await self._documents.encode(texts)

    async def judge(self, texts: Sequence[str]) -> tuple[FloatVector, int]:
        """Refusal probabilities (n,) in [0, 1], and the tokens of all texts together.

        Raises:
            InputError: nothing here has a verdict.
        """
        encoded = await (self._verdicts or self._queries).encode(texts)
        if encoded.refusal is None:
            raise InputError(_NO_VERDICT)
        return encoded.refusal, int(encoded.tokens.sum())

    async def search(
        self,
        queries: Sequence[str],
        *,
        k: int,
        action: GateAction | None = None,
        threshold: float | None = None,
        where: Where = None,
    ) -> Searched:
        """Search the index.

        Args:
            queries: q texts.
            k: most hits for a query.
            action: of the gate; ``None`` takes the server's.
            threshold: of the gate; ``None`` takes the server's.
            where: what the metadata of a hit must fulfil (:mod:`safe_retrieval.index.filters`); a gate judges words and
                phrases that it looks for as it judges the queries.

        Raises:
            InputError: there is no index; the gate asked for is looser than the server's, or has no verdict to go by;
                or the filter is faulty.
        """
        gate = self._gate(action, threshold)
        if self.served.index is None:
            raise InputError(_NO_INDEX)
        if self._verdicts is not None and gate.needs_verdict:
            encoded = await self._encode_and_judge(queries)
        else:
            encoded = await self._queries.encode(queries)
        if gate.needs_verdict and (words := texts_in(where)):
            encoded = await self._judged_with(words, queries, encoded)
        find = partial(self._find, queries, encoded, k=k, gate=gate, where=where)
        found = await asyncio.get_running_loop().run_in_executor(self._searching, find)
        return Searched(found, gate, int(encoded.tokens.sum()))

    async def _encode_and_judge(self, queries: Sequence[str]) -> Encoded:
        """Both at once; where one lane sends the request away, the other does not work for it either."""
        vectors = asyncio.ensure_future(self._queries.encode(queries))
        verdicts = asyncio.ensure_future(self.judge(queries))
        try:
            encoded, (refusal, _) = await asyncio.gather(vectors, verdicts)
        finally:
            vectors.cancel()
            verdicts.cancel()
        return encoded._replace(refusal=refusal)

    async def _judged_with(self, words: Sequence[str], queries: Sequence[str], encoded: Encoded) -> Encoded:
        """The worst verdict on a query, on the filter's words, each and together, and on both: all is searched for.

        Raises:
            InputError: the words are more than the judge reads.
        """
        if encoded.refusal is None:
            return encoded
        together = " ".join(words)
        if as_judged(self.served.judge or self.served.encoder, [together]) != [together]:
            raise InputError(
                f"the words and phrases of the filter are more than the gate reads ({len(together):,} characters); "
                "look for fewer"
            )
        apart = [*words, together]
        refusal, _ = await self.judge([*apart, *(f"{query} {together}" for query in queries)])
        worst = np.maximum(encoded.refusal, refusal[: len(apart)].max())
        return encoded._replace(refusal=np.maximum(worst, refusal[len(apart) :]))

    def _index(self) -> SearchableIndex:
        """The index in one state, whatever is written meanwhile, and at most a second behind other processes."""
        index = self.served.index
        if index is None:
            raise InputError(_NO_INDEX)
        if time.monotonic() - self._refreshed >= _REFRESH_SECONDS:
            self._refreshed = time.monotonic()
            try:
                index.refresh()
            except IndexFolderError as error:  # the state that is open stays open, and can be searched
                _log.warning("index not refreshed", extra={"fields": {"error": type(error).__name__}})
        return index.frozen()

    def _gate(self, action: GateAction | None, threshold: float | None) -> RefusalGate:
        own = self.served.gate
        gate = RefusalGate(action or own.action, own.threshold if threshold is None else threshold)
        looser = _STRICTNESS[gate.action] < _STRICTNESS[own.action]
        if looser or (own.needs_verdict and gate.threshold > own.threshold):
            raise InputError(
                f"this server's gate is {own.action.value!r} from {own.threshold:g} on, and a request may ask for a "
                f"stricter one only; got {gate.action.value!r} from {gate.threshold:g} on"
            )
        if gate.needs_verdict and not self.has_verdict:
            raise InputError(_NO_VERDICT)
        return gate

    def _find(
        self, queries: Sequence[str], encoded: Encoded, *, k: int, gate: RefusalGate, where: Where
    ) -> list[Found]:
        retriever = SafeRetriever(self._index(), self.served.encoder, name=self.served.name, gate=gate)
        encoding = QueryEncoding(encoded.vectors, encoded.refusal)
        retrievals = retriever.retrieve_encoded(encoding, k=k, queries=queries, where=where)
        return [Found(retrieval, retriever.documents(retrieval)) for retrieval in retrievals]

    def _judged(self, encoder: Encoder, texts: Sequence[str]) -> Encoded:
        vectors, refusal = encoder.encode(texts, batch_size=self._batch, progress=False)
        return Encoded(vectors, refusal, self._tokens(texts))

    def _encode_documents(self, texts: Sequence[str]) -> Encoded:
        vectors = self.served.encoder.encode_documents(texts, batch_size=self._batch, progress=False)
        return Encoded(vectors, None, self._tokens(texts))

    def _tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        return np.asarray(self.served.count_tokens(texts), dtype=np.int64)
