"""One sentence-transformers model for several threads: twins that share its weights and have a tokenizer each.

A fast tokenizer sets its truncation and padding at each call and refuses to do so while another thread is using it
(``RuntimeError: Already borrowed``), so the same model cannot encode in two threads at once.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Twins:
    """Lends a model, or a twin of it, to one thread at a time.

    Args:
        model: on one device for as long as it has twins.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        self.model = model
        self._idle: SimpleQueue[SentenceTransformer] = SimpleQueue()
        self._idle.put(model)
        self._count = 1
        self._counting = threading.Lock()

    def provide(self, count: int) -> None:
        """See to it that ``count`` threads can have one at once."""
        with self._counting:
            while self._count < count:
                with self.lent() as model:  # nobody is using its tokenizer, so it can be copied
                    twin = _twin(model)
                self._idle.put(twin)
                self._count += 1

    @contextmanager
    def lent(self) -> Iterator[SentenceTransformer]:
        """One that no other thread has; waits for it."""
        model = self._idle.get()
        try:
            yield model
        finally:
            self._idle.put(model)

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["model"])  # type: ignore[misc]


def _twin(model: SentenceTransformer) -> SentenceTransformer:
    weights = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(weight): weight for weight in weights})
