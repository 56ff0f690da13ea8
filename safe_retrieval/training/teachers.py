"""Teachers: what turns a response into the vector an adapter should foresee."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from safe_retrieval.encoder.document_encoders import load_document_encoder
from safe_retrieval.encoder.input import InputEncoder, space_fingerprint
from safe_retrieval.encoder.pooled import BIDIRECTIONAL, CAUSAL, PooledEncoder
from safe_retrieval.errors import ConfigError
from safe_retrieval.models.fetch import resolve
from safe_retrieval.models.record import ModelKind
from safe_retrieval.types import Encoder, FloatMatrix

if TYPE_CHECKING:
    from safe_retrieval.backbone.language_model import LanguageModel


class Teacher(Protocol):
    """Responses to target vectors.

    ``space`` is the space of the document encoder that an index must be built with to be asked through the adapter.
    """

    @property
    def name(self) -> str:
        """For people and for the adapter's record."""

    @property
    def space(self) -> str:
        """Fingerprint of the vector space."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    @property
    def fingerprint(self) -> str | None:
        """Hash of the teacher's own files, ``sha256:...``; ``None`` where it is not known."""

    def targets(self, responses: Sequence[str]) -> FloatMatrix:
        """(n, D) float32, unit norm."""


class EncoderTeacher:
    """An encoder of texts, usually a sentence-transformers model: responses are embedded as its documents are.

    With the backbone's own averaged states (:class:`~safe_retrieval.encoder.pooled.PooledEncoder`) this is the paper's
    JEPA setting, no outside teacher at all; with those of an LLM2Vec-style checkpoint it is the paper's teacher.

    Args:
        encoder: the encoder that an index for the adapter is built with.
        fingerprint: hash of its files, where it is known.
    """

    def __init__(self, encoder: Encoder, *, fingerprint: str | None = None) -> None:
        self._encoder = encoder
        self._fingerprint = fingerprint

    @property
    def name(self) -> str:
        """The encoder's name."""
        return self._encoder.name

    @property
    def space(self) -> str:
        """The encoder's own space."""
        return self._encoder.space

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._encoder.dimension

    @property
    def fingerprint(self) -> str | None:
        """Hash of the encoder's own files, where it is known."""
        return self._fingerprint

    def targets(self, responses: Sequence[str]) -> FloatMatrix:
        """(n, D) float32, unit norm."""
        return self._encoder.encode_documents(responses)


def load_teacher(name: str, model: LanguageModel, *, offline: bool = False) -> Teacher:
    """A teacher by name.

    Args:
        name: as in :mod:`~safe_retrieval.encoder.document_encoders`; or ``"self"`` for the backbone over its own
            response.
        model: the backbone.
        offline: open no connection.

    Raises:
        ConfigError: the name has a prefix that is not known.
        ModelError: the model cannot be had.
    """
    if name in {"self", f"{CAUSAL}:{model.name}"}:
        return EncoderTeacher(PooledEncoder(model), fingerprint=model.fingerprint)
    kind, separator, _ = name.partition(":")
    if separator and kind not in {CAUSAL, BIDIRECTIONAL} and not Path(name).exists():
        raise ConfigError(f"expected a model name, 'self', 'pooled:NAME' or 'llm2vec:FOLDER' as teacher, got {name!r}")
    encoder = load_document_encoder(name, offline=offline)
    return EncoderTeacher(encoder, fingerprint=fingerprint_of(encoder, name))


def fingerprint_of(encoder: Encoder, name: str) -> str | None:
    """Hash of the files of an encoder that was loaded by ``name``, ``sha256:...``.

    ``None`` where that name leads to other files by now, or to an encoder that has no such hash: what a record says of
    its teacher is checked against the space, or left out.
    """
    if isinstance(encoder, PooledEncoder):
        return encoder.model.fingerprint
    if not isinstance(encoder, InputEncoder):
        return None
    found = resolve(name, offline=True, kind=ModelKind.SENTENCE_ENCODER).fingerprint
    prompts = {"query_prompt": encoder.query_prompt, "document_prompt": encoder.document_prompt}
    return found if space_fingerprint(found, **prompts) == encoder.space else None
