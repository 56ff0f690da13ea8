"""Hashes that are remembered: a file is hashed again only if its size, modification time or inode changed.

    remembered(folder, ("model.safetensors",), memory)

A memory is one JSON file of the cache: by name of a file, ``size``, ``mtime_ns``, ``inode`` and ``sha256``. It holds
what the bytes were and no verdict, so wrong bytes stay wrong until the file changes. A change that keeps all three,
such as one made below the file system, is not seen; ``afresh`` hashes whatever is remembered.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safe_retrieval.errors import ModelError
from safe_retrieval.models.digest import FileDigest, sha256_of

_Entry = dict[str, Any]


def remembered(folder: Path, names: Iterable[str], memory: Path, *, afresh: bool = False) -> dict[str, FileDigest]:
    """Size and SHA-256 of the files ``names`` of ``folder``, from ``memory`` where they did not change since.

    Raises:
        ModelError: a file cannot be read; the message names it.
    """
    known = _read(memory)
    fresh: dict[str, _Entry] = {}
    for name in names:
        try:
            stamp = _stamp(folder / name)  # before the bytes: a change meanwhile is seen the next time
            entry = known.get(name, {})
            if afresh or entry != {**stamp, "sha256": entry.get("sha256")} or not isinstance(entry["sha256"], str):
                entry = {**stamp, "sha256": sha256_of(folder / name)}
        except OSError as error:
            raise ModelError(f"{folder / name} cannot be read ({error})") from error
        fresh[name] = entry
    if fresh != known:
        _write(memory, fresh)
    return {name: FileDigest(entry["size"], entry["sha256"]) for name, entry in fresh.items()}


def remember(folder: Path, files: Mapping[str, FileDigest], memory: Path) -> None:
    """Write down hashes that were computed a moment ago, so that they are not computed again."""
    _write(memory, {name: {**_stamp(folder / name), "sha256": digest.sha256} for name, digest in files.items()})


def _stamp(path: Path) -> _Entry:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}


def _read(memory: Path) -> dict[str, _Entry]:
    try:
        document = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # nothing remembered, or unreadable: the files are hashed again
    if not isinstance(document, dict):
        return {}
    return {name: entry for name, entry in document.items() if isinstance(entry, dict)}


def _write(memory: Path, entries: Mapping[str, _Entry]) -> None:
    temporary = memory.with_suffix(f".{os.getpid()}.tmp")  # two processes may start at the same moment
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(entries), encoding="utf-8")
        temporary.replace(memory)
    except OSError:
        return  # a cache that cannot be written costs time at the next start and nothing else
