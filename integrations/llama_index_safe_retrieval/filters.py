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
_EQUALITIES = {FilterOperator.EQ, FilterOperator.NE, FilterOperator.IN, FilterOperator.NIN}
_LISTS = {FilterOperator.ANY: "$or", FilterOperator.ALL: "$and"}
"""Whether a list has any or all of some elements."""


def where_from(filters: MetadataFilters | None) -> dict[str, Any] | None:
    """A filter for our indexes.

    Raises:
        InputError: an operator that looks into texts, which our indexes do not, or a comparison with ``None``.
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
    if part.value is None:  # LlamaIndex: equal to nothing, not even to a field that is missing
        raise InputError(
            f"field {part.key!r}: nothing is equal to None; {FilterOperator.IS_EMPTY.value} finds documents without it"
        )
    values = part.value if isinstance(part.value, list) else [part.value]
    booleans = [bool(value) for value in values if value in {0, 1}]
    compared = {part.key: {operator: part.value}}
    if not booleans or part.operator not in _EQUALITIES:
        return compared
    # Its filters hold no booleans: there 1 stands for true too, as Python compares them.
    if part.operator in {FilterOperator.NE, FilterOperator.NIN}:
        return {"$and": [compared, {part.key: {"$nin": booleans}}]}
    return {"$or": [compared, {part.key: {"$in": booleans}}]}
