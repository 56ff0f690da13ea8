"""The encoders that the six arms need, each with a record of everything that decides its vectors.

A record names the encoder in the cache of encodings and in the report's provenance, so it must change whenever the
vectors could.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from safe_retrieval.encoder.policy import CAREFUL, ResponsePolicy, policy_from
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.types import Encoder

if TYPE_CHECKING:
    from safe_retrieval.backbone.language_model import LanguageModel
    from safe_retrieval.encoder.blend import BlendWeight
    from safe_retrieval.encoder.persistence import LoadedAdapter


@dataclass(frozen=True, slots=True)
class RecordedEncoder:
    """An encoder and its record, JSON-serialisable."""

    encoder: Encoder
    record: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """The record in one canonical form."""
        return json.dumps(self.record, sort_keys=True)


class Models(Protocol):
    """Where an audit's encoders come from. Each is opened when it is first read, so an arm costs only what it needs."""

    @property
    def document(self) -> RecordedEncoder:
        """Builds the index; asks it for the ``input`` arm."""

    @property
    def response(self) -> RecordedEncoder:
        """One forward pass to a response vector and a refusal probability, in the document encoder's space."""

    @property
    def hyde(self) -> RecordedEncoder:
        """Generates the response and embeds it with the document encoder."""

    @property
    def blend_weight(self) -> BlendWeight:
        """What the adapter's response vectors are mixed with the queries' own by."""

    def check_adapter(self) -> None:
        """Look for what ``response`` needs beside models, which takes no time: passages are encoded for minutes first.

        Raises:
            AdapterError: there is no such adapter, or it is damaged.
        """


class LocalModels:
    """Models by name, on this machine; the backbone is loaded once for both the response encoder and HyDE.

    Args:
        document_encoder: see :mod:`~safe_retrieval.encoder.document_encoders`.
        backbone: name, hub id or folder; ``None`` takes the adapter's, or the default.
        adapter: folder of a response adapter; ``None`` takes the one shipped for backbone and document encoder.
        policy: name of a response policy, or a system prompt; ``None`` takes the adapter's.
        dtype: what the language model computes in, as :meth:`LanguageModel.load` takes it.
        offline: open no connection.
    """

    def __init__(
        self,
        document_encoder: str = DEFAULT_DOCUMENT_ENCODER,
        *,
        backbone: str | None = None,
        adapter: Path | None = None,
        policy: str | ResponsePolicy | None = None,
        dtype: str = "auto",
        offline: bool = False,
    ) -> None:
        self._document_encoder = document_encoder
        self._backbone = backbone
        self._adapter_path = adapter
        self._policy = None if policy is None else policy_from(policy)
        self._dtype = dtype
        self._offline = offline

    @cached_property
    def document(self) -> RecordedEncoder:
        """See :class:`Models`."""
        from safe_retrieval.encoder.document_encoders import load_document_encoder
        from safe_retrieval.encoder.pooled import CAUSAL, PooledEncoder

        encoder: Encoder
        kind, _, model = self._document_encoder.partition(":")
        # One copy of the weights does for both, in what the index was encoded in.
        if kind == CAUSAL and model == self._backbone_name and self._dtype == "auto":
            encoder = PooledEncoder(self._language_model, name=self._document_encoder)
        else:
            encoder = load_document_encoder(self._document_encoder, offline=self._offline)
        record = {"name": encoder.name, "space": encoder.space}
        if isinstance(encoder, PooledEncoder):  # computes in what the processor does best, and its vectors depend on it
            record["dtype"] = encoder.model.precision
        return RecordedEncoder(encoder, {"document_encoder": record})

    @cached_property
    def response(self) -> RecordedEncoder:
        """See :class:`Models`."""
        from safe_retrieval.encoder.response import ResponseEncoder

        encoder = ResponseEncoder(self._language_model, self._adapter, policy=self._policy)
        record = {
            "backbone": self._backbone_record(),
            "adapter": {"fingerprint": encoder.fingerprint, "teacher": encoder.record.teacher.name},
            "policy": {"name": encoder.policy.name, "sha256": encoder.policy.sha256},
        }
        return RecordedEncoder(encoder, record)

    @cached_property
    def hyde(self) -> RecordedEncoder:
        """See :class:`Models`."""
        from safe_retrieval.encoder.hyde import HydeEncoder

        encoder = HydeEncoder(self._language_model, self.document.encoder, policy=self._generating_policy)
        generation = {
            "policy": {"name": encoder.policy.name, "sha256": encoder.policy.sha256},
            "samples": encoder.samples,
            "max_new_tokens": encoder.max_new_tokens,
            "include_query": encoder.include_query,
        }
        return RecordedEncoder(
            encoder, {**self.document.record, "backbone": self._backbone_record(), "hyde": generation}
        )

    @property
    def blend_weight(self) -> BlendWeight:
        """See :class:`Models`."""
        from safe_retrieval.encoder.blend import weight_for

        return weight_for(self._adapter.record)

    def check_adapter(self) -> None:
        """See :class:`Models`."""
        _ = self._adapter

    @cached_property
    def _adapter(self) -> LoadedAdapter:
        from safe_retrieval.encoder.persistence import load_adapter
        from safe_retrieval.encoder.shipped import shipped_adapter

        return load_adapter(self._adapter_path or shipped_adapter(self._backbone, self._document_encoder, self._policy))

    @cached_property
    def _language_model(self) -> LanguageModel:
        from safe_retrieval.backbone.language_model import LanguageModel

        return LanguageModel.load(self._backbone_name, dtype=self._dtype, offline=self._offline)

    @property
    def _backbone_name(self) -> str:
        if self._backbone is not None:
            return self._backbone
        return self._adapter.record.backbone.name

    @property
    def _generating_policy(self) -> ResponsePolicy:
        """Under which answers are generated: the one asked for, or the adapter's, whose vectors foresee them."""
        if self._policy is not None:
            return self._policy
        return self._adapter.record.policy.policy if self._adapter_path else CAREFUL

    def _backbone_record(self) -> dict[str, str]:
        model = self._language_model
        return {"name": model.name, "fingerprint": model.fingerprint, "dtype": model.precision}
