"""Teachers: what turns a response into the vector an adapter should foresee."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.encoder.pooled import PooledEncoder
from safe_retrieval.errors import ConfigError, ModelError
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

    def targets(self, responses: Sequence[str]) -> FloatMatrix:
        """(n, D) float32, unit norm."""


class InputTeacher:
    """An encoder of texts, usually a sentence-transformers model: responses are embedded as its documents are.

    Args:
        encoder: the encoder that an index for the adapter is built with.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

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

    def targets(self, responses: Sequence[str]) -> FloatMatrix:
        """(n, D) float32, unit norm."""
        return self._encoder.encode_documents(responses)


class MeanPooledTeacher(InputTeacher):
    """A language model without a system prompt, mean-pooled over the text's last-layer states.

    With the backbone itself as ``model`` this is the paper's JEPA setting: no outside teacher at all. With
    ``bidirectional`` and an LLM2Vec-style checkpoint (merged weights, in a ``transformers`` folder) it is the paper's
    teacher. The document encoder of such an adapter is :class:`~safe_retrieval.encoder.pooled.PooledEncoder`.

    Args:
        model: the language model.
        bidirectional: let every position see every other, as LLM2Vec does.
    """

    def __init__(self, model: LanguageModel, *, bidirectional: bool = False) -> None:
        super().__init__(PooledEncoder(model, bidirectional=bidirectional))


def load_teacher(name: str, model: LanguageModel, *, offline: bool = False) -> Teacher:
    """A teacher by name.

    Args:
        name: a sentence-transformers model (catalog name, hub id, folder); ``"self"`` for the backbone over its own
            response; ``"llm2vec:FOLDER"`` for an LLM2Vec-style checkpoint.
        model: the backbone.
        offline: open no connection.

    Raises:
        ConfigError: the name has a prefix that is not known.
        ModelError: the model cannot be had.
    """
    from safe_retrieval.backbone.language_model import LanguageModel as Loader

    if name == "self":
        return MeanPooledTeacher(model)
    kind, separator, rest = name.partition(":")
    if not separator:
        return InputTeacher(InputEncoder.load(name, offline=offline))
    if kind != "llm2vec":
        raise ConfigError(f"expected a model name, 'self' or 'llm2vec:FOLDER' as teacher, got {name!r}")
    if not Path(rest).is_dir():
        raise ModelError(f"expected an LLM2Vec-style checkpoint folder after 'llm2vec:', got {rest!r}")
    return MeanPooledTeacher(Loader.load(rest, offline=offline), bidirectional=True)
