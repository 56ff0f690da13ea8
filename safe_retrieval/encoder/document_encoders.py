"""Document encoders by name: what an index is built with, and what an adapter's teacher is called.

A sentence-transformers model goes by its catalog name, hub id or folder. The averaged states of a language model go by
``pooled:`` and its name (an adapter without an outside teacher lands in the space of its own backbone), and by
``llm2vec:`` and its folder where it was trained to look both ways.
"""

from __future__ import annotations

from pathlib import Path

from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.encoder.pooled import BIDIRECTIONAL, CAUSAL, PooledEncoder
from safe_retrieval.errors import ModelError
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.types import Encoder


def load_document_encoder(name: str = DEFAULT_DOCUMENT_ENCODER, *, offline: bool = False) -> Encoder:
    """Load a document encoder.

    Args:
        name: see the module.
        offline: open no connection.

    Raises:
        ModelError: it cannot be had.
    """
    kind, _, rest = name.partition(":")
    if kind not in {CAUSAL, BIDIRECTIONAL}:
        return InputEncoder.load(name, offline=offline)
    if kind == BIDIRECTIONAL and not Path(rest).is_dir():
        raise ModelError(f"expected an LLM2Vec-style checkpoint folder after '{BIDIRECTIONAL}:', got {rest!r}")
    from safe_retrieval.backbone.language_model import LanguageModel

    return PooledEncoder(LanguageModel.load(rest, offline=offline), bidirectional=kind == BIDIRECTIONAL, name=name)
