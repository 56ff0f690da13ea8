"""LangChain's FAISS folders without running what is in them: a reader for the one pickle that such a folder holds.

``index.pkl`` is a pickle, and unpickling runs whatever it says. Here it is only *read*: its opcodes, as
``pickletools`` lists them, are played on a stack of plain values. No class is looked up, nothing is called. An object
of a class that LangChain's documents and document stores have becomes a record of its state; an object of any other
class becomes a mark that says which class it was, so that the caller can say what cannot be taken. Anything else that
an honest file of this kind would not hold is an error.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from safe_retrieval.errors import DataError

_DOCUMENTS = frozenset(
    {
        "langchain_core.documents.base Document",
        "langchain_core.documents Document",
        "langchain.schema.document Document",
        "langchain.schema Document",
        "langchain.docstore.document Document",
    }
)
_STORES = frozenset(
    {
        "langchain_community.docstore.in_memory InMemoryDocstore",
        "langchain.docstore.in_memory InMemoryDocstore",
        "langchain_classic.docstore.in_memory InMemoryDocstore",
    }
)
_HARMLESS = frozenset({"copyreg _reconstructor", "copy_reg _reconstructor", "builtins object", "__builtin__ object"})
_SETS = frozenset({"builtins set", "__builtin__ set", "builtins frozenset", "__builtin__ frozenset"})
_MARK = object()
_MOST_LEVELS = 50
_MOST_VALUES = 100_000


@dataclass(frozen=True, slots=True)
class Class:
    """A class or function that a pickle names; it is not looked up."""

    name: str


@dataclass(eq=False, slots=True)
class Instance:
    """An object in a pickle.

    Attributes:
        kind: name of its class, module and name.
        state: what it holds, for the classes that are known.
    """

    kind: str
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether it is a document or a document store of LangChain's."""
        return self.kind in _DOCUMENTS | _STORES


class StoredDocument(NamedTuple):
    """A document as LangChain stores it."""

    text: str
    metadata: Mapping[str, Any]


def read_docstore(path: Path) -> tuple[Mapping[str, StoredDocument], Mapping[int, str]]:
    """The documents by id, and the id of each vector's document by position.

    Args:
        path: ``index.pkl`` of a folder that ``FAISS.save_local`` of LangChain wrote.

    Raises:
        DataError: it is missing, damaged, or holds something else; the message says what.
    """
    try:
        found = read_pickle(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}; expected LangChain's index.pkl") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    store, order = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    entries = store.state.get("_dict") if isinstance(store, Instance) and store.kind in _STORES else None
    if not isinstance(entries, dict) or not isinstance(order, dict):
        raise DataError(f"{path}: expected LangChain's document store and order of ids, got {_kind(store)}")
    if not all(isinstance(key, int) and isinstance(value, str) for key, value in order.items()):
        raise DataError(f"{path}: expected a position and an id for each vector, got something else")
    return {str(key): _document(value, str(key), path) for key, value in entries.items()}, order


def _document(value: object, identifier: str, path: Path) -> StoredDocument:
    if not isinstance(value, Instance) or value.kind not in _DOCUMENTS:
        raise DataError(f"{path}: expected a document of LangChain's under {identifier!r}, got {_kind(value)}")
    # Pydantic keeps the fields of a model one level down.
    fields = value.state.get("__dict__", value.state)
    text, metadata = fields.get("page_content"), fields.get("metadata", {})
    if not isinstance(text, str) or not isinstance(metadata, dict):
        raise DataError(f"{path}: expected text and metadata in document {identifier!r}, got {_kind(text)}")
    return StoredDocument(text, metadata)


def not_taken(value: object) -> str | None:
    """Why a value of metadata cannot be taken, as it reads behind its name; ``None`` if it can."""
    waiting: list[tuple[object, int]] = [(value, 0)]
    seen = 0
    while waiting:
        part, level = waiting.pop()
        seen += 1
        # One list may stand in another many times, so a small file can stand for a tree of any size.
        if seen > _MOST_VALUES or level > _MOST_LEVELS:
            return "is too large or nested without end"
        if isinstance(part, dict):
            if not all(isinstance(key, str) for key in part):
                return "has keys that are no strings"
            waiting += [(inner, level + 1) for inner in part.values()]
        elif isinstance(part, list | tuple):
            waiting += [(inner, level + 1) for inner in part]
        elif isinstance(part, float) and not math.isfinite(part):
            return f"holds {part}, which is no JSON"
        elif not (part is None or isinstance(part, str | int | float)):
            return f"holds a {_kind(part)}"
    return None


def _kind(value: object) -> str:
    if isinstance(value, Instance):
        return value.kind.replace(" ", ".")
    return value.name.replace(" ", ".") if isinstance(value, Class) else type(value).__name__


