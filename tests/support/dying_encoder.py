"""An encoder whose process dies at one shard, once: for tests of builds that go on without it."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from safe_retrieval.types import FloatMatrix
from tests.support.encoders import HashEncoder


class DyingEncoder(HashEncoder):
    """Kills its own process when it is to encode ``last_words``, unless ``marker`` says that this happened before."""

    def __init__(self, marker: str, last_words: str, driver: int) -> None:
        super().__init__()
        self._marker, self._last_words, self._driver = Path(marker), last_words, driver

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        if os.getpid() != self._driver and self._last_words in texts and not self._marker.exists():
            self._marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_documents(texts)
