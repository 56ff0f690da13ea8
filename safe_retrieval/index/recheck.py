"""Are these vectors that encoder's? A sample of documents is encoded again and compared.

Two encodings of one text by one encoder, in other batches, precisions or versions, agree to three digits and more; two
encoders do not agree at all, nor does one encoder with and without a prompt. Nothing else tells whose vectors they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import EncoderMismatchError, InputError
from safe_retrieval.index.searchable import SearchableIndex
from safe_retrieval.index.segments import Block
from safe_retrieval.types import Document, Encoder, FloatMatrix, FloatVector

SAMPLE = 64
"""Documents that are encoded again; enough that one vector in twenty gone wrong is met nineteen times in twenty."""

LEAST_COSINE = 0.99
"""Between a vector and the same text encoded again; half precision and short codes (SQ8) stay above it."""

_AT_ONCE = 16


class Agreement(NamedTuple):
    """How well vectors agree with an encoder.

    Attributes:
        sample: documents that were encoded again.
        least: smallest cosine among them; 1 if there was none.
        mean: mean cosine; 1 if there was none.
    """

    sample: int
    least: float
    mean: float


class Recheck:
    """Encodes a sample of documents again on their way into an index, and refuses vectors of another encoder.

    Args:
        encoder: who is said to have made the vectors.
        total: number of documents to come.
        what: where they come from, for messages.
        sample: how many are encoded again; 0 trusts what is said.
        seed: of the choice of documents.

    Raises:
        InputError: the sample is below 0.
    """

    def __init__(self, encoder: Encoder, total: int, *, what: str, sample: int = SAMPLE, seed: int = 0) -> None:
        self._encoder = encoder
        self._what = what
        self._chosen = sampled(total, sample, seed)
        self._cosines: list[float] = []

    @property
    def agreement(self) -> Agreement:
        """What was found so far."""
        cosines = self._cosines or [1.0]
        return Agreement(len(self._cosines), min(cosines), float(np.mean(cosines)))

    def watched(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The same blocks, looked at as they pass.

        Raises:
            EncoderMismatchError: a vector is not the encoder's; the message says how far off it is.
        """
        documents: list[Document] = []
        vectors: list[FloatVector] = []
        start = 0
        for block in blocks:
            low, high = np.searchsorted(self._chosen, [start, start + len(block.documents)])
            for row in self._chosen[low:high] - start:
                documents.append(block.documents[row])
                vectors.append(block.vectors[row])
            if len(documents) >= _AT_ONCE:
                self._compare(documents, np.asarray(vectors))
                documents, vectors = [], []
            start += len(block.documents)
            yield block
        if documents:
            self._compare(documents, np.asarray(vectors))

    def _compare(self, documents: Sequence[Document], vectors: FloatMatrix) -> None:
        cosines = cosines_to(self._encoder, [document.content for document in documents], vectors)
        worst = int(np.argmin(cosines))
        if cosines[worst] < LEAST_COSINE:
            raise EncoderMismatchError(
                f"{self._what}: its vectors are not those of {self._encoder.name}: encoded again, document "
                f"{documents[worst].id!r} has a cosine of {cosines[worst]:.3f} to its vector, expected at least "
                f"{LEAST_COSINE}{self._advice(documents, vectors)}"
            )
        self._cosines += cosines.tolist()

    def _advice(self, documents: Sequence[Document], vectors: FloatMatrix) -> str:
        if any(document.title for document in documents):
            alone = cosines_to(self._encoder, [document.text for document in documents], vectors)
            if alone.min() >= LEAST_COSINE:
                return "; they are of the texts alone, so name a title field that is not there: --title-field none"
        return "; name the encoder that made them, and check that texts and vectors are in the same order"


def reencoding_faults(index: SearchableIndex, encoder: Encoder, *, sample: int = SAMPLE, seed: int = 0) -> list[str]:
    """Documents whose vectors are not those of their texts, one sentence each; a random sample is looked at.

    Args:
        index: the index.
        encoder: who built it.
        sample: how many documents are encoded again.
        seed: of the choice of documents.

    Raises:
        EncoderMismatchError: the encoder is another one.
        InputError: the sample is below 0.
    """
    index.check_encoder(encoder)
    frozen = index.frozen()
    ids = frozen.ids()
    chosen = [ids[position] for position in sampled(len(ids), sample, seed)]
    if not chosen:
        return []
    contents = [document.content for document in frozen.get_documents(chosen)]
    cosines = cosines_to(encoder, contents, frozen.get_vectors(chosen))
    return [
        f"{index.path}: document {identifier!r} encoded again has a cosine of {cosine:.3f} to its vector, expected at "
        f"least {LEAST_COSINE}; build the index again"
        for identifier, cosine in zip(chosen, cosines, strict=True)
        if not cosine >= LEAST_COSINE
    ]


def cosines_to(encoder: Encoder, contents: Sequence[str], vectors: FloatMatrix) -> NDArray[np.float64]:
    """Cosines between (n, d) unit vectors and the texts encoded again; (n,) float64."""
    again = encoder.encode_documents(contents, progress=False)
    cosines: NDArray[np.float64] = np.einsum("nd,nd->n", again, vectors, dtype=np.float64)
    return cosines


def sampled(total: int, sample: int, seed: int) -> NDArray[np.int64]:
    """At most ``sample`` of the positions below ``total``, drawn at random without replacement, rising.

    Raises:
        InputError: the sample is below 0.
    """
    if sample < 0:
        raise InputError(f"expected a sample of 0 documents or more, got {sample}")
    chosen = np.random.default_rng(seed).choice(total, min(sample, total), replace=False)
    return np.sort(chosen).astype(np.int64)
