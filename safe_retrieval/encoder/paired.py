"""Two encoders of one space as one: queries through the first, documents through the second.

The usual index is asymmetric: its documents are embedded by the small teacher, its queries by the response encoder,
whose own documents would be summaries of themselves and many times slower. A host framework that knows one embedding
object with two methods gets this pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from safe_retrieval.encoder.weights import modules_of
from safe_retrieval.errors import EncoderMismatchError
from safe_retrieval.types import Encoder, FloatMatrix, PartReader, QueryEncoding

if TYPE_CHECKING:
    from torch import nn


class PairedEncoder:
    """Queries through one encoder, documents through another, as an :class:`~safe_retrieval.types.Encoder`.

    Args:
        query: encodes queries, and judges them if it can.
        document: encodes documents.

    Raises:
        EncoderMismatchError: the two do not speak the same space.
    """

    def __init__(self, query: Encoder, document: Encoder) -> None:
        if (query.space, query.dimension) != (document.space, document.dimension):
            raise EncoderMismatchError(
                f"expected both encoders in one vector space; {query.name} lands in {query.space}, {document.name} in "
                f"{document.space}; give the document encoder that the query encoder's adapter was trained for"
            )
        self.query, self.document = query, document

    @property
    def name(self) -> str:
        """That of the query side, which decides what is found."""
        return self.query.name

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.document.dimension

    @property
    def space(self) -> str:
        """The space that both encoders share."""
        return self.document.space

    @property
    def torch_modules(self) -> tuple[nn.Module, ...]:
        """Those of both encoders, for a host that moves or shares them."""
        return modules_of(self.query, self.document)

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        """Encode queries: (n, d) float32 unit vectors, and (n,) refusal probabilities where the query side has them."""
        return self.query.encode(texts, batch_size=batch_size, progress=progress)

    def as_read(self, texts: Sequence[str]) -> list[str]:
        """The part of each text that the query side judges; all of it where it judges none."""
        return self.query.as_read(texts) if isinstance(self.query, PartReader) else list(texts)

    def encode_queries(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """Encode queries; (n, d) float32, unit norm."""
        return self.query.encode_queries(texts, batch_size=batch_size, progress=progress)

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """Encode documents; (n, d) float32, unit norm."""
        return self.document.encode_documents(texts, batch_size=batch_size, progress=progress)
