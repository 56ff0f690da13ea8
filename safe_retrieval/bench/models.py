"""The encoders behind the arms, each loaded once and each with a record of everything that decides its vectors."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Protocol

from safe_retrieval.audit.models import LocalModels, RecordedEncoder
from safe_retrieval.bench.arms import Arm, QuerySide
from safe_retrieval.encoder.blend import BlendWeight


class ArmModels(Protocol):
    """Where arms get their encoders from; each is opened when it is first needed."""

    @property
    def document(self) -> RecordedEncoder:
        """The teacher."""

    @property
    def response(self) -> RecordedEncoder:
        """The response encoder, which also judges queries."""

    def query(self, arm: Arm) -> RecordedEncoder:
        """What an arm's own vectors come from; for a blend the response encoder."""

    @property
    def blend_weight(self) -> BlendWeight:
        """See :class:`~safe_retrieval.audit.models.Models`."""

    def check_adapter(self) -> None:
        """See :class:`~safe_retrieval.audit.models.Models`."""


def settled(arm: Arm, models: ArmModels) -> Arm:
    """The arm with nothing left open, as results record it: a blend without a weight takes the adapter's.

    Raises:
        AdapterError: there is no such adapter, or it is damaged.
    """
    if arm.query is not QuerySide.BLEND or arm.weight is not None:
        return arm
    return replace(arm, weight=models.blend_weight)


class BenchModels(LocalModels):
    """Models by name, on this machine; the arguments are those of :class:`~safe_retrieval.audit.models.LocalModels`."""

    def query(self, arm: Arm) -> RecordedEncoder:
        """See :class:`ArmModels`.

        Raises:
            AdapterError, ModelError: the adapter or a model cannot be had.
        """
        match arm.query:
            case QuerySide.TEACHER | QuerySide.NONE:
                return self.document
            case QuerySide.RESPONSE | QuerySide.BLEND:
                return self.response
            case QuerySide.HYDE:
                return self._generated(arm.samples, include_query=arm.include_query)
            case QuerySide.ECHO:
                return self._echo
            case QuerySide.POOLED:
                return self._pooled

    def _generated(self, samples: int, *, include_query: bool) -> RecordedEncoder:
        from safe_retrieval.encoder.hyde import HydeEncoder

        encoder = HydeEncoder(
            self._language_model,
            self.document.encoder,
            policy=self._generating_policy,
            samples=samples,
            include_query=include_query,
        )
        generation = {
            "policy": {"name": encoder.policy.name, "sha256": encoder.policy.sha256},
            "samples": samples,
            "max_new_tokens": encoder.max_new_tokens,
            "include_query": include_query,
        }
        record = {**self.document.record, "backbone": self._backbone_record(), "hyde": generation}
        return RecordedEncoder(encoder, record)

    @cached_property
    def _echo(self) -> RecordedEncoder:
        from safe_retrieval.encoder.echo import EchoEncoder

        encoder = EchoEncoder(self._language_model)
        return RecordedEncoder(encoder, {"backbone": self._backbone_record(), "echo": {"space": encoder.space}})

    @cached_property
    def _pooled(self) -> RecordedEncoder:
        from safe_retrieval.encoder.pooled import PooledEncoder

        encoder = PooledEncoder(self._language_model)
        return RecordedEncoder(encoder, {"backbone": self._backbone_record(), "pooled": {"space": encoder.space}})
