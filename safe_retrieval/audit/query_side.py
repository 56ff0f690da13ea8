"""Queries to vectors by arm, through the cache: the response encoder's pass is made once for all arms that need it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from safe_retrieval.audit.encodings import Encoded, EncodingCache, Generating
from safe_retrieval.audit.models import Models, RecordedEncoder
from safe_retrieval.audit.targets import AuditArm
from safe_retrieval.errors import InputError
from safe_retrieval.types import Encoder, FloatMatrix, QueryEncoding


class QuerySide:
    """The query side of every arm with vectors, and the passages' side that they all share.

    Args:
        models: where encoders come from.
        encodings: where vectors are kept.

    Attributes:
        used: what was used so far, for the report.
    """

    def __init__(self, models: Models, encodings: EncodingCache) -> None:
        self._models = models
        self._encodings = encodings
        self.used: dict[str, Any] = {}

    @property
    def document(self) -> RecordedEncoder:
        """Who encodes passages."""
        return self._models.document

    def encoder(self, arm: AuditArm) -> RecordedEncoder:
        """Who encodes an arm's queries, and into whose space.

        Raises:
            InputError: the arm has no vectors.
            ModelError, AdapterError: it cannot be had.
        """
        match arm:
            case AuditArm.INPUT:
                recorded = self._models.document
            case AuditArm.OUTPUT | AuditArm.BLEND | AuditArm.GATED:
                recorded = self._models.response
            case AuditArm.HYDE:
                recorded = self._models.hyde
            case AuditArm.BM25:
                raise InputError(f"{arm.value} looks at words and has no vectors")
        self.used |= recorded.record
        return recorded

    def encode(self, arm: AuditArm, texts: Sequence[str]) -> Encoded:
        """Vectors, verdicts where the arm's encoder has them, and what they cost when they were made.

        Raises:
            InputError: the arm has no vectors.
        """
        if arm in {AuditArm.BLEND, AuditArm.GATED}:
            return self._blend(texts)
        label = "response" if arm is AuditArm.OUTPUT else arm.value
        return self._encode(f"queries, {label}", self.encoder(arm), texts)

    def passages(self, texts: Sequence[str]) -> FloatMatrix:
        """(n, d) float32, unit norm, by the document encoder."""
        recorded = self.document
        encode = partial(_encode_passages, recorded.encoder)
        encoded = self._encodings.encode("passages", f"{recorded.identity} passages", encode, texts)
        self.used |= recorded.record
        return encoded.encoding.vectors

    def _encode(self, label: str, recorded: RecordedEncoder, texts: Sequence[str]) -> Encoded:
        encoder = recorded.encoder
        return self._encodings.encode(
            label,
            recorded.identity,
            partial(encoder.encode, progress=False),
            texts,
            generated=(lambda: encoder.generated_tokens) if isinstance(encoder, Generating) else None,
        )

    def _blend(self, texts: Sequence[str]) -> Encoded:
        from safe_retrieval.encoder.blend import BlendEncoder

        response, own = self.encode(AuditArm.OUTPUT, texts), self.encode(AuditArm.INPUT, texts)
        weight = self._models.blend_weight
        self.used["blend"] = weight._asdict()
        start = time.perf_counter()
        mixed = BlendEncoder.blend(response.encoding, own.encoding.vectors, weight)
        return Encoded(mixed, response.seconds + own.seconds + time.perf_counter() - start)


def _encode_passages(encoder: Encoder, texts: Sequence[str]) -> QueryEncoding:
    return QueryEncoding(encoder.encode_documents(texts, progress=False), None)
