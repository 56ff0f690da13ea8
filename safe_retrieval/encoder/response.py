"""The response encoder: embed the answer that the backbone would give, without generating it.

One forward pass over ``[policy and template][query][trained tokens]`` yields both the response embedding, in the
teacher's vector space, and the calibrated probability that the backbone would refuse. Source of the method:
LLM2Vec-Gen (arXiv 2603.10913)::

    encoder = ResponseEncoder.load()
    vectors, refusal = encoder.encode(["how do tides work?"])  # (1, 384) unit norm, (1,) in [0, 1]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from safe_retrieval.encoder.adapter import RefusalFeatures
from safe_retrieval.encoder.input import unit_rows
from safe_retrieval.encoder.persistence import LoadedAdapter, load_adapter
from safe_retrieval.encoder.policy import ResponsePolicy, policy_from
from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.encoder.shipped import shipped_adapter
from safe_retrieval.encoder.texts import clean_texts, length_sorted_batches
from safe_retrieval.errors import BackboneMismatchError, ModelError
from safe_retrieval.types import FloatMatrix, FloatVector, QueryEncoding

if TYPE_CHECKING:
    from torch import Tensor, nn

    from safe_retrieval.backbone.language_model import LanguageModel

DOCUMENT_INSTRUCTION = "Summarize the following passage: "
"""What a document is asked with in symmetric mode; the paper's wording."""


class Compression(NamedTuple):
    """What a batch of texts is compressed to.

    Attributes:
        vectors: (B, D) float32, unit norm.
        refusal: (B,) float32 in [0, 1].
        projected: (B, R, H) float32, p of the paper: the soft prompt from which the response can be written back.
    """

    vectors: FloatMatrix
    refusal: FloatVector
    projected: Tensor


