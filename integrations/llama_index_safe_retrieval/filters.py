"""LlamaIndex's metadata filters as ours, so that the index looks at the matching documents alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from safe_retrieval.errors import InputError
from safe_retrieval.retrieval.retriever import DocumentIndex, FilteringIndex

_COMPARISONS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
}


def where_from(filters: MetadataFilters | None) -> dict[str, Any] | None:
    """A filter for our indexes.

    Raises:
        InputError: an operator that looks into lists or texts, which our indexes do not.
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


def check_no_empty_lists(filters: MetadataFilters | None, index: DocumentIndex) -> None:
    """Refuse ``is_empty`` on a field that holds an empty list: LlamaIndex counts it in, and our indexes cannot find it.

    Raises:
        InputError: there is such a field.
    """
    for field in _asked_whether_empty(filters):
        if not isinstance(index, FilteringIndex):
            return  # it has no filters, which the search says
        documents = index.get_documents(index.ids(where=_is_no_scalar(field)))
        holding = [document.id for document in documents if document.metadata[field] == []]
        if holding:
            raise InputError(
                f"field {field!r}: expected null or an empty text where it is empty, found an empty list in "
                f"{len(holding)} documents ({holding[0]!r} is one): an index folder does not look into lists, so "
                "is_empty would leave them out; store null in its place"
            )


def _asked_whether_empty(filters: MetadataFilters | None) -> Iterator[str]:
    for part in filters.filters if filters is not None else ():
        if isinstance(part, MetadataFilters):
            yield from _asked_whether_empty(part)
        elif part.operator == FilterOperator.IS_EMPTY:
            yield part.key


def _is_no_scalar(field: str) -> dict[str, Any]:
    """A list or an object stands in the field: what is left when every other kind of value is taken away."""
    scalars: list[dict[str, Any]] = [{field: value} for value in (None, True, False)]
    ranges: list[dict[str, Any]] = [{field: {"$gte": ""}}, {field: {"$gte": 0}}, {field: {"$lt": 0}}]
    return {"$not": {"$or": scalars + ranges}}


def _part(part: MetadataFilter | MetadataFilters) -> dict[str, Any]:
    if isinstance(part, MetadataFilters):
        return where_from(part) or {"$and": []}
    if part.operator == FilterOperator.IS_EMPTY:
        return {"$or": [{part.key: None}, {part.key: ""}]}
    operator = _COMPARISONS.get(part.operator)
    if operator is None:
        known = ", ".join(each.value for each in (*_COMPARISONS, FilterOperator.IS_EMPTY))
        raise InputError(f"field {part.key!r}: expected an operator out of {known}, got {part.operator.value!r}")
    return {part.key: {operator: part.value}}
