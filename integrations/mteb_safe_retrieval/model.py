"""Our arms as mteb models."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp

from safe_retrieval.audit.encodings import EncodingCache
from safe_retrieval.bench.arms import find_arm
from safe_retrieval.bench.models import BenchModels
from safe_retrieval.bench.mteb_model import MtebEncoder, MtebSearcher, mteb_model
from safe_retrieval.bench.retrieve import ArmEncoder
from safe_retrieval.encoder.policy import ResponsePolicy
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER


class _OwnCache(EncodingCache):
    """Encodings for one model's lifetime: mteb encodes a corpus once a task, and several arms may share one."""

    def __init__(self) -> None:
        folder = Path(mkdtemp(prefix="safe-retrieval-mteb-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        super().__init__(folder)


def safe_retrieval_model(
    arm: str = "response",
    *,
    document_encoder: str = DEFAULT_DOCUMENT_ENCODER,
    adapter: str | Path | None = None,
    backbone: str | None = None,
    policy: str | ResponsePolicy | None = None,
    dtype: str = "auto",
    prompts: Mapping[str, str] | None = None,
    cache: str | Path | None = None,
    offline: bool = False,
    name: str | None = None,
) -> MtebEncoder | MtebSearcher:
    """A model for ``mteb.evaluate``.

    Args:
        arm: one of ``safe-retrieval bench list``: ``teacher``, ``response``, ``blend``, ``gated`` and so on. An arm
            with a gate or with words ranks for itself and does retrieval tasks alone; the others are encoders.
        document_encoder: name, hub id or folder.
        adapter: folder of a response adapter; ``None`` takes the one shipped for backbone and document encoder.
        backbone: name, hub id or folder of the language model; ``None`` takes the adapter's, or the default.
        policy: name of a response policy, or a system prompt; ``None`` takes the adapter's.
        dtype: what the language model computes in, as ``LanguageModel.load`` takes it.
        prompts: put before queries, by mteb's names of tasks, kinds of task and ``"query"``; ``None`` takes the paper's
            for an arm that asks for instructions (``response-instructed``), and none for the others.
        cache: folder where encodings are kept for the next time; ``None`` keeps them as long as the model.
        offline: open no connection.
        name: what mteb calls it, after ``safe-retrieval/``; ``None`` takes the arm's name.

    Raises:
        InputError: no such arm or policy, or a prompt for documents.
        AdapterError, ModelError: the adapter or a model cannot be had.
    """
    models = BenchModels(
        document_encoder,
        backbone=backbone,
        adapter=None if adapter is None else Path(adapter),
        policy=policy,
        dtype=dtype,
        offline=offline,
    )
    encodings = _OwnCache() if cache is None else EncodingCache(Path(cache))
    return mteb_model(find_arm(arm), ArmEncoder(models, encodings), prompts=prompts, name=name)
