"""What an adapter is trained on. Source: LLM2Vec-Gen (arXiv 2603.10913), section 3, and what we added."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safe_retrieval.backbone.language_model import LanguageModel


def cosine_alignment(vectors: Tensor, targets: Tensor) -> Tensor:
    """Mean of 1 - cos(e, t) over a batch, (B, D) each: for teachers whose vectors are used by direction only."""
    return (1 - functional.cosine_similarity(vectors, targets, dim=-1)).mean()


def squared_alignment(vectors: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error between e and t, (B, D) each, neither normalised: the paper's alignment loss."""
    return functional.mse_loss(vectors, targets)


def contrast(vectors: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """InfoNCE over a batch: each e should be nearest to its own t among all t of the batch.

    Not in the paper. Alignment alone is content with the mean response; contrast is what separates two answers to
    similar questions.
    """
    similarity = functional.normalize(vectors, dim=-1) @ functional.normalize(targets, dim=-1).T
    return functional.cross_entropy(similarity / temperature, torch.arange(len(vectors), device=vectors.device))


def reconstruction(model: LanguageModel, soft_prompts: Tensor, responses: Sequence[Sequence[int]]) -> Tensor:
    """Next-token cross-entropy of responses given their soft prompts alone, through the frozen backbone.

    The output layer, the widest of all, is computed only where there is a label.

    Args:
        model: the frozen backbone.
        soft_prompts: (B, R, H) input embeddings; gradients flow to them.
        responses: B rows of token ids, each ending with the tokenizer's end token if the response ended.

    Returns:
        Mean over all label positions, in nats.
    """
    batch, width, _ = soft_prompts.shape
    longest = max(len(row) for row in responses)
    ids = torch.full((batch, longest), model.tokenizer.pad_id)
    label = torch.zeros((batch, longest), dtype=torch.bool)
    for row, own in enumerate(responses):
        ids[row, : len(own)] = torch.tensor(own)
        label[row, : len(own)] = True
    ids, label = ids.to(model.device), label.to(model.device)
    # Right padding is safe here: causal attention never looks at what stands after a position.
    inputs = torch.cat((soft_prompts.to(model.dtype), model.embed(ids[:, :-1])), dim=1)  # (B, R + n - 1, H)
    states = model.body(inputs_embeds=inputs, use_cache=False).last_hidden_state
    predicting = states[:, width - 1 :]  # (B, n, H): the state before each response token
    return functional.cross_entropy(model.logits(predicting[label]).float(), ids[label])
