"""Response and input vectors mixed, by a weight that follows the refusal probability.

Where the backbone would answer, the query's own vector is the better retriever and the response vector adds a little;
where it would refuse, only the response vector is safe. A plain mean of both throws the safety away (docs/method.md);
a mean weighted by the refusal probability need not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from safe_retrieval.encoder.input import unit_rows
from safe_retrieval.encoder.weights import modules_of
from safe_retrieval.errors import EncoderMismatchError, InputError
from safe_retrieval.types import Encoder, FloatMatrix, FloatVector, PartReader, QueryEncoding

if TYPE_CHECKING:
    from torch import nn

    from safe_retrieval.backbone.language_model import LanguageModel
    from safe_retrieval.encoder.persistence import AdapterRecord
    from safe_retrieval.encoder.response import ResponseEncoder


class BlendWeight(NamedTuple):
    """Share of the response vector: ``answered`` at refusal probability 0, ``refused`` at 1, a logistic step between.

    The step is stretched so that both ends are met exactly.

    Attributes:
        answered: share in [0, 1] where the backbone would answer.
        refused: share in [0, 1] where it would refuse.
        sharpness: steepness of the step, above 0; small values come near a straight line.
        middle: refusal probability at which the step is steepest.
    """

    answered: float = 0.2
    refused: float = 1.0
    sharpness: float = 20.0
    middle: float = 0.5

    def of(self, refusal: FloatVector) -> FloatVector:
        """(n,) shares for (n,) refusal probabilities."""
        from scipy.special import expit

        low, high = expit(self.sharpness * (np.array([0.0, 1.0]) - self.middle))
        step = (expit(self.sharpness * (refusal.astype(np.float64) - self.middle)) - low) / (high - low)
        share: FloatVector = (self.answered + (self.refused - self.answered) * step).astype(np.float32)
        return share


def weight_for(record: AdapterRecord) -> BlendWeight:
    """What an adapter's response vectors are mixed with the queries' own by, where nobody asks for another weight."""
    return BlendWeight() if record.blend_share is None else BlendWeight(answered=record.blend_share)


class BlendEncoder:
    """A response encoder and its teacher's input encoder, mixed.

    Args:
        response: gives response vectors and refusal probabilities.
        input: gives the queries' own vectors, in the same space; also encodes documents.
        weight: share of the response vector; ``None`` takes the adapter's (:func:`weight_for`).

    Raises:
        EncoderMismatchError: the two do not speak the same space.
        InputError: a share lies outside [0, 1], or the step has no slope.
    """

    def __init__(self, response: ResponseEncoder, input: Encoder, *, weight: BlendWeight | None = None) -> None:  # noqa: A002  # the field's word
        if response.space != input.space:
            raise EncoderMismatchError(
                f"expected both encoders in one vector space; {response.name} lands in {response.space}, {input.name} "
                f"in {input.space}; give the adapter's teacher ({response.record.teacher.name}) as input"
            )
        self.weight = weight or weight_for(response.record)
        if not (0 <= self.weight.answered <= 1 and 0 <= self.weight.refused <= 1):
            raise InputError(f"expected shares between 0 and 1, got {self.weight}")
        if self.weight.sharpness <= 0:
            raise InputError(f"expected a sharpness above 0, got {self.weight.sharpness}")
        self._response, self._input = response, input

    @property
    def name(self) -> str:
        """For people."""
        return f"blend of {self._response.name} and {self._input.name}"

    @property
    def model(self) -> LanguageModel:
        """The backbone, for whoever wants it for something else as well."""
        return self._response.model

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._input.dimension

    @property
    def space(self) -> str:
        """The space that both encoders share."""
        return self._input.space

    @property
    def torch_modules(self) -> tuple[nn.Module, ...]:
        """Those of both encoders, for a host that moves or shares them."""
        return modules_of(self._response, self._input)

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        """Encode queries: (n, D) unit vectors and (n,) refusal probabilities; arguments as everywhere."""
        response = self._response.encode(texts, batch_size=batch_size, progress=progress)
        # the share of each depends on the verdict, so both vectors are of what was judged
        own = self._input.encode_queries(self.as_read(texts), batch_size=batch_size, progress=progress)
        return self.blend(response, own, self.weight)

    def as_read(self, texts: Sequence[str]) -> list[str]:
        """The part of each text that is judged, and that the vector is of."""
        return self._response.as_read(texts) if isinstance(self._response, PartReader) else list(texts)

    def encode_queries(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """Encode queries; (n, D) float32, unit norm."""
        return self.encode(texts, batch_size=batch_size, progress=progress).vectors

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """Encode documents with the input encoder; (n, D) float32, unit norm."""
        return self._input.encode_documents(texts, batch_size=batch_size, progress=progress)

    @staticmethod
    def blend(response: QueryEncoding, own: FloatMatrix, weight: BlendWeight) -> QueryEncoding:
        """Mix vectors that are already there: w r + (1 - w) q, scaled to unit norm.

        Args:
            response: n response vectors with refusal probabilities.
            own: (n, D) the queries' own unit vectors.
            weight: share of the response vector.

        Raises:
            InputError: ``response`` has no refusal probabilities.
        """
        if response.refusal is None:
            raise InputError(
                "expected refusal probabilities with the response vectors, got none; use a response encoder"
            )
        share = weight.of(response.refusal)[:, None]
        return QueryEncoding(unit_rows(share * response.vectors + (1 - share) * own), response.refusal)
