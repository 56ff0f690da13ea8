"""The audited corpus as an index in memory.

An index folder would hold the passages' text, and a report folder is passed around: so the vectors, which are cached
without text, go into FAISS anew for each audit. That takes well under a second for corpora of this size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from safe_retrieval.errors import EncoderMismatchError
from safe_retrieval.types import Document, Encoder, FloatMatrix, Hit


class CorpusIndex:
    """What :class:`~safe_retrieval.retrieval.retriever.SafeRetriever` asks of an index; exact search by FAISS.

    Args:
        documents: n documents, with distinct ids.
        vectors: (n, d) float32, unit norm, by ``encoder``.
        encoder: who made the vectors.

    Attributes:
        sha256: hex digest over ids and vectors.

    Raises:
        InputError: vectors and documents do not fit together, or a vector is not of unit norm.
    """

    def __init__(self, documents: Sequence[Document], vectors: FloatMatrix, encoder: Encoder) -> None:
        from safe_retrieval.index.faiss_index import FaissIndex

        self._documents = {document.id: document for document in documents}
        self._vectors = FaissIndex(encoder.dimension)
        self._vectors.add([document.id for document in documents], vectors)
        self._encoder = encoder
        ids = "\n".join(document.id for document in documents)
        self.sha256 = hashlib.sha256(ids.encode("utf-8", "surrogatepass") + vectors.tobytes()).hexdigest()

    def search(self, vectors: FloatMatrix, k: int = 10) -> list[list[Hit]]:
        """At most ``k`` hits for each row of (q, d) float32 unit vectors, best first, ties by position."""
        return self._vectors.search(vectors, k)

    def get_documents(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in order."""
        return [self._documents[identifier] for identifier in ids]

    def documents(self) -> Iterator[Document]:
        """All documents by position."""
        yield from self._documents.values()

    def check_encoder(self, encoder: Encoder) -> None:
        """Make sure that an encoder's queries land in the space of this index.

        Raises:
            EncoderMismatchError: they do not; the message names both encoders.
        """
        if encoder.space != self._encoder.space or encoder.dimension != self._encoder.dimension:
            raise EncoderMismatchError(
                f"the corpus is encoded by {self._encoder.name}, and {encoder.name} speaks another vector space; give "
                "--encoder the adapter's teacher, or --adapter one that was trained for this encoder"
            )
