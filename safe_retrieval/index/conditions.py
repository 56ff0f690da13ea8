"""Filters as SQL over the table of documents, which SQLite answers for a whole file at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from safe_retrieval.index.filters import (
    All,
    AnyOf,
    Between,
    Contains,
    Empty,
    Equal,
    Filter,
    Not,
    OneOf,
    Scalar,
    Words,
    bounds_of,
    kind_of,
)
from safe_retrieval.index.words import match_query

_KINDS = {"text": "{row}.type = 'text'", "number": "{row}.type IN ('integer', 'real')"}
_METADATA = "documents.metadata"
_WITH_TITLE = (
    f"CASE WHEN documents.title = '' OR json_type({_METADATA}, '$.title') IS NOT NULL THEN {_METADATA} "
    f"ELSE json_set({_METADATA}, '$.title', documents.title) END"
)
_NOTHING = "(f.type = 'null' OR (f.type = 'text' AND f.value = '') OR (f.type = 'array' AND f.value = '[]'))"
# A text would be read as JSON.
_ELEMENTS = "CASE f.type WHEN 'array' THEN f.value ELSE '[]' END"


class Condition(NamedTuple):
    """A filter as SQL over ``documents``, with the values of its question marks.

    Attributes:
        sql: the expression.
        values: what is bound to its question marks.
        full_text: whether it looks at words, which the oldest files have no table of.
    """

    sql: str
    values: tuple[str, ...]
    full_text: bool = False


def _in_field(field: str) -> str:
    """The beginning of a condition on the row ``f`` of a field, whose name is bound; a parenthesis ends it."""
    rows = _WITH_TITLE if field == "title" else _METADATA
    return f"EXISTS (SELECT 1 FROM json_each({rows}) AS f WHERE f.key = ? AND "  # noqa: S608 - two constants


def to_sql(found: Filter) -> Condition:
    """A filter as a condition on ``documents``.

    Values go in as JSON: so SQLite reads a number here with the same routine as in the metadata, to the last bit.
    """
    match found:
        case All(parts):
            return _joined(parts, " AND ", "1")
        case AnyOf(parts):
            return _joined(parts, " OR ", "0")
        case Not(part):
            inner = to_sql(part)
            return Condition(f"NOT {inner.sql}", inner.values, inner.full_text)
        case Words(text, phrase):
            query = match_query(text, phrase=phrase)
            return Condition("position IN (SELECT rowid FROM words WHERE words MATCH ?)", (query,), full_text=True)
        case OneOf(field, values):
            return _one_of(field, values)
        case _:
            return _leaf(found)


def _leaf(found: Equal | Between | Contains | Empty) -> Condition:
    match found:
        case Contains(field, value):
            test, values = _same("e", value)
            held = f"EXISTS (SELECT 1 FROM json_each({_ELEMENTS}) AS e WHERE {test})"  # noqa: S608 - values are bound
            return Condition(f"{_in_field(field)}{held})", (field, *values))
        case Empty(field):
            return Condition(f"NOT {_in_field(field)}NOT {_NOTHING})", (field,))
        case Equal(field, None):
            return Condition(f"NOT {_in_field(field)}f.type <> 'null')", (field,))
        case Equal(field, value):
            test, values = _same("f", value)
            return Condition(f"{_in_field(field)}{test})", (field, *values))
        case Between(field):
            bounds = bounds_of(found)
            tests = "".join(f" AND f.value {comparison} json_extract(?, '$')" for comparison, _ in bounds)
            operands = tuple(_json(bound) for _, bound in bounds)
            return Condition(
                f"{_in_field(field)}{_KINDS[kind_of(bounds[0][1])].format(row='f')}{tests})", (field, *operands)
            )


def _same(row: str, value: object) -> tuple[str, tuple[str, ...]]:
    """That a row of ``json_each`` has a value, and what is bound to the question mark of that."""
    if isinstance(value, bool):
        return f"{row}.type = '{'true' if value else 'false'}'", ()
    return f"{_KINDS[kind_of(value)].format(row=row)} AND {row}.value = json_extract(?, '$')", (_json(value),)


def _joined(parts: Sequence[Filter], word: str, empty: str) -> Condition:
    conditions = [to_sql(part) for part in parts]
    sql = word.join(condition.sql for condition in conditions) or empty
    values = tuple(value for condition in conditions for value in condition.values)
    return Condition(f"({sql})", values, any(condition.full_text for condition in conditions))


def _one_of(field: str, values: Sequence[Scalar]) -> Condition:
    """Equality with many values, in one parameter a kind: there may be thousands of them."""
    parts = [to_sql(Equal(field, value)) for value in (True, False) if any(value is given for given in values)]
    for kind, test in _KINDS.items():
        same = [value for value in values if kind_of(value) == kind]
        if same:
            sql = _in_field(field) + test.format(row="f") + " AND f.value IN (SELECT value FROM json_each(?)))"  # noqa: S608 - values are bound
            parts.append(Condition(sql, (field, _json(same))))
    sql = " OR ".join(part.sql for part in parts) or "0"
    return Condition(f"({sql})", tuple(value for part in parts for value in part.values))


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False)