class ResponseEncoder:
    """Backbone and adapter as an :class:`~safe_retrieval.types.Encoder`.

    Args:
        model: the frozen backbone.
        loaded: the adapter, as :func:`~safe_retrieval.encoder.persistence.load_adapter` returns it.
        policy: another policy than the one the adapter was trained under; it changes what is refused, and the further
            it is from the trained one the less the embedding can be relied on.

    Raises:
        BackboneMismatchError: the adapter belongs to other weights, or to another tokenizer or chat template.
    """

    def __init__(self, model: LanguageModel, loaded: LoadedAdapter, *, policy: ResponsePolicy | None = None) -> None:
        wanted = loaded.record.backbone
        if model.fingerprint != wanted.fingerprint:
            raise BackboneMismatchError(
                f"the adapter was trained for {wanted.name} ({wanted.fingerprint}), got {model.name} "
                f"({model.fingerprint}); load that backbone, or train an adapter for this one"
            )
        self.model = _in_its_template(model, loaded)
        self.record = loaded.record
        self.fingerprint = loaded.fingerprint
        self.policy = policy or loaded.record.policy.policy
        self._adapter = loaded.adapter.to(model.device)
        self.refusal_head = loaded.refusal.to(model.device)

    @classmethod
    def load(
        cls,
        adapter: str | Path | None = None,
        *,
        backbone: str | None = None,
        teacher: str | None = None,
        policy: str | ResponsePolicy | None = None,
        dtype: str = "auto",
        offline: bool = False,
    ) -> ResponseEncoder:
        """Load an adapter and its backbone.

        Args:
            adapter: an adapter folder; ``None`` takes the one shipped for backbone, teacher and policy.
            backbone: name, hub id or folder of the backbone; ``None`` takes the one the adapter names.
            teacher: the document encoder whose space is wanted, where no adapter is given
                (:func:`~safe_retrieval.encoder.shipped.shipped_adapter`).
            policy: name or system prompt; ``None`` takes the adapter's. Where no adapter is shipped for it, the default
                one is asked under it.
            dtype: ``"auto"``, or ``"int8"``: as :meth:`LanguageModel.load` takes it.
            offline: open no connection.

        Raises:
            AdapterError: there is no such adapter, it is damaged, or it belongs to another backbone.
            ModelError: the backbone cannot be had.
        """
        from safe_retrieval.backbone.language_model import LanguageModel

        loaded = load_adapter(shipped_adapter(backbone, teacher, policy) if adapter is None else adapter)
        model = LanguageModel.load(backbone or loaded.record.backbone.name, dtype=dtype, offline=offline)
        return cls(model, loaded, policy=None if policy is None else policy_from(policy))

    @property
    def name(self) -> str:
        """Backbone and teacher, for people."""
        return f"{self.record.backbone.name} to {self.record.teacher.name}"

    @property
    def dimension(self) -> int:
        """Length of a vector: the teacher's."""
        return self.record.teacher.dimension

    @property
    def space(self) -> str:
        """The teacher's space: an index that the teacher built can be asked through this encoder."""
        return self.record.teacher.space

    @property
    def torch_modules(self) -> tuple[nn.Module, ...]:
        """Backbone, heads and refusal head, for a host that moves or shares them; all of them, or none."""
        return (self.model.model, self._adapter, self.refusal_head)

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        """Encode queries in one forward pass each.

        Args:
            texts: n queries; a query's first 512 tokens are read, and nothing in it is taken for a control token.
            batch_size: most queries in one pass; it does not change the result beyond rounding.
            progress: whether to show a bar on stderr; ``None`` shows it from 500 texts up.

        Returns:
            (n, D) float32 unit vectors and (n,) float32 refusal probabilities, in input order.

        Raises:
            InputError: a text is not a string.
            ModelError: the backbone's numbers overflow.
        """
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        refusal = np.empty(len(texts), dtype=np.float32)
        for rows, part in self._compressions(texts, batch_size, progress):
            vectors[rows], refusal[rows] = part.vectors, part.refusal
        return QueryEncoding(vectors, refusal)

    def as_read(self, texts: Sequence[str]) -> list[str]:
        """The part of each text that vector and verdict are of: its first 512 tokens.

        Behind a gate nothing else of a query may be searched with, for nobody judged it.
        """
        return self.model.as_read(clean_texts(texts))

    def encode_queries(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """Encode queries; (n, D) float32, unit norm. See :meth:`encode`."""
        return self.encode(texts, batch_size=batch_size, progress=progress).vectors

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """Encode documents in symmetric mode, as summaries of themselves; (n, D) float32, unit norm.

        The usual index is built by the teacher instead, which is many times faster and lands in the same space.
        """
        asked = [DOCUMENT_INSTRUCTION + text for text in clean_texts(texts)]
        return self.encode(asked, batch_size=batch_size, progress=progress).vectors

    def decode(self, texts: Sequence[str], *, max_new_tokens: int = 48, batch_size: int = 32) -> list[str]:
        """The text that each query's embedding stands for: its compressed response, written back by the backbone.

        Args:
            texts: n queries.
            max_new_tokens: bound on what is written.
            batch_size: most queries in one pass.

        Returns:
            n texts, in input order; nothing of the query itself but its compression is given to the backbone.
        """
        from safe_retrieval.backbone.generate import generate_from_embeddings

        out = [""] * len(texts)
        for rows, part in self._compressions(texts, batch_size, progress=None):
            soft = self._adapter.soft_prompt(part.projected)
            written = generate_from_embeddings(self.model, soft, max_new_tokens=max_new_tokens)
            for row, ids in zip(rows, written, strict=True):
                out[row] = self.model.tokenizer.decode(ids).strip()
        return out

    def prompt_features(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> RefusalFeatures:
        """What the refusal head reads of each query, from the prompt alone; on the CPU.

        Args:
            texts: n queries, as for :meth:`encode`.
            batch_size: most queries in one pass.
            progress: whether to show a bar on stderr; ``None`` shows it from 500 texts up.

        Returns:
            (n,) float32 log-odds of the first answer token and (n, H) float32 states, in input order.
        """
        import torch

        cleaned, system_prompt = clean_texts(texts), self.policy.system_prompt
        ids = self.model.token_ids(cleaned, system_prompt)
        found = RefusalFeatures(torch.empty(len(cleaned)), torch.empty(len(cleaned), self.model.hidden_size))
        lengths = [len(row) for row in ids]
        batches = length_sorted_batches(lengths, batch_size=batch_size, token_budget=self.model.batch_cells)
        with progress_bar(len(cleaned), f"Prompts through {self.model.name}", show=progress) as advance:
            for batch in batches:
                with torch.inference_mode():
                    state = self.model.prefix_pass([ids[row] for row in batch], system_prompt).state
                    part = self.refusal_head.features(state, self.model.logits(state))
                found.first_token[batch], found.state[batch] = part.first_token.cpu(), part.state.cpu()
                advance(len(batch))
        return found

    def _compressions(
        self, texts: Sequence[str], batch_size: int, progress: bool | None
    ) -> Iterator[tuple[list[int], Compression]]:
        cleaned = clean_texts(texts)
        if not cleaned:
            return
        ids = self.model.token_ids(cleaned, self.policy.system_prompt)
        extra = self._adapter.shape.tokens
        budget = self.model.batch_cells
        batches = length_sorted_batches([len(row) + extra for row in ids], batch_size=batch_size, token_budget=budget)
        with progress_bar(len(cleaned), f"Encoding with {self.name}", show=progress) as advance:
            for batch in batches:
                yield batch.tolist(), self._compress([ids[row] for row in batch])
                advance(len(batch))

    def _compress(self, ids: Sequence[Sequence[int]]) -> Compression:
        import torch

        shape = self._adapter.shape
        with torch.inference_mode():
            prompt, tail, values = self.model.joint_pass(
                ids, self.policy.system_prompt, self._adapter.tokens, read_values=shape.values > 0
            )
            states = tail[:, shape.thought_tokens :]
            if shape.read_prompt:
                states = torch.cat((prompt[:, None], states), dim=1)
            projected = self._adapter.project(states)
            logits = self.model.logits(prompt)
            foreseen = self.refusal_head(self.refusal_head.features(prompt, logits))
            first_token = self.model.expected_token(logits) if shape.read_first_token else None
            beside = self._adapter.read_beside(values, first_token)
            vectors = self._adapter.expect(self._adapter.align(projected, beside), foreseen).cpu().numpy()
            refusal = foreseen.cpu().numpy()
        if not np.isfinite(vectors).all():
            raise ModelError(f"{self.model.name} gave states that are not finite in {self.model.dtype}; use float32")
        return Compression(unit_rows(vectors), refusal, projected)


def _in_its_template(model: LanguageModel, loaded: LoadedAdapter) -> LanguageModel:
    """The backbone, asked as in training, with the chat template or without.

    A query's states depend on the text around it, so equal weights with another chat template do not do.
    """
    from safe_retrieval.backbone.template import render

    wanted, system_prompt = loaded.record.template_sha256, loaded.record.policy.system_prompt
    found = render(model.tokenizer, system_prompt).sha256
    if found == wanted:
        return model.in_template(chat=True)
    if render(model.tokenizer, system_prompt, chat=False).sha256 == wanted:
        return model.in_template(chat=False)
    raise BackboneMismatchError(
        f"the adapter was trained behind the prompt {wanted}, and the chat template of {model.name} makes {found} "
        "of its policy; load the backbone with the tokenizer it was published with, or train an adapter for it"
    )