def read_pickle(data: bytes) -> Any:
    """What a pickle holds, made of ``str``, ``int``, ``float``, ``bool``, ``None``, ``bytes``, ``list``, ``dict``,
    ``tuple``, ``set`` and :class:`Instance`.

    Raises:
        DataError: it is damaged, or has an opcode that an honest file of this kind has no use for.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, UnicodeDecodeError, AttributeError) as error:
        raise DataError(f"the pickle is damaged: {error}") from error
    raise DataError("the pickle is cut short")


class _Machine:
    """The stack and the memo of a pickle, with nothing in them that could act."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._steps: Mapping[str, Callable[[Any], None]] = {
            **dict.fromkeys(_PUSHED, self._stack.append),
            **dict.fromkeys(("PROTO", "FRAME"), lambda _: None),
            **{name: self._constant(value) for name, value in _CONSTANTS.items()},
            **{name: self._empty(make) for name, make in _EMPTY.items()},
            **dict.fromkeys(("BINGET", "LONG_BINGET", "GET"), lambda number: self._stack.append(self._memo[number])),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT", "PUT"), self._remember),
            **{f"TUPLE{count}": self._tuple(count) for count in (1, 2, 3)},
            "MEMOIZE": lambda _: self._remember(len(self._memo)),
            "MARK": lambda _: self._stack.append(_MARK),
            "POP": lambda _: self._stack.pop(),
            "DUP": lambda _: self._stack.append(self._stack[-1]),
            "POP_MARK": self._drop_marked,
            "TUPLE": lambda _: self._stack.append(tuple(self._marked())),
            "LIST": lambda _: self._stack.append(self._marked()),
            "DICT": lambda _: self._stack.append(dict(_pairs(self._marked()))),
            "FROZENSET": lambda _: self._stack.append(set(self._marked())),
            "APPEND": lambda _: self._extend([self.pop()]),
            "APPENDS": lambda _: self._extend(self._marked()),
            "ADDITEMS": lambda _: self._add(self._marked()),
            "SETITEM": lambda _: self._update([self._stack.pop(-2), self._stack.pop()]),
            "SETITEMS": lambda _: self._update(self._marked()),
            "GLOBAL": lambda name: self._stack.append(Class(name)),
            "STACK_GLOBAL": lambda _: self._stack.append(Class(f"{self._stack.pop(-2)} {self._stack.pop()}")),
            "NEWOBJ": lambda _: self._create(self.pop()),
            "NEWOBJ_EX": lambda _: self._create((self.pop(), self.pop())),
            "REDUCE": lambda _: self._create(self.pop()),
            "BUILD": lambda _: self._build(self.pop()),
        }

    def step(self, name: str, argument: Any) -> None:
        """Play one opcode."""
        step = self._steps.get(name)
        if step is None:
            raise DataError(f"the pickle has the opcode {name}, which a document store has no use for; it is not read")
        step(argument)

    def pop(self) -> Any:
        """The value on top."""
        return self._stack.pop()

    def _constant(self, value: Any) -> Callable[[Any], None]:
        return lambda _: self._stack.append(value)

    def _empty(self, make: Callable[[], Any]) -> Callable[[Any], None]:
        return lambda _: self._stack.append(make())

    def _tuple(self, count: int) -> Callable[[Any], None]:
        def step(_: Any) -> None:
            values = tuple(self._stack[-count:])
            del self._stack[-count:]
            self._stack.append(values)

        return step

    def _remember(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    def _marked(self) -> list[Any]:
        """What stands above the last mark; the mark goes too."""
        place = len(self._stack) - 1 - self._stack[::-1].index(_MARK)
        values = self._stack[place + 1 :]
        del self._stack[place:]
        return values

    def _drop_marked(self, _: Any) -> None:
        self._marked()

    def _extend(self, values: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(values)
        elif not isinstance(self._stack[-1], Instance):
            raise TypeError(f"items for a {type(self._stack[-1]).__name__}")

    def _add(self, values: list[Any]) -> None:
        self._stack[-1].update(value for value in values if isinstance(value, str | int))

    def _update(self, values: list[Any]) -> None:
        if isinstance(self._stack[-1], dict):
            self._stack[-1].update(_pairs(values))
        elif not isinstance(self._stack[-1], Instance):
            raise TypeError(f"entries for a {type(self._stack[-1]).__name__}")

    def _create(self, arguments: Any) -> None:
        """An object in the place of its class, or of the function that would have made it."""
        made_by = self._stack.pop()
        if not isinstance(made_by, Class):
            raise DataError(f"the pickle calls a {type(made_by).__name__}; it is not read")
        if made_by.name in _SETS:
            self._stack.append(set())
        elif made_by.name in _HARMLESS and arguments and isinstance(arguments[0], Class):
            self._stack.append(Instance(arguments[0].name))  # the way of the oldest protocols to make an empty object
        else:
            self._stack.append(Instance(made_by.name))

    def _build(self, state: Any) -> None:
        target = self._stack[-1]
        if not isinstance(target, Instance):
            raise DataError(f"the pickle gives a state to a {type(target).__name__}; it is not read")
        if target.known and isinstance(state, dict):
            target.state.update(state)


_PUSHED = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
)  # fmt: skip
"""Opcodes whose argument is the value."""

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Mapping[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}


def _pairs(values: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(values[::2], values[1::2], strict=True)
