"""LlamaIndex's metadata filters as ours, so that the index looks at the matching documents alone."""

from __future__ import annotations

from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from safe_retrieval.errors import InputError

_COMPARISONS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
    FilterOperator.CONTAINS: "$contains",
}
_LISTS = {FilterOperator.ANY: "$or", FilterOperator.ALL: "$and"}
"""Whether a list has any or all of some elements."""


def where_from(filters: MetadataFilters | None) -> dict[str, Any] | None:
    """A filter for our indexes.

    Raises:
        InputError: an operator that looks into texts, which our indexes do not.
    """
    if filters is None or not filters.filters:
        return None
    parts = [_part(part) for part in filters.filters]
    match filters.condition:
        case FilterCondition.OR:
            return {"$or": parts}
        case FilterCondition.NOT:
            return {"$not": {"$or": parts}}  # LlamaIndex: none of them holds
        case _:
            return {"$and": parts}


def _part(part: MetadataFilter | MetadataFilters) -> dict[str, Any]:
    if isinstance(part, MetadataFilters):
        return where_from(part) or {"$and": []}
    if part.operator == FilterOperator.IS_EMPTY:
        return {part.key: {"$empty": True}}
    if part.operator in _LISTS:
        values = part.value if isinstance(part.value, list) else [part.value]
        return {_LISTS[part.operator]: [{part.key: {"$contains": value}} for value in values]}
    operator = _COMPARISONS.get(part.operator)
    if operator is None:
        known = ", ".join(each.value for each in (*_COMPARISONS, *_LISTS, FilterOperator.IS_EMPTY))
        raise InputError(f"field {part.key!r}: expected an operator out of {known}, got {part.operator.value!r}")
    return {part.key: {operator: part.value}}
