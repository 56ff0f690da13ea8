"""Untrained adapters for the tiny backbones: random weights, complete records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.encoder.adapter import AdapterShape, HeadShape, RefusalHead, ResponseAdapter
from safe_retrieval.encoder.persistence import (
    AdapterRecord,
    BackboneRecord,
    PolicyRecord,
    RefusalRecord,
    TeacherRecord,
    save_adapter,
)
from safe_retrieval.encoder.policy import CAREFUL, ResponsePolicy
from tests.support.tiny_models import HIDDEN

DIMENSION = 6
FIRST_TOKENS = (5, 9)


def shape_of(head: HeadShape = HeadShape.MLP, **changes: Any) -> AdapterShape:
    sizes = {"hidden_size": HIDDEN, "dimension": DIMENSION, "thought_tokens": 1, "compression_tokens": 3}
    return AdapterShape.model_validate({**sizes, "head": head, "head_width": 16, **changes})


def random_adapter(shape: AdapterShape | None = None, *, seed: int = 0) -> ResponseAdapter:
    torch.manual_seed(seed)
    adapter = ResponseAdapter(shape or shape_of(), state_scale=1.5, embedding_scale=0.3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return adapter


def random_refusal(*, seed: int = 0) -> RefusalHead:
    head = RefusalHead(HIDDEN, FIRST_TOKENS)
    generator = torch.Generator().manual_seed(seed)
    head.scale.fill_(0.7)
    head.bias.fill_(-0.2)
    for name in ("weight", "mean"):
        getattr(head, name).copy_(torch.randn(HIDDEN, generator=generator) * 0.3)
    head.deviation.copy_(torch.rand(HIDDEN, generator=generator) + 0.5)
    return head


def record_for(
    model: LanguageModel, shape: AdapterShape | None = None, policy: ResponsePolicy = CAREFUL
) -> AdapterRecord:
    return AdapterRecord(
        backbone=BackboneRecord(name=model.name, fingerprint=model.fingerprint),
        teacher=TeacherRecord(name="tiny-teacher", space="tiny:6", dimension=DIMENSION),
        policy=PolicyRecord(name=policy.name, system_prompt=policy.system_prompt),
        template_sha256=model.shared_prefix(policy.system_prompt).template.sha256,
        shape=shape or shape_of(),
        refusal=RefusalRecord(first_tokens=FIRST_TOKENS, method="random", held_out_auroc=0.5),
        training={"queries": 0, "seed": 7, "note": "bereits gr\u00fcn \u2028", "rate": 1e-05},
    )


def save_random_adapter(folder: Path, model: LanguageModel, shape: AdapterShape | None = None) -> AdapterRecord:
    return save_adapter(folder, random_adapter(shape), random_refusal(), record_for(model, shape))
