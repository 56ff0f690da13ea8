"""The endpoints: from a checked request to the engine, and from its arrays to the response."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from safe_retrieval.encoder.texts import readable
from safe_retrieval.server.batching import Encoded
from safe_retrieval.server.engine import Engine, Found
from safe_retrieval.server.metrics import Metrics
from safe_retrieval.server.observing import current_request
from safe_retrieval.server.problems import Problem, ProblemError
from safe_retrieval.server.schemas import (
    Embedding,
    EmbeddingsRequest,
    EmbeddingsResponse,
    EncodingFormat,
    FoundDocument,
    Health,
    InputType,
    Model,
    ModelList,
    ScreenRequest,
    ScreenResponse,
    SearchHit,
    SearchRequest,
    SearchResponse,
    SearchResult,
    Usage,
    Verdict,
)
from safe_retrieval.server.settings import ServerSettings
from safe_retrieval.types import FloatMatrix

MAX_RETURNED = 10_000
"""Hits of one search over all its queries, so that a response stays within some megabytes."""

DOCUMENT_SUFFIX = "-document"
"""After the model's name: its document side, for clients that cannot send an ``input_type``."""


class Endpoints:
    """What the routes call. All but the probes are asked after the door let the caller in.

    Attributes:
        draining: set once the server was told to stop; it then says that it is not ready.
    """

    def __init__(self, engine: Engine, settings: ServerSettings, metrics: Metrics) -> None:
        self.draining = False
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._created = int(time.time())

    async def embeddings(self, request: EmbeddingsRequest) -> EmbeddingsResponse:
        """Vectors of texts, of unit norm, in order."""
        side = self._side(request.model)
        if request.dimensions not in {None, self._engine.served.encoder.dimension}:
            message = (
                f"vectors of this model have {self._engine.served.encoder.dimension} numbers and cannot be shortened; "
                "leave dimensions out"
            )
            raise ProblemError(Problem(400, message, "dimensions_not_supported", "dimensions"))
        query = (request.input_type or side) is InputType.QUERY
        encode = self._engine.encode_queries if query else self._engine.encode_documents
        encoded = await encode(request.input)
        usage = _used(len(request.input), int(encoded.tokens.sum()))
        rows = _written(encoded, request.encoding_format)
        data = [Embedding.model_construct(index=index, embedding=row) for index, row in enumerate(rows)]
        return EmbeddingsResponse.model_construct(data=data, model=request.model, usage=usage)

    async def models(self) -> ModelList:
        """The two sides of the model that is served."""
        return ModelList(data=[self._model(side) for side in InputType])

    async def model(self, name: str) -> Model:
        """One of them, by name."""
        return self._model(self._side(name))

    async def search(self, request: SearchRequest) -> SearchResponse:
        """The documents nearest to each query, behind the refusal gate."""
        if request.k * len(request.query) > MAX_RETURNED:
            message = f"expected at most {MAX_RETURNED:,} hits in all, k times the number of queries; ask for less"
            raise ProblemError(Problem(400, message, "too_many_hits", "k"))
        done = await self._engine.search(
            request.query, k=request.k, action=request.gate, threshold=request.threshold, where=request.where
        )
        usage = _used(len(request.query), done.tokens)
        judged = [found.retrieval for found in done.found if found.retrieval.refusal is not None]
        self._count(flagged=sum(retrieval.flagged for retrieval in judged), judged=len(judged))
        return SearchResponse(
            data=[_result(index, found, request.return_documents) for index, found in enumerate(done.found)],
            model=self._engine.served.name,
            gate=done.gate.action,
            threshold=done.gate.threshold,
            usage=usage,
        )

    async def screen(self, request: ScreenRequest) -> ScreenResponse:
        """The probability, for each text, that the backbone would refuse to answer it; it generates nothing."""
        if request.model is not None:
            self._side(request.model)
        own = self._engine.served.gate.threshold
        threshold = own if request.threshold is None else request.threshold
        refusal, tokens = await self._engine.judge(request.documents)
        usage = _used(len(request.documents), tokens)
        flagged = refusal >= threshold
        self._count(flagged=int(flagged.sum()), judged=len(refusal))
        order = np.argsort(-refusal, kind="stable")[: request.top_n]
        results = [
            Verdict(
                index=index,
                refusal_score=float(refusal[index]),
                flagged=bool(flagged[index]),
                document=request.documents[index] if request.return_documents else None,
            )
            for index in order.tolist()
        ]
        return ScreenResponse(
            results=results,
            model=self._engine.served.name,
            threshold=threshold,
            usage=usage,
        )

    async def healthz(self) -> Health:
        """Whether the process answers at all."""
        return Health(status="ok")

    async def readyz(self) -> Health:
        """Whether it makes sense to send requests here."""
        if self.draining:
            raise ProblemError(Problem(503, "the server is stopping", "draining", retry_after=5))
        if any(not lane.working or lane.running_for > self._settings.timeout for lane in self._engine.lanes):
            message = "no forward passes are made, or one takes longer than any caller waits"
            raise ProblemError(Problem(503, message, "stuck", retry_after=5))
        return Health(status="ready")

    def _side(self, name: str) -> InputType:
        own = self._engine.served.name
        if name == own:
            return InputType.QUERY
        if name == own + DOCUMENT_SUFFIX:
            return InputType.DOCUMENT
        message = f"there is no such model here; this server has {own} and {own}{DOCUMENT_SUFFIX} (GET /v1/models)"
        raise ProblemError(Problem(404, message, "model_not_found", "model"))

    def _model(self, side: InputType) -> Model:
        served = self._engine.served
        return Model(
            id=served.name if side is InputType.QUERY else served.name + DOCUMENT_SUFFIX,
            created=self._created,
            input_type=side,
            dimensions=served.encoder.dimension,
            space=served.encoder.space,
        )

    def _count(self, *, flagged: int, judged: int) -> None:
        self._metrics.judged(flagged=flagged, passed=judged - flagged)


def _used(texts: int, tokens: int) -> Usage:
    """Usage for the response, and for the log's line."""
    record = current_request()
    record.texts, record.tokens = texts, tokens
    return Usage(prompt_tokens=tokens, total_tokens=tokens)


def _written(encoded: Encoded, encoding: EncodingFormat) -> Sequence[list[float] | str]:
    vectors: FloatMatrix = encoded.vectors
    if encoding is EncodingFormat.FLOAT:
        rows: list[Any] = vectors.tolist()
        return rows
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in vectors.astype("<f4")]


def _sendable(value: Any) -> Any:
    """Metadata as JSON in UTF-8 can carry it: an index keeps lone surrogates, which text cut by JavaScript ends in."""
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, Mapping):
        return {readable(key): _sendable(each) for key, each in value.items()}
    return [_sendable(each) for each in value] if isinstance(value, list | tuple) else value


def _result(index: int, found: Found, return_documents: bool) -> SearchResult:
    hits = [
        SearchHit(
            rank=rank,
            id=hit.id,
            score=hit.score,
            document=FoundDocument(title=document.title, text=document.text, metadata=_sendable(document.metadata))
            if return_documents
            else None,
        )
        for rank, (hit, document) in enumerate(zip(found.retrieval.hits, found.documents, strict=True), start=1)
    ]
    retrieval = found.retrieval
    return SearchResult(index=index, refusal_score=retrieval.refusal, flagged=retrieval.flagged, hits=hits)
