"""Generation for many prompts at once, and for soft prompts.

On a CPU a decoding step is a matrix product whose height is the number of live rows, so batches are large, finished
rows are dropped from the batch as soon as enough of them are done, and the output layer sees one position a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from safe_retrieval.backbone.key_values import KeyValues
from safe_retrieval.backbone.language_model import LanguageModel, Prefix
from safe_retrieval.errors import InputError

_COMPACT_BELOW = 0.8  # drop finished rows once fewer than this share of the batch is still decoding


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prefix: Prefix,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
) -> list[list[int]]:
    """Continuations of B prompts, greedy or sampled.

    Args:
        model: the language model.
        prefix: B prompts after their prefix pass; left unchanged.
        max_new_tokens: bound on new tokens a row.
        temperature: 0 is greedy; above it, tokens are sampled from softmax(logits / temperature).
        seeds: B seeds of sampling, one a row, so that what is drawn for a row does not depend on its batch.

    Returns:
        New token ids of each row, without the end token.

    Raises:
        InputError: tokens are to be sampled, and there is not one seed for each row.
    """
    draws = _draws(model, prefix, max_new_tokens, seeds) if temperature > 0 else None
    end = torch.tensor(model.end_ids, device=model.device)
    rows = torch.arange(prefix.mask.shape[0], device=model.device)  # live row -> output row
    out: list[list[int]] = [[] for _ in range(len(rows))]
    cache, mask, positions = prefix.key_values.to_cache(), prefix.mask, prefix.lengths
    states = prefix.state
    alive = torch.ones_like(rows, dtype=torch.bool)
    for step in range(max_new_tokens):
        logits = model.logits(states)
        tokens = logits.argmax(-1) if draws is None else _sample(logits / temperature, draws[rows, step])  # (B,)
        alive = alive & ~torch.isin(tokens, end)
        for row, token, live in zip(rows.tolist(), tokens.tolist(), alive.tolist(), strict=True):
            if live:
                out[row].append(token)
        if step + 1 == max_new_tokens or not bool(alive.any()):
            break
        if float(alive.float().mean()) < _COMPACT_BELOW:
            keep = alive.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            rows, tokens, mask, positions, alive = rows[keep], tokens[keep], mask[keep], positions[keep], alive[keep]
        mask = torch.cat((mask, mask.new_ones(len(rows), 1)), dim=1)
        states = model.body(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=positions[:, None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        positions = positions + 1
    return out


def respond(model: LanguageModel, queries: Sequence[str], system_prompt: str, *, max_new_tokens: int) -> list[str]:
    """The model's greedy answers to queries under a system prompt, as one batch."""
    prefix = model.prefix_pass(model.token_ids(queries, system_prompt), system_prompt)
    return [model.tokenizer.decode(ids).strip() for ids in generate(model, prefix, max_new_tokens=max_new_tokens)]


@torch.inference_mode()
def generate_from_embeddings(model: LanguageModel, soft_prompts: Tensor, *, max_new_tokens: int) -> list[list[int]]:
    """Greedy continuations of soft prompts (B, T, H) that stand alone, with nothing before them.

    Source: LLM2Vec-Gen (arXiv 2603.10913), where an embedding is read back as text this way. Keys and values are kept,
    so every new token costs one position.
    """
    batch, width, _ = soft_prompts.shape
    mask = torch.ones(batch, width, dtype=torch.bool, device=model.device)
    out = model.body(
        inputs_embeds=soft_prompts.to(model.dtype),
        attention_mask=mask,
        past_key_values=KeyValues.empty_cache(),
        use_cache=True,
    )
    prefix = Prefix(
        KeyValues.from_cache(out.past_key_values),
        mask,
        torch.full((batch,), width, device=model.device),
        out.last_hidden_state[:, -1],
    )
    return generate(model, prefix, max_new_tokens=max_new_tokens)


def _draws(model: LanguageModel, prefix: Prefix, steps: int, seeds: Sequence[int] | None) -> Tensor:
    """(B, steps) uniform numbers in [0, 1), each row from its own seed."""
    if seeds is None or len(seeds) != len(prefix.mask):
        raise InputError(f"expected one seed a row ({len(prefix.mask)}) to sample with, got {seeds and len(seeds)}")
    rows = [torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(model.device)


def _sample(logits: Tensor, draws: Tensor) -> Tensor:
    """Invert the cumulative distribution of (B, V) logits at (B,) uniform draws."""
    cumulative = logits.float().softmax(-1).cumsum(-1)
    found = torch.searchsorted(cumulative, (draws * cumulative[:, -1])[:, None], right=True).squeeze(1)
    return found.clamp(max=logits.shape[-1] - 1)
