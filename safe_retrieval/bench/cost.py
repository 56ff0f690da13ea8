"""What a query costs in floating-point operations, counted from the models' shapes.

A pass over T new positions, each of which sees the c positions before it and itself, costs

    2 N T  +  4 L A (sum over the new positions of how many positions they see)  +  2 V H O

with N the parameters of the layers (input embeddings are looked up, not multiplied), L layers, A = heads times head
width (scores and the weighted sum of values, two operations a multiplication each), and O positions whose logits are
computed by an output layer of V H parameters. Source: Kaplan et al., "Scaling Laws for Neural Language Models" (arXiv
2001.08361), section 2.1, with attention's share kept. Normalisation, activations and search are left out. What is
computed once and reused, the shared prefix, costs nothing; generated answers are counted at their bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from safe_retrieval.bench.arms import Arm, QuerySide
from safe_retrieval.types import Encoder

if TYPE_CHECKING:
    from safe_retrieval.bench.models import ArmModels
    from safe_retrieval.encoder.adapter import AdapterShape
    from safe_retrieval.encoder.hyde import HydeEncoder
    from safe_retrieval.encoder.response import ResponseEncoder


class ModelSize(NamedTuple):
    """The numbers of a transformer that its cost depends on.

    Attributes:
        parameters: of all layers, without input embeddings and output layer.
        output: parameters of the output layer; 0 for a model without one.
        layers: number of layers.
        attention_width: heads times the width of a head.
    """

    parameters: int
    output: int
    layers: int
    attention_width: int


def model_size(model: Any) -> ModelSize:
    """Sizes of a ``transformers`` model."""
    config = model.config
    embeddings = model.get_input_embeddings().weight
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    own = {id(parameter): parameter.numel() for parameter in model.parameters()}
    outside = {id(embeddings)} | ({id(head.weight)} if head is not None else set())
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelSize(
        parameters=sum(count for key, count in own.items() if key not in outside),
        output=0 if head is None else head.weight.numel(),
        layers=config.num_hidden_layers,
        attention_width=config.num_attention_heads * width,
    )


def pass_flops(size: ModelSize, new: int, *, before: int = 0, outputs: int = 0, causal: bool = True) -> float:
    """Operations of one pass; see the module.

    Args:
        size: the model.
        new: positions that are computed.
        before: kept positions that all of them see.
        outputs: positions whose logits are computed.
        causal: whether a new position sees only itself and what stands before it; else it sees all.
    """
    seen = new * before + (new * (new + 1) / 2 if causal else new * new)
    return 2.0 * size.parameters * new + 4.0 * size.layers * size.attention_width * seen + 2.0 * size.output * outputs


def arm_flops(arm: Arm, models: ArmModels, texts: Sequence[str], *, instruction: str = "") -> float | None:
    """Mean operations a query, over all encoders that an arm runs; ``None`` where an encoder's shape is not known.

    Words alone cost 0: BM25 multiplies next to nothing.

    Args:
        arm: the arm.
        models: its encoders.
        texts: the queries; at least one.
        instruction: put before what the backbone reads, as :meth:`Arm.asked` says.
    """
    read = arm.asked(texts, instruction)
    parts: list[float | None] = []
    if arm.query is not QuerySide.NONE:
        parts.append(encoder_flops(models.query(arm).encoder, read))
    if arm.query is QuerySide.BLEND:
        parts.append(encoder_flops(models.document.encoder, texts))
    if arm.needs_verdict:
        parts.append(encoder_flops(models.response.encoder, read))
    known = [part for part in parts if part is not None]
    return math.fsum(known) if len(known) == len(parts) else None


def encoder_flops(encoder: Encoder, texts: Sequence[str]) -> float | None:
    """Mean operations that an encoder needs for a query; ``None`` for one of a kind that is not known here."""
    from safe_retrieval.encoder.hyde import HydeEncoder
    from safe_retrieval.encoder.input import InputEncoder
    from safe_retrieval.encoder.pooled import PooledEncoder
    from safe_retrieval.encoder.response import ResponseEncoder

    if isinstance(encoder, InputEncoder):
        size = model_size(encoder.transformer)
        return _mean([pass_flops(size, tokens, causal=False) for tokens in encoder.token_counts(texts)])
    if isinstance(encoder, PooledEncoder):
        size = model_size(encoder.model.model)
        causal = not encoder.bidirectional
        return _mean([pass_flops(size, tokens, causal=causal) for tokens in encoder.token_counts(texts)])
    if isinstance(encoder, ResponseEncoder):
        return _response(encoder, texts)
    if isinstance(encoder, HydeEncoder):
        return _generated(encoder, texts)
    return None


def _response(encoder: ResponseEncoder, texts: Sequence[str]) -> float:
    size, shape = model_size(encoder.model.model), encoder.record.shape
    before = encoder.model.shared_prefix(encoder.policy.system_prompt).length
    rows = encoder.model.token_ids(texts, encoder.policy.system_prompt)
    passes = [pass_flops(size, len(row) + shape.tokens, before=before, outputs=1) for row in rows]
    return _mean(passes) + _heads(shape)


def _heads(shape: AdapterShape) -> float:
    """Operations of the adapter's heads for one query."""
    from safe_retrieval.encoder.adapter import HeadShape

    read = shape.states if shape.head is HeadShape.RIDGE else 1  # the others take the mean of the states first
    flops = 2.0 * shape.states * shape.hidden_size**2 + 2.0 * read * shape.hidden_size * shape.dimension
    if shape.head is HeadShape.MLP:
        flops += 2.0 * shape.head_width * (shape.states * shape.hidden_size + shape.dimension)
    return flops


def _generated(encoder: HydeEncoder, texts: Sequence[str]) -> float | None:
    size, bound = model_size(encoder.model.model), encoder.max_new_tokens
    prompt = encoder.policy.system_prompt
    before = encoder.model.shared_prefix(prompt).length
    rows = encoder.model.token_ids(texts, prompt)
    total = _mean(
        [
            pass_flops(size, len(row), before=before)
            + encoder.samples * pass_flops(size, bound - 1, before=before + len(row), outputs=bound)
            for row in rows
        ]
    )
    # an answer at its bound has about as many tokens for the document encoder as for the backbone
    embedded = encoder_flops(encoder.document_encoder, [" ".join(["word"] * bound)])
    if embedded is None:
        return None
    total += encoder.samples * embedded
    if encoder.include_query:
        total += encoder_flops(encoder.document_encoder, texts) or 0.0
    return total


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
