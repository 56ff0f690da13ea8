"""A model by the name that mteb knows it under, as an encoder of this package."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from safe_retrieval._extras import require
from safe_retrieval.encoder.input import unit_rows
from safe_retrieval.encoder.texts import BLANK, clean_texts
from safe_retrieval.errors import ModelError, OfflineError
from safe_retrieval.models.naming import is_hub_closed
from safe_retrieval.types import FloatMatrix, QueryEncoding

_TASK = "NFCorpus"
"""A retrieval task, for models whose prompts depend on the task; of the kind that an audit is."""


class MtebEncoder:
    """An :class:`~safe_retrieval.types.Encoder` over mteb's ``EncoderProtocol``; rows have unit norm.

    Args:
        name: for example ``intfloat/e5-small-v2``.
        offline: open no connection; only with ``HF_HUB_OFFLINE`` as well is it looked for in the hub's own cache.

    Raises:
        OfflineError: it would have to be had from the hub, and offline was asked for.
        ModelError: mteb has no such model, it cannot be had, would run code of its own, or is no encoder.
        MissingExtraError: mteb is not installed.
    """

    def __init__(self, name: str, *, offline: bool = False) -> None:
        if is_hub_closed(offline):
            raise OfflineError(
                f"{name} would be loaded by mteb, from the hub, and offline was asked for; set HF_HUB_OFFLINE=1 as "
                "well if the hub's cache has it, or take loader: sentence-transformers and a folder"
            )
        mteb: Any = require("mteb", extra="mteb", purpose=f"the model {name} as mteb loads it")
        self._task: Any = mteb.get_task(_TASK).metadata
        try:
            self._meta: Any = mteb.get_model_meta(name)
            if (self._meta.loader_kwargs or {}).get("trust_remote_code"):
                raise ModelError(f"{name} would run code from the hub, which is never done; audit another model")
            self._model: Any = mteb.get_model(name)
        except (KeyError, ValueError, OSError, ImportError) as error:
            raise ModelError(f"mteb cannot load {name} ({type(error).__name__}: {error})") from error
        if not hasattr(self._model, "encode"):
            raise ModelError(f"{name} is no encoder for mteb; expected one that gives vectors")
        self._name = name
        self.dimension = int(self._encode([BLANK], "query").shape[1])

    @property
    def name(self) -> str:
        """mteb's."""
        return self._name

    @property
    def space(self) -> str:
        """Fingerprint of name and revision."""
        return f"sha256:{hashlib.sha256(f'mteb {self._name} {self._meta.revision}'.encode()).hexdigest()}"

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        """Encode queries; there is no verdict."""
        return QueryEncoding(self.encode_queries(texts, batch_size=batch_size, progress=progress), None)

    def encode_queries(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """(n, d) float32, unit norm; the display is mteb's own."""
        del progress
        return unit_rows(self._encode(clean_texts(texts), "query", batch_size))

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """(n, d) float32, unit norm; the display is mteb's own."""
        del progress
        return unit_rows(self._encode(clean_texts(texts), "document", batch_size))

    def _encode(self, texts: Sequence[str], side: str, batch_size: int = 32) -> FloatMatrix:
        from datasets import Dataset
        from torch.utils.data import DataLoader

        prompt_types: Any = require("mteb.types", extra="mteb", purpose="models by mteb's names").PromptType
        loader: DataLoader[dict[str, str]] = DataLoader(Dataset.from_dict({"text": list(texts)}), batch_size=batch_size)
        vectors = self._model.encode(
            loader, task_metadata=self._task, hf_split="test", hf_subset="default", prompt_type=prompt_types(side)
        )
        return np.asarray(vectors, dtype=np.float32)
