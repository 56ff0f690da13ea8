"""A language model's last-layer states over a text, averaged: the simplest embedding that a backbone has.

Nothing is trained and nothing stands around the text. With ``bidirectional`` every position sees every other, as
LLM2Vec does (BehnamGhader et al., arXiv 2404.05961); without it a position sees what stands before it, so the first
words know nothing of the last. Echo embeddings (:mod:`safe_retrieval.encoder.echo`) mend that by saying the text twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from safe_retrieval.encoder.input import unit_rows
from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.encoder.texts import clean_texts, length_sorted_batches
from safe_retrieval.types import FloatMatrix, QueryEncoding

if TYPE_CHECKING:
    from torch import Tensor, nn

    from safe_retrieval.backbone.language_model import LanguageModel

CAUSAL, BIDIRECTIONAL = "pooled", "llm2vec"
"""What stands before a model's name, and a colon, in the name of such an encoder."""

MAX_TOKENS = 512
"""What is read of a text, from its beginning; the rest is cut off."""

_TOKEN_BUDGET = 8192


class PooledEncoder:
    """Mean over a text's last-layer states, as an :class:`~safe_retrieval.types.Encoder` without a verdict.

    Queries and documents are treated alike; a text's first 512 tokens are read.

    Args:
        model: the language model.
        bidirectional: let every position see every other.
        name: a name for people, by which it can be loaded again; ``None`` makes one of the model's.
    """

    def __init__(self, model: LanguageModel, *, bidirectional: bool = False, name: str | None = None) -> None:
        self.model = model
        self.bidirectional = bidirectional
        self._name = name or f"{BIDIRECTIONAL if bidirectional else CAUSAL}:{model.name}"

    @property
    def name(self) -> str:
        """How it is read, and the model's name."""
        return self._name

    @property
    def torch_modules(self) -> tuple[nn.Module, ...]:
        """The model, for a host that moves it or shares it between processes."""
        return (self.model.model,)

    @property
    def dimension(self) -> int:
        """Width of the model."""
        return self.model.hidden_size

    @property
    def space(self) -> str:
        """Fingerprint over the weights and the pooling."""
        return self._fingerprint(f"mean\n{self.bidirectional}")

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        """Encode queries; ``refusal`` is ``None``."""
        return QueryEncoding(self.encode_documents(texts, batch_size=batch_size, progress=progress), None)

    def encode_queries(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """Encode queries; (n, H) float32, unit norm."""
        return self.encode_documents(texts, batch_size=batch_size, progress=progress)

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """Encode texts; (n, H) float32, unit norm.

        Raises:
            InputError: a text is not a string, or the model gives no finite direction for it.
        """
        rows, starts = self._rows(clean_texts(texts))
        out = np.empty((len(rows), self.dimension), dtype=np.float32)
        batches = length_sorted_batches([len(row) for row in rows], batch_size=batch_size, token_budget=_TOKEN_BUDGET)
        with progress_bar(len(rows), f"Encoding with {self.name}", show=progress) as advance:
            for batch in batches:
                out[batch] = mean_states(
                    self.model,
                    [rows[row] for row in batch],
                    starts=[starts[row] for row in batch],
                    bidirectional=self.bidirectional,
                )
                advance(len(batch))
        return unit_rows(out)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Positions that the model runs for each text."""
        return [len(row) for row in self._rows(clean_texts(texts))[0]]

    def _rows(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Token ids of each text, and from where on states are averaged."""
        rows = self.model.tokenizer.encode_text(texts, max_tokens=MAX_TOKENS)
        return rows, [0] * len(rows)

    def _fingerprint(self, pooling: str) -> str:
        return "sha256:" + hashlib.sha256(f"{self.model.fingerprint}\n{pooling}".encode()).hexdigest()


def mean_states(
    model: LanguageModel,
    rows: Sequence[Sequence[int]],
    *,
    starts: Sequence[int] | None = None,
    bidirectional: bool = False,
) -> FloatMatrix:
    """Mean over the last-layer states (after the final norm) of each row from its start on; (B, H) float32.

    Args:
        model: the language model.
        rows: B rows of token ids, none empty.
        starts: first position of each row that counts; ``None`` counts all.
        bidirectional: let every position see every other.
    """
    import torch

    with torch.inference_mode():
        states, real = text_states(model, rows, bidirectional=bidirectional)
        if starts is not None:
            first = torch.tensor(starts, device=real.device)[:, None]
            real = real & (torch.arange(real.shape[1], device=real.device) >= first)
        pooled: FloatMatrix = masked_mean(states, real).cpu().numpy()
    return pooled


def text_states(
    model: LanguageModel, rows: Sequence[Sequence[int]], *, bidirectional: bool = False
) -> tuple[Tensor, Tensor]:
    """Last-layer states (B, n, H) of B rows of token ids, and (B, n) bool, False where a column is padding.

    Gradients flow where they are on.
    """
    import torch

    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), model.tokenizer.pad_id)
    real = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):  # right padding: causal attention never looks at what stands after a position
        ids[i, : len(row)] = torch.tensor(row)
        real[i, : len(row)] = True
    ids, real = ids.to(model.device), real.to(model.device)
    mask = real
    if bidirectional:
        # A 4-d mask is added to the scores as it is, so one that hides only padding lets every token see all.
        hidden = torch.finfo(model.dtype).min
        mask = torch.zeros(real.shape, dtype=model.dtype, device=real.device).masked_fill(~real, hidden)
        mask = mask[:, None, None, :].expand(-1, 1, width, -1)
    return model.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state, real


def masked_mean(states: Tensor, counted: Tensor) -> Tensor:
    """(B, H) float32: mean of (B, n, H) states over the columns that count in (B, n)."""
    weights = counted[..., None].float()
    return (states.float() * weights).sum(1) / weights.sum(1)
