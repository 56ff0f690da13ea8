"""Dynamic batching: texts of many requests share one forward pass.

While a pass is under way, what arrives waits; the next pass takes as much of it as fits. So a lone request is answered
at once and a busy server computes in full batches, without a timer that somebody has to tune. A pass takes its texts
from all waiting requests in equal shares: a request of two thousand texts does not hold up one of a single text.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.server.problems import BusyError
from safe_retrieval.types import FloatMatrix, FloatVector

_MEMORY = 0.8
"""Weight of the past in the running mean of how long a text takes."""

_LONGEST_RETRY = 60
"""Seconds; a client that is sent away for longer would rather ask someone else."""


class Encoded(NamedTuple):
    """What a forward pass gives for n texts.

    Attributes:
        vectors: (n, d) float32, unit norm.
        refusal: (n,) float32 in [0, 1], or ``None`` from an encoder without a verdict.
        tokens: (n,) int64, tokens of each text, for the usage that a response reports.
    """

    vectors: FloatMatrix
    refusal: FloatVector | None
    tokens: NDArray[np.int64]


Encode: TypeAlias = Callable[[Sequence[str]], Encoded]
"""Runs in a worker thread, on at most ``max_batch`` texts."""


class Pass(NamedTuple):
    """One forward pass, for the metrics."""

    lane: str
    texts: int
    requests: int
    seconds: float


@dataclass(eq=False, slots=True)
class _Job:
    """The texts of one request; ``taken`` of them have gone into passes, whose results lie in ``parts`` in order."""

    texts: Sequence[str]
    answer: asyncio.Future[Encoded]
    taken: int = 0
    parts: list[Encoded] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.texts) - self.taken


class _Share(NamedTuple):
    """What one job gives to a pass."""

    job: _Job
    texts: Sequence[str]


class Batcher:
    """One lane of work: requests in, forward passes out, one at a time.

    Args:
        name: of the lane, for metrics.
        encode: computes a batch.
        executor: runs ``encode``; lanes that share a processor share an executor of one thread.
        max_batch: most texts in a pass.
        wait: seconds that an idle lane waits for company.
        max_waiting: texts that may wait.
        observe: is told of every pass.
    """

    def __init__(
        self,
        name: str,
        encode: Encode,
        executor: Executor,
        *,
        max_batch: int,
        wait: float,
        max_waiting: int,
        observe: Callable[[Pass], None],
    ) -> None:
        self.name = name
        self._encode = encode
        self._executor = executor
        self._max_batch = max_batch
        self._wait = wait
        self._max_waiting = max_waiting
        self._observe = observe
        self._jobs: list[_Job] = []
        self._arrived = asyncio.Event()
        self._began: float | None = None
        self._seconds_per_text = 0.0
        self._worker: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Texts that no pass has taken yet."""
        return sum(job.left for job in self._jobs if not job.answer.done())

    @property
    def running_for(self) -> float:
        """Seconds since the pass that is under way began; 0 when there is none."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    @property
    def working(self) -> bool:
        """Whether what arrives will be computed."""
        return self._worker is not None and not self._worker.done()

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        self._worker = asyncio.create_task(self._work(), name=f"batches of {self.name}")

    async def close(self) -> None:
        """Stop; what still waits is cancelled. A pass that is under way ends in its thread, for nobody."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait({self._worker})
        for job in self._jobs:
            job.answer.cancel()
        self._jobs.clear()

    async def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode the texts of one request, together with those of others.

        A caller that is cancelled takes its texts out of the queue.

        Raises:
            BusyError: too many texts are waiting; it says when to come again.
            SafeRetrievalError: the encoder refused this request's texts; those of other requests are not affected.
        """
        waiting = self.waiting
        if waiting and waiting + len(texts) > self._max_waiting:
            seconds = math.ceil(waiting * self._seconds_per_text)
            raise BusyError(min(max(1, seconds), _LONGEST_RETRY))
        job = _Job(texts, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._arrived.set()
        return await job.answer

    async def _work(self) -> None:
        while True:
            if not self._arrived.is_set():
                await self._arrived.wait()
                await asyncio.sleep(self._wait)
            if shares := self._take():
                await self._run(shares)
            if not self._jobs:
                self._arrived.clear()

    def _take(self) -> list[_Share]:
        """Equal shares of what waits, at most a batch; jobs that nobody waits for any more are dropped."""
        self._jobs = [job for job in self._jobs if job.left and not job.answer.done()]
        counts: dict[_Job, int] = {}
        room = self._max_batch
        while room and (giving := [job for job in self._jobs if job.left > counts.get(job, 0)]):
            share = max(1, room // len(giving))
            for job in giving[:room]:
                more = min(share, job.left - counts.get(job, 0))
                counts[job] = counts.get(job, 0) + more
                room -= more
        shares = [_Share(job, job.texts[job.taken : job.taken + count]) for job, count in counts.items()]
        for share_of in shares:
            share_of.job.taken += len(share_of.texts)
        return shares

    async def _run(self, shares: Sequence[_Share]) -> None:
        texts = [text for share in shares for text in share.texts]
        self._began = began = time.monotonic()
        call = asyncio.get_running_loop().run_in_executor(self._executor, self._encode, texts)
        await asyncio.wait({call})  # its error is looked at, not raised: it belongs to whoever sent the texts
        self._began = None
        error = call.exception()
        if error is None:
            self._note(Pass(self.name, len(texts), len(shares), time.monotonic() - began))
            _deliver(shares, call.result())
        elif len(shares) > 1:
            for share in shares:
                await self._run([share])  # one request's bad text is not its neighbours' fault
        elif not shares[0].job.answer.done():
            shares[0].job.answer.set_exception(error)

    def _note(self, done: Pass) -> None:
        now = done.seconds / done.texts
        past = self._seconds_per_text
        self._seconds_per_text = now if past == 0.0 else _MEMORY * past + (1 - _MEMORY) * now
        self._observe(done)


def _deliver(shares: Sequence[_Share], encoded: Encoded) -> None:
    start = 0
    for job, texts in shares:
        rows = slice(start, start + len(texts))
        start += len(texts)
        refusal = None if encoded.refusal is None else encoded.refusal[rows]
        job.parts.append(Encoded(encoded.vectors[rows], refusal, encoded.tokens[rows]))
        if not job.left and not job.answer.done():
            job.answer.set_result(_joined(job.parts))


def _joined(parts: Sequence[Encoded]) -> Encoded:
    if len(parts) == 1:
        return parts[0]
    refusals = [part.refusal for part in parts if part.refusal is not None]
    return Encoded(
        np.concatenate([part.vectors for part in parts]),
        np.concatenate(refusals) if refusals else None,
        np.concatenate([part.tokens for part in parts]),
    )
