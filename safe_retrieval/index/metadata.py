"""Metadata as SQLite's JSON functions can be asked about it: without NUL, and not nested without end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MOST_LEVELS = 500
"""Lists and objects within one another. SQLite reads no more than 1,000, and a single deeper value would make every
filter on its file fail."""

_ENCODER = json.JSONEncoder(allow_nan=False)
_NUL = "\0"
_ESCAPED_NUL = "\\u0000"


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Metadata as it is stored: JSON in ASCII; NULs, at which SQLite would end a string, become U+FFFD.

    Raises:
        TypeError, ValueError: it is not JSON, or nested too deeply.
    """
    fields = dict(metadata)
    try:
        text = _ENCODER.encode(fields)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if text.count("[") + text.count("{") > MOST_LEVELS and _depth(fields) > MOST_LEVELS:
        raise ValueError(_TOO_DEEP)
    return _ENCODER.encode(_without_nul(fields)) if _ESCAPED_NUL in text else text


_TOO_DEEP = f"it is nested more than {MOST_LEVELS} levels deep; flatten it or leave it out"


def _depth(value: Any) -> int:
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        part, level = waiting.pop()
        if isinstance(part, Mapping | list | tuple):
            deepest = max(deepest, level)
            waiting += [(inner, level + 1) for inner in (part.values() if isinstance(part, Mapping) else part)]
    return deepest


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(_NUL, "\ufffd")
    if isinstance(value, Mapping):
        return {_without_nul(key): _without_nul(inner) for key, inner in value.items()}
    return [_without_nul(inner) for inner in value] if isinstance(value, list | tuple) else value
