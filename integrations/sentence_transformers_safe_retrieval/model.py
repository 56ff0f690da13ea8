"""Factory and loader of our ``SentenceTransformer``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from safe_retrieval.encoder.policy import ResponsePolicy, policy_from
from safe_retrieval.encoder.shipped import shipped_adapter
from safe_retrieval.errors import InputError
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.retrieval.arms import Arm, arm_from
from sentence_transformers_safe_retrieval.module import SafeRetrievalModule, check_backend
from sentence_transformers_safe_retrieval.record import Recipe

_SETTINGS = "config_sentence_transformers.json"
_MODULES = "modules.json"
_WITH_ADAPTER = frozenset({Arm.OUTPUT, Arm.BLEND})


def safe_sentence_transformer(
    *,
    arm: Arm | str = Arm.OUTPUT,
    document_encoder: str = DEFAULT_DOCUMENT_ENCODER,
    adapter: str | Path | None = None,
    backbone: str | None = None,
    policy: str | ResponsePolicy | None = None,
    device: str | None = None,
    backend: str = "torch",
    offline: bool = False,
    **settings: Any,
) -> SentenceTransformer:
    """A ``SentenceTransformer`` whose ``encode_query`` is the response encoder and ``encode_document`` its teacher.

    Args:
        arm: how queries are encoded: ``output``, ``blend``, ``hyde``, or ``input`` for the document encoder itself.
        document_encoder: name, hub id or folder.
        adapter: folder of a response adapter; ``None`` takes the one shipped for backbone and document encoder.
        backbone: name, hub id or folder of the language model; ``None`` takes the adapter's, or the default.
        policy: name of a response policy, or a system prompt; ``None`` takes the adapter's.
        device: where to compute; ``None`` is the host's choice.
        backend: must be ``"torch"``.
        offline: open no connection.
        settings: passed on to ``SentenceTransformer``: ``prompts``, ``truncate_dim``, ``similarity_fn_name`` and so on.

    Raises:
        InputError: no such arm or policy, an arm without vectors, or another backend.
        EncoderMismatchError: the adapter was trained for another document encoder.
        AdapterError, ModelError: the adapter or a model cannot be had.
    """
    check_backend(backend)
    chosen = arm_from(arm)
    folder = None
    if chosen in _WITH_ADAPTER:
        folder = shipped_adapter(backbone, document_encoder, policy) if adapter is None else Path(adapter)
    recipe = Recipe(chosen, document_encoder, backbone, folder, None if policy is None else policy_from(policy))
    return _assemble(SafeRetrievalModule.make(recipe, offline=offline), device, settings)


def load_sentence_transformer(
    path: str | Path,
    *,
    document_encoder: str | None = None,
    backbone: str | None = None,
    device: str | None = None,
    backend: str = "torch",
    offline: bool = False,
) -> SentenceTransformer:
    """Load what ``save_pretrained`` of such a model wrote.

    ``SentenceTransformer(path)`` itself asks for ``trust_remote_code=True`` where a module's class is not its own. This
    needs no such trust: only the class of this package is ever made, whatever the folder names.

    Args:
        path: the folder.
        document_encoder: where the document encoder is now, if not under the name it was saved with.
        backbone: where the backbone is now, likewise.
        device: where to compute; ``None`` is the host's choice.
        backend: must be ``"torch"``.
        offline: open no connection.

    Raises:
        InputError: another backend, or the folder holds something else than one module of ours.
        EncoderMismatchError: the document encoder is not the one that the model was saved with.
        AdapterError, ModelError: the adapter or a model cannot be had, or is not the one it was saved with.
    """
    check_backend(backend)
    folder = Path(path)
    _check_modules(folder)
    module = SafeRetrievalModule.load(
        str(folder), local_files_only=offline, document_encoder=document_encoder, backbone=backbone
    )
    saved = _read(folder / _SETTINGS)
    kept = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
    return _assemble(module, device, {name: saved[name] for name in kept if saved.get(name) is not None})


def _assemble(module: SafeRetrievalModule, device: str | None, settings: dict[str, Any]) -> SentenceTransformer:
    # Vectors are of unit norm, but what a call or an evaluator shortens (truncate_dim) is not.
    return SentenceTransformer(modules=[module], device=device, **{"similarity_fn_name": "cosine", **settings})


def _check_modules(folder: Path) -> None:
    own = f"{SafeRetrievalModule.__module__}.{SafeRetrievalModule.__name__}"
    modules = _read(folder / _MODULES)
    entries = modules if isinstance(modules, list) else [modules]
    types = [entry.get("type") if isinstance(entry, dict) else None for entry in entries]
    if types != [own]:
        raise InputError(
            f"{folder / _MODULES}: expected one module, {own}, got {types}; load other models with SentenceTransformer"
        )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"expected a saved model with {path.name}: {error}") from error
    except ValueError as error:
        raise InputError(f"{path} is truncated or altered ({error}); save the model again") from error
