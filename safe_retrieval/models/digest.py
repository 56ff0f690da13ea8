"""SHA-256 of files, and the fingerprint of a folder of model files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

BLOCK = 1 << 20
"""Bytes read at once."""

MODEL_FILE_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "vocab.txt", "merges.txt", "*.model")
"""What a model consists of: weights as safetensors, configuration, tokenizer. Nothing that could run code."""

_FOREIGN_FOLDERS = frozenset({"onnx", "openvino", "original", "coreml", "gguf"})
_FOREIGN_FILES = ("consolidated*.safetensors", "safe-retrieval.json")


class FileDigest(NamedTuple):
    """Size in bytes and lower-case hex SHA-256 of one file."""

    size: int
    sha256: str


def sha256_of(path: Path) -> str:
    """Lower-case hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(path: Path) -> FileDigest:
    """Size and SHA-256 of a file."""
    return FileDigest(path.stat().st_size, sha256_of(path))


def size_under(folder: Path) -> int:
    """Bytes of all files under ``folder``, which another process may be changing meanwhile.

    ``os.walk`` passes over a folder that vanishes between being listed and being entered; ``Path.rglob`` raises.
    """
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_size
            except FileNotFoundError:
                continue  # gone since the listing
    return total


def is_model_file(relative: str) -> bool:
    """Whether a POSIX path inside a model folder belongs to the model, as :data:`MODEL_FILE_PATTERNS` defines it.

    Exports for other runtimes, duplicates of the weights in another layout and hidden files do not.
    """
    *folders, name = relative.split("/")
    if any(folder.startswith(".") or folder in _FOREIGN_FOLDERS for folder in folders) or name.startswith("."):
        return False
    if any(fnmatch(name, pattern) for pattern in _FOREIGN_FILES):
        return False
    return any(fnmatch(name, pattern) for pattern in MODEL_FILE_PATTERNS)


def model_files(folder: Path) -> Iterator[str]:
    """POSIX paths, relative to ``folder``, of the files that make up the model in it, sorted."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return iter(sorted(filter(is_model_file, found)))


def tree_fingerprint(files: Mapping[str, FileDigest]) -> str:
    """``"sha256:<64 hex>"`` over the sorted (relative path, SHA-256) pairs of a model's files."""
    total = hashlib.sha256()
    for relative in sorted(files):
        total.update(f"{relative}\0{files[relative].sha256}\n".encode())
    return f"sha256:{total.hexdigest()}"
