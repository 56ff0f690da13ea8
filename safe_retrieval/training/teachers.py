"""Teachers: what turns a response into the vector an adapter should foresee."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from safe_retrieval.encoder.input import InputEncoder, unit_rows
from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.encoder.texts import clean_texts, length_sorted_batches
from safe_retrieval.errors import ConfigError, ModelError
from safe_retrieval.types import FloatMatrix

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
    """A sentence-transformers model: responses are embedded as its documents are.

    Args:
        encoder: the model.
    """

    def __init__(self, encoder: InputEncoder) -> None:
        self._encoder = encoder

    @property
    def name(self) -> str:
        """The model's name."""
        return self._encoder.name

    @property
    def space(self) -> str:
        """The model's own space."""
        return self._encoder.space

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._encoder.dimension

    def targets(self, responses: Sequence[str]) -> FloatMatrix:
        """(n, D) float32, unit norm."""
        return self._encoder.encode_documents(responses)


class MeanPooledTeacher:
    """A language model without a system prompt, mean-pooled over the text's last-layer states.

    With the backbone itself as ``model`` this is the paper's JEPA setting: no outside teacher at all. With
    ``bidirectional`` and an LLM2Vec-style checkpoint (merged weights, in a ``transformers`` folder) it is the paper's
    teacher.

    Args:
        model: the language model.
        bidirectional: let every position see every other, as LLM2Vec does.
    """

    def __init__(self, model: LanguageModel, *, bidirectional: bool = False) -> None:
        self._model = model
        self._bidirectional = bidirectional

    @property
    def name(self) -> str:
        """The model's name and how it is read."""
        return f"{self._model.name} ({'bidirectional ' if self._bidirectional else ''}mean)"

    @property
    def space(self) -> str:
        """Fingerprint over the weights and the pooling."""
        identity = f"{self._model.fingerprint}\nmean\n{self._bidirectional}"
        return "sha256:" + hashlib.sha256(identity.encode()).hexdigest()

    @property
    def dimension(self) -> int:
        """Width of the model."""
        return self._model.hidden_size

    def targets(self, responses: Sequence[str]) -> FloatMatrix:
        """(n, H) float32, unit norm."""
        ids = self._model.tokenizer.encode_text(clean_texts(responses), max_tokens=512)
        out = np.empty((len(ids), self.dimension), dtype=np.float32)
        with progress_bar(len(ids), f"Teaching with {self._model.name}") as advance:
            for batch in length_sorted_batches([len(row) for row in ids], batch_size=32):
                out[batch] = self._pooled([ids[row] for row in batch])
                advance(len(batch))
        return unit_rows(out)

    @torch.inference_mode()
    def _pooled(self, rows: Sequence[Sequence[int]]) -> FloatMatrix:
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self._model.tokenizer.pad_id)
        real = torch.zeros((len(rows), width), dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            real[i, : len(row)] = True
        ids, real = ids.to(self._model.device), real.to(self._model.device)
        # A 4-d mask is taken as it is, so one that hides only padding makes attention bidirectional.
        mask = real[:, None, None, :].expand(-1, 1, width, -1) if self._bidirectional else real
        states = self._model.model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        weights = real[..., None].float()
        pooled: FloatMatrix = ((states.float() * weights).sum(1) / weights.sum(1)).cpu().numpy()
        return pooled


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
