"""The arms, and which encoder each asks with, loaded at the point of use: ``input`` needs no language model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from safe_retrieval.errors import InputError
from safe_retrieval.types import Encoder

if TYPE_CHECKING:
    from safe_retrieval.encoder.paired import PairedEncoder
    from safe_retrieval.encoder.policy import ResponsePolicy
    from safe_retrieval.encoder.response import ResponseEncoder


class Arm(StrEnum):
    """How a query is turned into hits."""

    INPUT = "input"
    """Nearest to the query's own vector: ordinary dense retrieval."""
    OUTPUT = "output"
    """Nearest to the vector of the response that the backbone would give; one forward pass, nothing is generated."""
    BLEND = "blend"
    """Nearest to a mean of both, weighted by the refusal probability."""
    HYDE = "hyde"
    """Nearest to a response that is really generated: slow, and what ``output`` approximates."""
    BM25 = "bm25"
    """Most words in common; no vectors."""


def arm_from(choice: Arm | str) -> Arm:
    """An arm by name.

    Raises:
        InputError: there is none of that name; the message lists them.
    """
    try:
        return Arm(choice)
    except ValueError as error:
        raise InputError(f"expected one of {', '.join(Arm)}, got {choice!r}") from error


class ArmLoader:
    """Loads encoders by arm, all with the same settings.

    Args:
        document_encoder: name, hub id or folder of the encoder that built the index.
        adapter: folder of a response adapter; ``None`` takes the one shipped for backbone and document encoder.
        backbone: name, hub id or folder of the language model; ``None`` takes the adapter's, or the default.
        offline: open no connection.
        policy: name of a response policy, or a system prompt; ``None`` takes the adapter's.
        dtype: what the language model computes in, as :meth:`LanguageModel.load` takes it.
    """

    def __init__(
        self,
        document_encoder: str,
        *,
        adapter: str | Path | None,
        backbone: str | None,
        offline: bool,
        policy: str | ResponsePolicy | None = None,
        dtype: str = "auto",
    ) -> None:
        self._document_encoder = document_encoder
        self._adapter = adapter
        self._backbone = backbone
        self._offline = offline
        self._policy = policy
        self._dtype = dtype

    def encoder(self, arm: Arm) -> Encoder | None:
        """The encoder of an arm; ``None`` for one without vectors.

        Raises:
            AdapterError, ModelError: the adapter or a model cannot be had.
        """
        match arm:
            case Arm.BM25:
                return None
            case Arm.INPUT:
                return self._input()
            case Arm.OUTPUT:
                return self._response()
            case Arm.BLEND:
                from safe_retrieval.encoder.blend import BlendEncoder

                return BlendEncoder(self._response(), self._input())
            case Arm.HYDE:
                return self._hyde()

    def paired(self, arm: Arm) -> PairedEncoder:
        """The encoder of an arm with the documents through the document encoder, for hosts that embed both sides.

        Raises:
            InputError: the arm has no vectors.
            EncoderMismatchError: the adapter was trained for another document encoder.
            AdapterError, ModelError: the adapter or a model cannot be had.
        """
        from safe_retrieval.encoder.paired import PairedEncoder

        query = self.encoder(arm)
        if query is None:
            raise InputError(f"expected an arm with vectors (input, output, blend, hyde), got {arm.value}")
        return PairedEncoder(query, query if arm is Arm.INPUT else self._input())

    def refusal_encoder(self, arm: Arm) -> Encoder | None:
        """Who judges the queries of an arm whose own encoder has no verdict; ``None`` for the others."""
        return self._response() if arm in {Arm.BM25, Arm.INPUT} else None

    def _input(self) -> Encoder:
        from safe_retrieval.encoder.document_encoders import load_document_encoder

        return load_document_encoder(self._document_encoder, offline=self._offline)

    def _response(self) -> ResponseEncoder:
        from safe_retrieval.encoder.response import ResponseEncoder

        return ResponseEncoder.load(
            self._adapter,
            backbone=self._backbone,
            teacher=self._document_encoder,
            policy=self._policy,
            dtype=self._dtype,
            offline=self._offline,
        )

    def _hyde(self) -> Encoder:
        from safe_retrieval.encoder.hyde import HydeEncoder
        from safe_retrieval.encoder.persistence import load_adapter
        from safe_retrieval.encoder.policy import CAREFUL

        backbone, policy = self._backbone, self._policy
        if self._adapter is not None:  # what its vectors foresee is generated: by its backbone, under its policy
            record = load_adapter(self._adapter).record
            backbone, policy = backbone or record.backbone.name, policy or record.policy.policy
        return HydeEncoder.load(
            backbone,
            document_encoder=self._document_encoder,
            policy=policy or CAREFUL,
            dtype=self._dtype,
            offline=self._offline,
        )
