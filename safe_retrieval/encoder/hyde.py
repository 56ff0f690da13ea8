"""HyDE: let the model answer, embed the answer. What one pass of a response encoder tries to foresee.

Source: Gao et al., "Precise Zero-Shot Dense Retrieval without Relevance Labels" (arXiv 2212.10496). There several
sampled answers and the query's own vector are averaged; both are options here. It costs a generation a query.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from safe_retrieval.encoder.document_encoders import load_document_encoder
from safe_retrieval.encoder.input import unit_rows
from safe_retrieval.encoder.policy import CAREFUL, ResponsePolicy, policy_from
from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.encoder.texts import clean_texts, length_sorted_batches
from safe_retrieval.encoder.verdict import is_refusal
from safe_retrieval.encoder.weights import modules_of
from safe_retrieval.errors import InputError
from safe_retrieval.models.catalog import DEFAULT_BACKBONE, DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.types import Encoder, FloatMatrix, QueryEncoding

if TYPE_CHECKING:
    from torch import nn

    from safe_retrieval.backbone.language_model import LanguageModel


class HydeEncoder:
    """Generate ``samples`` answers a query and average their vectors.

    Args:
        model: writes the answers.
        document_encoder: embeds them.
        policy: the system prompt they are written under.
        samples: answers a query; one is greedy, several are sampled.
        max_new_tokens: bound on an answer.
        include_query: average the query's own vector in as well, as the paper does.
        temperature: of sampling, where there is more than one answer.
        seed: of sampling.

    Attributes:
        generated_tokens: written so far, over all calls; what HyDE costs beside time.

    Raises:
        InputError: fewer than one sample.
    """

    def __init__(
        self,
        model: LanguageModel,
        document_encoder: Encoder,
        *,
        policy: ResponsePolicy = CAREFUL,
        samples: int = 1,
        max_new_tokens: int = 40,
        include_query: bool = False,
        temperature: float = 0.7,
        seed: int = 0,
    ) -> None:
        if samples < 1:
            raise InputError(f"expected at least one sample a query, got {samples}")
        self.model, self.policy = model, policy
        self.samples, self.max_new_tokens, self.include_query = samples, max_new_tokens, include_query
        self.document_encoder = document_encoder
        self.generated_tokens = 0
        self._temperature = temperature if samples > 1 else 0.0
        self._seed = seed

    @classmethod
    def load(
        cls,
        backbone: str | None = None,
        *,
        document_encoder: str = DEFAULT_DOCUMENT_ENCODER,
        policy: str | ResponsePolicy = CAREFUL,
        samples: int = 1,
        max_new_tokens: int = 40,
        include_query: bool = False,
        dtype: str = "auto",
        offline: bool = False,
    ) -> HydeEncoder:
        """Load both models by name; see the class for the arguments, and :meth:`LanguageModel.load` for ``dtype``.

        Raises:
            ModelError: one of them cannot be had.
        """
        from safe_retrieval.backbone.language_model import LanguageModel

        return cls(
            LanguageModel.load(backbone or DEFAULT_BACKBONE, dtype=dtype, offline=offline),
            load_document_encoder(document_encoder, offline=offline),
            policy=policy_from(policy),
            samples=samples,
            max_new_tokens=max_new_tokens,
            include_query=include_query,
        )

    @property
    def name(self) -> str:
        """For people."""
        return f"HyDE-{self.samples} by {self.model.name} to {self.document_encoder.name}"

    @property
    def torch_modules(self) -> tuple[nn.Module, ...]:
        """Backbone and document encoder, for a host that moves or shares them."""
        return (self.model.model, *modules_of(self.document_encoder))

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.document_encoder.dimension

    @property
    def space(self) -> str:
        """The document encoder's space."""
        return self.document_encoder.space

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        """Encode queries by generation: (n, D) unit vectors; ``refusal`` (n,) is the share of answers that refuse."""
        answers = self.answers(texts, batch_size=batch_size, progress=progress)
        flat = [answer for own in answers for answer in own]
        vectors = self.document_encoder.encode_documents(flat, batch_size=batch_size, progress=False)
        mean = vectors.reshape(len(answers), self.samples, self.dimension).sum(1)
        if self.include_query and len(answers):
            mean = mean + self.document_encoder.encode_queries(texts, batch_size=batch_size, progress=False)
        refusal = np.array([np.mean([is_refusal(answer) for answer in own]) for own in answers], dtype=np.float32)
        return QueryEncoding(unit_rows(mean), refusal)

    def as_read(self, texts: Sequence[str]) -> list[str]:
        """The part of each text that is answered, and so judged."""
        return self.model.as_read(clean_texts(texts))

    def encode_queries(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """Encode queries; (n, D) float32, unit norm."""
        return self.encode(texts, batch_size=batch_size, progress=progress).vectors

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """Encode documents with the document encoder; (n, D) float32, unit norm."""
        return self.document_encoder.encode_documents(texts, batch_size=batch_size, progress=progress)

    def answers(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> list[list[str]]:
        """The answers themselves, ``samples`` a query, in input order."""
        from safe_retrieval.backbone.generate import generate

        cleaned = clean_texts(texts)
        prompt = self.policy.system_prompt
        ids = self.model.token_ids(cleaned, prompt)
        out: list[list[str]] = [[] for _ in cleaned]
        with progress_bar(len(cleaned), f"Answering with {self.model.name}", show=progress) as advance:
            for batch in length_sorted_batches([len(row) for row in ids], batch_size=batch_size):
                prefix = self.model.prefix_pass([ids[row] for row in batch], prompt)
                for sample in range(self.samples):
                    written = generate(
                        self.model,
                        prefix,
                        max_new_tokens=self.max_new_tokens,
                        temperature=self._temperature,
                        seeds=[_seed(self._seed, sample, cleaned[row]) for row in batch],
                    )
                    for row, new in zip(batch, written, strict=True):
                        self.generated_tokens += len(new)
                        out[row].append(self.model.tokenizer.decode(new).strip())
                advance(len(batch))
        return out


def _seed(seed: int, sample: int, text: str) -> int:
    """A seed of each text's own: what is sampled for it does not depend on the texts around it."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{sample}\n{text}".encode()).digest()[:7], "big")
