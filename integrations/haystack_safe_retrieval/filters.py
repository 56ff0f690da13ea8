"""Haystack's filters as ours, so that the index looks at the matching documents alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
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


_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:[Tt ]|\Z)")
_ORDERED = frozenset({"$gt", "$gte", "$lt", "$lte"})
_ONE_OF = frozenset({"$in", "$nin"})


def where_from(filters: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A filter for our indexes.

    Args:
        filters: a comparison (``field``, ``operator``, ``value``) or a group (``operator``, ``conditions``), as all
            of Haystack's stores take them; ``field`` is a metadata field, with or without ``meta.``.

    Raises:
        InputError: it has another form, an unknown operator, or a field that is no metadata; or it asks for what
            Haystack answers and an index folder cannot: fields inside fields, dates, lists.
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
    name = field.removeprefix("meta.")
    if "." in name:  # as the name of a field it would be missing everywhere, so that != held for every document
        raise InputError(
            f"expected a field at the top of the metadata, got {field!r}: an index folder does not look into fields; "
            f"store it as a field of its own ({name.replace('.', '_')!r})"
        )
    _check_value(field, operator, filters["value"])
    return {name: {operator: filters["value"]}}


def _check_value(field: str, operator: str, value: Any) -> None:
    """Refuse values that Haystack compares in a way that an index folder does not."""
    if operator in _ONE_OF and not isinstance(value, list):
        raise InputError(f"field {field!r}: expected a list of values after in and not in, got {type(value).__name__}")
    for each in value if operator in _ONE_OF else [value]:
        # Haystack compares dates as moments, however they are written; an index folder would compare their letters.
        if isinstance(each, date) or (isinstance(each, str) and (operator in _ORDERED or _is_date(each))):
            raise InputError(
                f"field {field!r}: expected a number, boolean, null or a text that is no date, got {each!r}: an index "
                "folder does not compare dates; store a number, such as 20240131 or seconds since 1970"
            )
        if isinstance(each, list | Mapping):
            raise InputError(f"field {field!r}: expected a single value, got {type(each).__name__}; store one a field")


def _is_date(text: str) -> bool:
    """Whether Haystack takes a text for a date: a whole day, alone or before a time."""
    return _DATE.match(text) is not None
