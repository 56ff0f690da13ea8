"""Optional dependencies: imported where they are used, and asked for by name when they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from safe_retrieval.errors import MissingExtraError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import ``module``, or say which extra of this distribution brings it.

    Args:
        module: dotted name, for example ``"fastapi"``.
        extra: the extra in ``pyproject.toml`` that installs it.
        purpose: what it is needed for, as it reads after "needed for".

    Raises:
        MissingExtraError: the module is not installed; the message holds the install line.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # the package is there and one of *its* imports is missing: not ours to explain away
        raise MissingExtraError(
            f"{module} is needed for {purpose} and is not installed; run: pip install 'safe-retrieval[{extra}]'"
        ) from error
