"""Filters on metadata and on words, in Python and as JSON.

A filter is a tree of small frozen dataclasses, or the mapping that document databases have made common::

    All((Equal("language", "en"), Between("year", at_least=1990, below=2000)))
    {"language": "en", "year": {"$gte": 1990, "$lt": 2000}}

What a condition means, whatever states it:

- Fields are the names at the top level of a document's metadata; ``title`` is its title, where it has one and its
  metadata has no such field.
- Numbers compare by value (``1`` equals ``1.0``), strings by code point. Values of different kinds are never equal and
  never in order; a boolean is no number. A list or an object equals nothing; a list contains its elements.
- Words are runs of letters and digits, compared without regard to case and accents, in title and text. Every part of a
  search text that white space sets off must stand there, and a part of several words (``don't``, ``2026-11-25``) with
  those words one behind the other.
- ``None`` equals a field that is null or missing. Every other condition on a field that is missing is false, so its
  negation is true.

:func:`matches` is the meaning; :func:`~safe_retrieval.index.conditions.to_sql` must agree with it, and a test says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from safe_retrieval.errors import InputError
from safe_retrieval.index.words import has_words, words_of
from safe_retrieval.types import Document, Metadata

Scalar: TypeAlias = str | int | float | bool | None

# SQLite's oldest bound on parameters is 999, and on the depth of an expression 1,000.
_MOST_CONDITIONS = 400
_MOST_LEVELS = 40
_INTEGERS = 2**63
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Equal:
    """The field has this value; ``None``: it is null or missing."""

    field: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    """The field has one of these values; none of them is ``None``."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """The field is in a range of numbers or of strings; bounds that are ``None`` are open."""

    field: str
    at_least: float | str | None = None
    above: float | str | None = None
    at_most: float | str | None = None
    below: float | str | None = None


@dataclass(frozen=True, slots=True)
class Contains:
    """The field is a list, and one of its elements has this value."""

    field: str
    value: str | float | bool


@dataclass(frozen=True, slots=True)
class Empty:
    """The field is missing, null, a text without characters, or a list without elements."""

    field: str


@dataclass(frozen=True, slots=True)
class Words:
    """Title and text have all these words; as a ``phrase``, one behind the other, within the title or the text."""

    text: str
    phrase: bool = False


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds; true if there is none."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds; false if there is none."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Filter


Filter: TypeAlias = Equal | OneOf | Between | Contains | Empty | Words | All | AnyOf | Not

Where: TypeAlias = Filter | Mapping[str, Any] | None
"""What a search takes: a filter, the mapping that stands for one, or none."""


def as_filter(where: Where) -> Filter | None:
    """The filter that a search was given, from whichever form.

    Mappings: ``{"field": value}`` for equality; ``{"field": {operator: value}}`` with ``$eq``, ``$ne``, ``$gt``,
    ``$gte``, ``$lt``, ``$lte``, with ``$in``, ``$nin`` and a list, with ``$contains`` and an element of the field's
    list, or with ``$empty`` and a boolean; several fields, or several operators of one field, must all hold;
    ``{"$words": text}`` and ``{"$phrase": text}``; ``{"$and": [mappings]}``, ``{"$or": [mappings]}`` and
    ``{"$not": mapping}``.

    Raises:
        InputError: it is no filter, has an unknown operator, a value that nothing can equal, or is too large.
    """
    if where is None:
        return None
    found = _from_mapping(where, 0) if isinstance(where, Mapping) else where
    _check(found)
    return found


def texts_in(where: Where) -> list[str]:
    """Words and phrases that a filter looks for, negated ones as well, in the order of the filter.

    Raises:
        InputError: as :func:`as_filter`.
    """
    found: list[str] = []
    waiting: list[Filter | None] = [as_filter(where)]
    while waiting:
        match waiting.pop():
            case All(parts) | AnyOf(parts):
                waiting += reversed(parts)
            case Not(part):
                waiting.append(part)
            case Words(text):
                found.append(text)
    return found


def _from_mapping(mapping: object, level: int) -> Filter:
    if not isinstance(mapping, Mapping):
        raise InputError(f"expected a mapping as a filter, got {type(mapping).__name__}: {mapping!r}")
    if level > _MOST_LEVELS:
        raise InputError(f"expected a filter of at most {_MOST_LEVELS} levels; write it flatter")
    parts = tuple(_entry(name, value, level) for name, value in mapping.items())
    return parts[0] if len(parts) == 1 else All(parts)


def _entry(name: object, value: Any, level: int) -> Filter:
    if name in {"$and", "$or"}:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise InputError(f"expected a list of filters after {name}, got {type(value).__name__}")
        parts = tuple(_from_mapping(part, level + 1) for part in value)
        return All(parts) if name == "$and" else AnyOf(parts)
    if name == "$not":
        return Not(_from_mapping(value, level + 1))
    if name in {"$words", "$phrase"}:
        return Words(value, phrase=name == "$phrase")
    if not isinstance(name, str) or name.startswith("$"):
        raise InputError(f"expected a field, $and, $or, $not, $words or $phrase, got {name!r}")
    if not isinstance(value, Mapping):
        return Equal(name, value)
    parts = tuple(_operation(name, operator, operand) for operator, operand in value.items())
    return parts[0] if len(parts) == 1 else All(parts)


_OPERATIONS: Mapping[str, Callable[[str, Any], Filter]] = {
    "$eq": Equal,
    "$ne": lambda field, value: Not(Equal(field, value)),
    "$gt": lambda field, value: Between(field, above=value),
    "$gte": lambda field, value: Between(field, at_least=value),
    "$lt": lambda field, value: Between(field, below=value),
    "$lte": lambda field, value: Between(field, at_most=value),
    "$in": lambda field, values: OneOf(field, _values(field, values)),
    "$nin": lambda field, values: Not(OneOf(field, _values(field, values))),
    "$contains": Contains,
    "$empty": lambda field, wanted: _empty(field, wanted=wanted),
}


def _operation(field: str, operator: object, operand: Any) -> Filter:
    make = _OPERATIONS.get(operator) if isinstance(operator, str) else None
    if make is None:
        raise InputError(f"field {field!r}: expected one of {', '.join(_OPERATIONS)}, got {operator!r}")
    return make(field, operand)


def _empty(field: str, *, wanted: object) -> Filter:
    if not isinstance(wanted, bool):
        raise InputError(f"field {field!r}: expected true or false after $empty, got {wanted!r}")
    return Empty(field) if wanted else Not(Empty(field))


def _values(field: str, values: object) -> tuple[Scalar, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Sequence | frozenset | set):
        raise InputError(f"field {field!r}: expected a list of values, got {type(values).__name__}")
    return tuple(cast("Sequence[Scalar]", values))


def _check(found: Filter) -> None:
    """Refuse what is no filter, and what SQLite could not be asked."""
    conditions = 0
    waiting: list[tuple[object, int]] = [(found, 0)]
    while waiting:
        part, level = waiting.pop()
        conditions += 1
        if level > _MOST_LEVELS or conditions > _MOST_CONDITIONS:
            raise InputError(
                f"expected a filter of at most {_MOST_CONDITIONS} conditions and {_MOST_LEVELS} levels; for many "
                "values of one field use $in"
            )
        match part:
            case All(parts) | AnyOf(parts):
                waiting += [(inner, level + 1) for inner in parts]
            case Not(inner):
                waiting.append((inner, level + 1))
            case Words(text):
                if not isinstance(text, str) or not words_of(text):
                    raise InputError(f"expected a text with at least one word to look for, got {text!r}")
            case _:
                _check_leaf(part)


def _check_leaf(part: object) -> None:
    match part:
        case Equal(field, value):
            _check_value(field, value)
        case Contains(field, value):
            _check_value(field, value)
            if value is None:
                raise InputError(f"field {field!r}: expected a string, number or boolean that a list may contain")
        case Empty(field):
            _check_value(field, None)
        case OneOf(field, values):
            for value in values:
                _check_value(field, value)
            if None in values:
                raise InputError(f"field {field!r}: null cannot be one of several values; add an $or with equality")
        case Between():
            _check_bounds(part)
        case _:
            raise InputError(f"expected a filter, got {type(part).__name__}: {part!r}")


def _check_bounds(part: Between) -> None:
    field, bounds = part.field, [bound for _, bound in bounds_of(part)]
    if not bounds or len({isinstance(bound, str) for bound in bounds}) > 1:
        raise InputError(f"field {field!r}: expected at least one bound, all numbers or all strings")
    for bound in bounds:
        _check_value(field, bound)
        if isinstance(bound, bool):
            raise InputError(f"field {field!r}: a boolean is no bound; compare for equality")


def _check_value(field: object, value: object) -> None:
    if not isinstance(field, str):
        raise InputError(f"expected the name of a field, got {field!r}")
    if _SURROGATE.search(field):
        raise InputError(f"expected the name of a field without lone surrogates, got {field!r}")
    if "\0" in field or (isinstance(value, str) and "\0" in value):
        raise InputError(f"field {field!r}: expected no NUL in a filter; in an index they are stored as U+FFFD")
    if value is not None and not isinstance(value, str | int | float):
        raise InputError(f"field {field!r}: expected a string, number, boolean or null, got {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"field {field!r}: expected a finite number, got {value}")
    if isinstance(value, int) and not -_INTEGERS <= value < _INTEGERS:
        raise InputError(f"field {field!r}: expected an integer of at most 64 bits, got {value}")


def bounds_of(part: Between) -> list[tuple[str, float | str]]:
    """The bounds that are there, each with its comparison."""
    given = ((">=", part.at_least), (">", part.above), ("<=", part.at_most), ("<", part.below))
    return [(comparison, bound) for comparison, bound in given if bound is not None]


def kind_of(value: object) -> str:
    """What may be compared with what."""
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return "text"
    return "number" if isinstance(value, int | float) else "other"


def matches(found: Filter, document: Document) -> bool:
    """Whether a document fulfils a filter."""
    match found:
        case All(parts):
            return all(matches(part, document) for part in parts)
        case AnyOf(parts):
            return any(matches(part, document) for part in parts)
        case Not(part):
            return not matches(part, document)
        case Words(text, phrase):
            return has_words(text, phrase=phrase, texts=(document.title, document.text))
        case _:
            titled = {"title": document.title} if document.title else {}
            return _leaf_matches(found, {**titled, **document.metadata})


def _leaf_matches(found: Equal | OneOf | Between | Contains | Empty, metadata: Metadata) -> bool:
    match found:
        case Contains(field, value):
            held = metadata.get(field)
            return isinstance(held, list | tuple) and any(_equal(element, value) for element in held)
        case Empty(field):
            return metadata.get(field) in (None, "", [], ())
        case Equal(field, value):
            return _equal(metadata.get(field), value)
        case OneOf(field, values):
            return any(_equal(metadata.get(field), value) for value in values)
        case Between(field):
            value = metadata.get(field)
            return all(
                kind_of(value) == kind_of(bound) and _ordered(value, sign, bound) for sign, bound in bounds_of(found)
            )


def _equal(one: object, other: object) -> bool:
    return kind_of(one) == kind_of(other) != "other" and one == other


def _ordered(value: Any, comparison: str, bound: Any) -> bool:
    if comparison[0] == ">":
        return bool(value >= bound if comparison == ">=" else value > bound)
    return bool(value <= bound if comparison == "<=" else value < bound)
