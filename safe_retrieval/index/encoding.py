"""Encode what a shard holds, with fewer texts at once where memory runs out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from safe_retrieval.errors import InputError
from safe_retrieval.index.vectors import check_vectors
from safe_retrieval.types import Encoder, FloatMatrix

_LOG = logging.getLogger(__name__)
# What torch says on a processor, where it has no class of error for it.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class ShardEncoder:
    """An encoder of documents whose batches become smaller for good when one did not fit.

    Smaller batches may change the last bits of a vector, so a build that had to back off has other hashes than one that
    had not.

    Args:
        encoder: makes the vectors; it sorts a shard's texts by length itself, so little of a batch is padding.
        batch_size: most texts in one forward pass.

    Raises:
        InputError: ``batch_size`` is below 1.
    """

    def __init__(self, encoder: Encoder, batch_size: int) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        self.encoder = encoder
        self.batch_size = batch_size

    def encode(self, contents: Sequence[str], *, start: int) -> FloatMatrix:
        """Vectors of documents, checked; (n, dimension) float32, unit norm.

        Args:
            contents: n texts.
            start: position of the first of them, for messages.

        Raises:
            InputError: the encoder's vectors are not what an index takes, or memory runs out at one text a batch.
        """
        vectors = check_vectors(
            self._fitting(contents), self.encoder.dimension, what=f"(shard from document {start}) vector"
        )
        if len(vectors) != len(contents):
            raise InputError(
                f"expected {len(contents)} vectors from {self.encoder.name}, one a document, got {len(vectors)}"
            )
        return vectors

    def _fitting(self, contents: Sequence[str]) -> FloatMatrix:
        while True:
            try:
                return self.encoder.encode_documents(contents, batch_size=self.batch_size, progress=False)
            except (MemoryError, RuntimeError) as error:
                if not _ran_out(error):
                    raise
                if self.batch_size == 1:
                    raise InputError(
                        f"memory runs out with {self.encoder.name} at one text at a time; cut the documents into "
                        "shorter pieces, take a smaller encoder, or free some memory"
                    ) from error
            self.batch_size = max(1, self.batch_size // 2)
            _LOG.warning("memory ran out while encoding; going on with %s texts at once", self.batch_size)
            if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
                torch.cuda.empty_cache()  # or what the failed batch left could make the smaller one fail too


def _ran_out(error: MemoryError | RuntimeError) -> bool:
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in _OUT_OF_MEMORY)
