"""A judge for tests: a tiny backbone and an untrained adapter balanced to refuse half of some queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.encoder.persistence import LoadedAdapter, save_adapter
from safe_retrieval.encoder.response import ResponseEncoder
from tests.support.adapters import random_adapter, random_refusal, record_for
from tests.support.tiny_models import save_tiny_model


def save_judge(root: Path, queries: Sequence[str], *, seed: int = 1) -> Path:
    """Backbone and adapter under ``root``; returns the adapter's folder."""
    model = LanguageModel.load(str(save_tiny_model(root / "backbone", seed=seed)))
    loaded = LoadedAdapter(record_for(model), random_adapter(), random_refusal(seed=seed))
    loaded.refusal.bias.fill_(0.0)
    encoder = ResponseEncoder(model, loaded)
    probabilities = encoder.refusal_head(encoder.prompt_features(queries)).double().numpy()
    odds = np.log(probabilities / (1 - probabilities))
    loaded.refusal.bias.fill_(-float(np.median(odds)))
    save_adapter(root / "adapter", loaded.adapter, loaded.refusal, loaded.record)
    return root / "adapter"
