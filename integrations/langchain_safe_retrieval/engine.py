"""The models behind an embeddings object: loaded on first use, and whatever waits is encoded together.

Chains ask one query at a time, from many threads or tasks. One thread computes; the queries that come while it does are
its next batch, so ``retriever.batch`` and concurrent requests share forward passes, and no model is entered twice at
once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

from safe_retrieval.encoder.paired import PairedEncoder
from safe_retrieval.encoder.texts import clean_texts
from safe_retrieval.errors import InputError
from safe_retrieval.retrieval.arms import Arm, ArmLoader
from safe_retrieval.retrieval.guard import as_judged
from safe_retrieval.types import Encoder, FloatMatrix, FloatVector, PartReader


class EncodedQuery(NamedTuple):
    """One query after its forward pass.

    Attributes:
        vector: (d,) float32, unit norm.
        refusal: probability in [0, 1] that the backbone would refuse; ``None`` where nothing gave a verdict.
        read: the query; of one that is judged, the part that was. Nothing else of it may be searched with.
    """

    vector: FloatVector
    refusal: float | None
    read: str


class _Waiting(NamedTuple):
    text: str
    judged: bool
    answer: Future[EncodedQuery]


class EngineSettings(NamedTuple):
    """What an engine loads, as :class:`SafeRetrievalEmbeddings` has it."""

    arm: Arm
    document_encoder: str
    adapter: str | None
    backbone: str | None
    policy: str | None
    dtype: str
    offline: bool
    batch_size: int


class EncoderEngine:
    """Query side and document side of one space.

    One that comes out of a pickle is equal and starts without models. A copy is the engine itself: the weights do not
    change, whoever asks goes through its queue, and loading them again would take their memory twice.

    Args:
        settings: what to load.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._loader = ArmLoader(
            settings.document_encoder,
            adapter=settings.adapter,
            backbone=settings.backbone,
            offline=settings.offline,
            policy=settings.policy,
            dtype=settings.dtype,
        )
        self._loading = threading.Lock()
        self._document: Encoder | None = None
        self._query: Encoder | None = None
        self._judge: Encoder | None = None
        self._waiting: deque[_Waiting] = deque()
        self._query_thread = ThreadPoolExecutor(1, "safe-retrieval-queries")
        self._document_thread = ThreadPoolExecutor(1, "safe-retrieval-documents")

    def __reduce__(self) -> tuple[type[EncoderEngine], tuple[EngineSettings]]:
        return EncoderEngine, (self._settings,)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncoderEngine) and self._settings == other._settings

    def __hash__(self) -> int:
        return hash(self._settings)

    def document_encoder(self) -> Encoder:
        """The encoder of documents, loaded now if it is not yet; the language model is not.

        Raises:
            ModelError: it cannot be had.
        """
        from safe_retrieval.encoder.document_encoders import load_document_encoder

        with self._loading:
            if self._document is None:
                self._document = load_document_encoder(self._settings.document_encoder, offline=self._settings.offline)
            return self._document

    def query_encoder(self) -> Encoder:
        """The encoder of queries, loaded now if it is not yet.

        Raises:
            EncoderMismatchError: the adapter was trained for another document encoder.
            AdapterError, ModelError: the adapter or a model cannot be had.
        """
        return self._query_thread.submit(self._loaded_query).result()

    def submit(self, text: str, *, judged: bool = False) -> Future[EncodedQuery]:
        """Encode a query as soon as the models are free.

        Args:
            text: the query.
            judged: whether a refusal probability is needed; an arm that has none then asks a response encoder for it.

        Raises:
            InputError: ``text`` is no string.
        """
        (cleaned,) = clean_texts([text])
        answer: Future[EncodedQuery] = Future()
        self._waiting.append(_Waiting(cleaned, judged, answer))
        self._query_thread.submit(self._answer_waiting)
        return answer

    def submit_documents(self, texts: Sequence[str]) -> Future[FloatMatrix]:
        """Encode documents as soon as their encoder is free: (n, d) float32, unit norm."""
        batch_size = self._settings.batch_size
        return self._document_thread.submit(
            lambda: self.document_encoder().encode_documents(texts, batch_size=batch_size, progress=False)
        )

    def _answer_waiting(self) -> None:
        batch: list[_Waiting] = []
        while self._waiting:
            waiting = self._waiting.popleft()
            if waiting.answer.set_running_or_notify_cancel():
                batch.append(waiting)
        if not batch:  # an earlier batch took them along
            return
        try:
            self._loaded_query()
            self._answer(batch)
        except BaseException as error:  # a model that cannot be had fails all, and is asked for once
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            raise

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        try:
            found = self._encoded(batch)
        except (InputError, RuntimeError, MemoryError) as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for each in batch:
                self._answer([each])  # one caller's bad text is not its neighbours' fault
            return
        for waiting, encoded in zip(batch, found, strict=True):
            waiting.answer.set_result(encoded)

    def _encoded(self, batch: Sequence[_Waiting]) -> list[EncodedQuery]:
        batch_size = self._settings.batch_size
        encoder = self._loaded_query()
        texts = self._read(batch)
        vectors, refusal = encoder.encode(texts, batch_size=batch_size, progress=False)
        if refusal is None and any(each.judged for each in batch):
            judge = self._loaded_judge()
            if judge is None:
                arm = self._settings.arm.value
                raise InputError(f"the arm {arm} gave no refusal probability; take output, blend or input")
            refusal = judge.encode(texts, batch_size=batch_size, progress=False).refusal
        verdicts: list[float | None] = [None] * len(texts) if refusal is None else [float(value) for value in refusal]
        return [EncodedQuery(*each) for each in zip(vectors, verdicts, texts, strict=True)]

    def _read(self, batch: Sequence[_Waiting]) -> list[str]:
        if not any(each.judged for each in batch):
            return [each.text for each in batch]
        encoder = self._loaded_query()
        judge = encoder if isinstance(encoder, PartReader) else self._loaded_judge()
        read = as_judged(judge, [each.text for each in batch])
        return [part if each.judged else each.text for each, part in zip(batch, read, strict=True)]

    # Called in the query thread alone, so each is loaded once.

    def _loaded_query(self) -> Encoder:
        if self._query is None:
            arm = self._settings.arm
            encoder = self._loader.encoder(arm)
            if encoder is None:
                raise InputError(f"expected an arm with vectors (output, blend, hyde, input), got {arm.value}")
            PairedEncoder(encoder, self.document_encoder())  # refuses a pair of different spaces
            self._query = encoder
        return self._query

    def _loaded_judge(self) -> Encoder | None:
        """Who judges for an arm that has no verdict of its own."""
        if self._judge is None:
            self._judge = self._loader.refusal_encoder(self._settings.arm)
        return self._judge
