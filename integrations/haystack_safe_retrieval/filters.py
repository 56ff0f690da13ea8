"""Haystack's filters as ours, so that the index looks at the matching documents alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safe_retrieval.errors import InputError

_COMPARISONS = {
    "==": "$eq",
    "!=": "$ne",
    ">": "$gt",
    ">=": "$gte",
    "<": "$lt",
    "<=": "$lte",
    "in": "$in",
    "not in": "$nin",
}


def where_from(filters: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A filter for our indexes.

    Args:
        filters: a comparison (``field``, ``operator``, ``value``) or a group (``operator``, ``conditions``), as all
            of Haystack's stores take them; ``field`` is a metadata field, with or without ``meta.``.

    Raises:
        InputError: it has another form, an unknown operator, or a field that is no metadata.
    """
    if not filters:
        return None
    return _comparison(filters) if "field" in filters else _group(filters)


def _group(filters: Mapping[str, Any]) -> dict[str, Any]:
    operator, conditions = filters.get("operator"), filters.get("conditions")
    if operator not in {"AND", "OR", "NOT"} or not isinstance(conditions, list) or not conditions:
        raise InputError(f"expected operator AND, OR or NOT with a list of conditions, got {dict(filters)!r}")
    parts = [part for condition in conditions if (part := where_from(condition)) is not None]
    match operator:
        case "OR":
            return {"$or": parts}
        case "NOT":
            return {"$not": {"$and": parts}}
        case _:
            return {"$and": parts}


def _comparison(filters: Mapping[str, Any]) -> dict[str, Any]:
    operator = _COMPARISONS.get(str(filters.get("operator")))
    if operator is None or "value" not in filters:
        raise InputError(f"expected an operator out of {', '.join(_COMPARISONS)} and a value, got {dict(filters)!r}")
    field = str(filters["field"])
    if not field.startswith("meta.") and field in {"id", "content", "blob", "score", "embedding"}:
        raise InputError(f"expected a field of the metadata, got {field!r}")
    return {field.removeprefix("meta."): {operator: filters["value"]}}
