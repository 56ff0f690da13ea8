"""Models in a folder of the user's: what they are, and a fingerprint that is not computed anew at each start."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from safe_retrieval.errors import ModelError, ModelNotFoundError
from safe_retrieval.models.cache import MANIFEST_NAME, memory_of
from safe_retrieval.models.digest import model_files, tree_fingerprint
from safe_retrieval.models.memory import remembered
from safe_retrieval.models.record import ModelKind

_ADAPTER_CONFIG = "adapter_config.json"
"""What transformers takes as the sign that the weights beside it are changes to another model."""


def detect_kind(folder: Path) -> ModelKind | None:
    """What the folder's configuration says it is: a sentence encoder, a causal language model, or not known."""
    if (folder / "modules.json").is_file():
        return ModelKind.SENTENCE_ENCODER
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    architectures = config.get("architectures") if isinstance(config, dict) else None
    causal = any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in architectures or ())
    return ModelKind.LANGUAGE_MODEL if causal else None


def require_model(folder: Path) -> None:
    """Refuse a folder that is not a model this package may load.

    Raises:
        ModelError: it holds an adapter for a base model, as ``peft`` saves one.
        ModelNotFoundError: it has no ``config.json``, or its weights are not safetensors.
    """
    refuse_adapter(str(folder), (path.name for path in folder.iterdir()))
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise ModelNotFoundError(f"{folder} is not a model folder: it has neither config.json nor modules.json")
    if not any(name.endswith(".safetensors") for name in model_files(folder)):
        raise ModelNotFoundError(
            f"{folder} holds no safetensors weights; pickled ones (pytorch_model.bin) are never loaded, "
            "convert them with transformers' save_pretrained"
        )


def refuse_adapter(name: str, files: Iterable[str]) -> None:
    """Refuse what ``peft`` saves: a few weights that change a base model, which would be fetched unasked.

    Args:
        name: the folder or hub id, for the message.
        files: names of the files that lie at its top.

    Raises:
        ModelError: there is an ``adapter_config.json`` among them.
    """
    if _ADAPTER_CONFIG in files:
        raise ModelError(
            f"{name} holds an adapter for a base model ({_ADAPTER_CONFIG}), expected a whole model: merge it once with "
            "peft, AutoPeftModel.from_pretrained(ADAPTER).merge_and_unload().save_pretrained(FOLDER), save the "
            "tokenizer into the same folder, and give that one; an adapter that has been merged into the weights "
            f"beside it is none any more, and its {_ADAPTER_CONFIG} can go"
        )


def fingerprint(folder: Path) -> str:
    """``"sha256:<64 hex>"`` over the model files of ``folder``.

    A file is hashed again only if its size, time or inode changed. The hashes are remembered in the cache, not in the
    folder, which may be read-only.
    """
    return tree_fingerprint(remembered(folder, model_files(folder), memory_of(folder)))


def file_sha256(path: Path) -> str:
    """SHA-256 of one file outside the cache, remembered like those of a folder."""
    return remembered(path.parent, (path.name,), memory_of(path))[path.name].sha256


def is_installed(folder: Path) -> bool:
    """Whether the folder was made by this package and carries its manifest."""
    return (folder / MANIFEST_NAME).is_file()
