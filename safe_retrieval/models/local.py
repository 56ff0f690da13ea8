"""Models in a folder of the user's: what they are, and a fingerprint that is not computed anew at each start."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safe_retrieval.errors import ModelError, ModelNotFoundError
from safe_retrieval.models.cache import MANIFEST_NAME, cache_home
from safe_retrieval.models.digest import FileDigest, model_files, sha256_of, tree_fingerprint
from safe_retrieval.models.record import ModelKind


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
        ModelNotFoundError: it has no ``config.json``, or its weights are not safetensors.
    """
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise ModelNotFoundError(f"{folder} is not a model folder: it has neither config.json nor modules.json")
    if not any(name.endswith(".safetensors") for name in model_files(folder)):
        raise ModelNotFoundError(
            f"{folder} holds no safetensors weights; pickled ones (pytorch_model.bin) are never loaded, "
            "convert them with transformers' save_pretrained"
        )


def fingerprint(folder: Path) -> str:
    """``"sha256:<64 hex>"`` over the model files of ``folder``.

    A file is hashed again only if its size or time changed. The hashes are remembered in the cache, not in the
    folder, which may be read-only.
    """
    memory = cache_home() / "fingerprints" / f"{_key(folder)}.json"
    return tree_fingerprint(_remembered(folder, tuple(model_files(folder)), memory))


def file_sha256(path: Path) -> str:
    """SHA-256 of one file outside the cache, remembered like those of a folder."""
    memory = cache_home() / "fingerprints" / f"{_key(path)}.json"
    return _remembered(path.parent, (path.name,), memory)[path.name].sha256


def _key(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _remembered(folder: Path, names: tuple[str, ...], memory: Path) -> dict[str, FileDigest]:
    known = _read(memory)
    fresh: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            status = (folder / name).stat()
            entry = known.get(name)
            stamp = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
            if entry is None or {key: entry.get(key) for key in stamp} != stamp or "sha256" not in entry:
                entry = {**stamp, "sha256": sha256_of(folder / name)}
        except OSError as error:
            raise ModelError(f"{folder / name} cannot be read ({error})") from error
        fresh[name] = entry
    if fresh != known:
        _write(memory, fresh)
    return {name: FileDigest(entry["size"], entry["sha256"]) for name, entry in fresh.items()}


def _read(memory: Path) -> dict[str, dict[str, Any]]:
    try:
        document = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # nothing remembered, or unreadable: the files are hashed again
    return document if isinstance(document, dict) else {}


def _write(memory: Path, entries: dict[str, dict[str, Any]]) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary = memory.with_suffix(".tmp")
        temporary.write_text(json.dumps(entries), encoding="utf-8")
        temporary.replace(memory)
    except OSError:
        return  # a cache that cannot be written costs time at the next start and nothing else


def is_installed(folder: Path) -> bool:
    """Whether the folder was made by this package and carries its manifest."""
    return (folder / MANIFEST_NAME).is_file()
