"""Where a report comes from: code, packages, machine, time. What could not be found out is null, not left out."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "sentence-transformers", "faiss-cpu", "bm25s", "numpy", "scipy")


def provenance(used: Mapping[str, Any]) -> dict[str, Any]:
    """The record of this process, with ``used`` (encoders, index, gate) merged in."""
    from safe_retrieval import __version__

    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "safe_retrieval": __version__,
        **source_state(),
        **used,
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory(),
        "accelerator": _accelerator(),
        "threads": _threads(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def source_state() -> dict[str, Any]:
    """Commit of this package's own repository and whether tracked files differ from it; nulls for an installed copy.

    Read once in a process. Long runs ask at their start: by their end, someone may have committed, and the record would
    name code that never ran.
    """
    here = Path(__file__)
    # an installed copy can lie inside some other project's repository, whose commit would mean nothing here
    if _git("ls-files", "--error-unmatch", here.name) is None:
        return {"commit": None, "modified": None}
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": _git("rev-parse", "HEAD"), "modified": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu() -> str | None:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _memory() -> int | None:
    names = getattr(os, "sysconf_names", {})  # not on Windows
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _accelerator() -> str | None:
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None


def _threads() -> int | None:
    torch = sys.modules.get("torch")  # imported by whatever encoded; not worth importing to ask
    return torch.get_num_threads() if torch else os.cpu_count()
