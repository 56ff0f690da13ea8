"""Paths in settings files."""

from __future__ import annotations

import os
from pathlib import Path

from safe_retrieval.errors import ConfigError


def placed(folder: Path, path: Path) -> Path:
    """A path of a settings file with ``~`` and environment variables filled in, relative to the file's folder.

    Raises:
        ConfigError: an environment variable in it is not set.
    """
    text = os.path.expandvars(path.expanduser())
    if "$" in text:
        raise ConfigError(f"{path}: expected the environment variable in it to be set; set it, or write it out")
    return folder / text
