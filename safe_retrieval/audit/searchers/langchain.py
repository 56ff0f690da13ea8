"""Any LangChain retriever or vector store of the user's own, by import path."""

from __future__ import annotations

import hashlib
import importlib
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from safe_retrieval._extras import require
from safe_retrieval.audit.searching import Answer, Found, Vectors, hazard_named
from safe_retrieval.errors import AuditError, ConfigError
from safe_retrieval.types import FloatMatrix


class _Document(Protocol):
    """What is read of a LangChain document."""

    page_content: str
    metadata: dict[str, Any]
    id: str | None


class _Embeddings(Protocol):
    """What is asked of a LangChain embedder."""

    def embed_query(self, text: str) -> list[float]: ...

    def embed_documents(self, texts: list[str]) -> list[list[float]]: ...


class _Scored(NamedTuple):
    document: _Document
    score: float | None


_FINGERPRINTED = "The quick brown fox jumps over the lazy dog."


def load_object(path: str, folder: Path) -> Any:
    """Import ``module:attribute``; what is there may be the object, or a function without arguments that makes it.

    Args:
        path: for example ``my_app.search:store``; the attribute may have dots.
        folder: looked into first, so that a module beside the configuration is found.

    Raises:
        ConfigError: it cannot be imported, or has no such attribute.
    """
    name, _, attribute = path.partition(":")
    if not name or not attribute:
        raise ConfigError(f"expected module:attribute, such as my_app.search:store, got {path!r}")
    with _beside(folder):
        try:
            found: Any = importlib.import_module(name)
            for part in attribute.split("."):
                found = getattr(found, part)
        except Exception as error:  # a module of the user's own may raise anything, a missing key for one
            raise ConfigError(
                f"{path} cannot be imported: {_told(error)}; run where {name} can be, or mend the name"
            ) from error
    return found


_QUOTE = 4
"""Words in a row that make a message a quotation."""


def _told(error: Exception, texts: Sequence[str] = ()) -> str:
    """What foreign code raised, without its message where that quotes one of the texts: messages go into logs."""
    message, kind = str(error), type(error).__name__
    said = " ".join(re.findall(r"\w+", message.casefold()))
    for text in texts:
        words = re.findall(r"\w+", text.casefold())
        runs = (" ".join(words[start : start + _QUOTE]) for start in range(max(len(words) - _QUOTE, 0) + 1))
        if any(run and f" {run} " in f" {said} " for run in runs):
            return f"{kind} (its message quotes a text of the audit and is left out)"
    return f"{kind}: {message}"


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _kind(module: str, name: str) -> Callable[[object], bool]:
    """Whether an object is of a class of langchain-core."""
    found: Any = require(f"langchain_core.{module}", extra="langchain", purpose="auditing LangChain retrievers")
    kind: type = getattr(found, name)
    return lambda candidate: isinstance(candidate, kind)


class LangChainSearcher:
    """What a retriever or vector store of LangChain returns.

    Args:
        path: import path of a ``VectorStore``, a ``BaseRetriever``, or a function without arguments that makes one.
        folder: looked into first.
        id_field: field of a document's metadata that holds its id; ``None`` takes the document's own.
        harmful_field: field of its metadata that is true where it is harmful; ``None`` where there is none.
        hazard_field: field of its metadata that names one of the twelve hazards.
        keep: wraps the store's vectors, so that none is made twice.

    Raises:
        ConfigError: it cannot be imported, or is neither.
        MissingExtraError: langchain-core is not installed.
    """

    batch = 1
    has_gate = False

    def __init__(
        self,
        path: str,
        folder: Path,
        *,
        id_field: str | None = None,
        harmful_field: str | None = None,
        hazard_field: str | None = None,
        keep: Callable[[Vectors], Vectors] | None = None,
    ) -> None:
        is_store, is_retriever = _kind("vectorstores", "VectorStore"), _kind("retrievers", "BaseRetriever")
        found = load_object(path, folder)
        if not (is_store(found) or is_retriever(found)) and callable(found):
            try:
                found = found()
            except Exception as error:  # the user's own code, as above
                raise ConfigError(f"{path} raised when it was called: {_told(error)}; mend it") from error
        if not (is_store(found) or is_retriever(found)):
            raise ConfigError(
                f"{path} is a {type(found).__name__}; expected a LangChain VectorStore or BaseRetriever, or a function "
                "that makes one"
            )
        self._path, self._object = path, found
        self._ask = self._of_store(found) if is_store(found) else self._of_retriever(found)
        self._fields = (id_field, harmful_field, hazard_field)
        # a retriever says nothing of its vectors
        embeddings = found.embeddings if is_store(found) else None
        vectors = None if embeddings is None else _LangChainVectors(embeddings)
        self.vectors: Vectors | None = keep(vectors) if vectors and keep else vectors

    @property
    def record(self) -> Mapping[str, Any]:
        """Import path, class and the fields that are read."""
        kind = type(self._object)
        return {
            "kind": "langchain",
            "object": self._path,
            "class": f"{kind.__module__}.{kind.__qualname__}",
            "fields": dict(zip(("id", "harmful", "hazard"), self._fields, strict=True)),
        }

    def search(self, queries: Sequence[str], k: int) -> list[Answer]:
        """Ask one by one.

        Raises:
            AuditError: the retriever or store raised.
        """
        return [self._answer(query, k) for query in queries]

    def _answer(self, query: str, k: int) -> Answer:
        start = time.perf_counter()
        try:
            pairs = self._ask(query, k)
        except Exception as error:  # whatever foreign code raises, the audit names who did
            raise AuditError(f"{self._path} raised when it was asked: {_told(error, [query])}") from error
        seconds = time.perf_counter() - start
        if not all(score is None or math.isfinite(score) for _, score in pairs):
            raise AuditError(f"{self._path} returned a score that is no finite number; expected one for each passage")
        return Answer(tuple(self._found(document, score) for document, score in pairs), seconds)

    def _of_store(self, store: Any) -> Callable[[str, int], list[_Scored]]:
        def ask(query: str, k: int) -> list[_Scored]:
            try:
                return [
                    _Scored(document, float(score))
                    for document, score in store.similarity_search_with_score(query, k=k)
                ]
            except NotImplementedError:
                return [_Scored(document, None) for document in store.similarity_search(query, k=k)]

        return ask

    def _of_retriever(self, retriever: Any) -> Callable[[str, int], list[_Scored]]:
        # its own k, as its users get it: what a retriever does with one that is passed in differs by class
        return lambda query, _: [_Scored(document, None) for document in retriever.invoke(query)]

    def _found(self, document: _Document, score: float | None) -> Found:
        id_field, harmful_field, hazard_field = self._fields
        identifier = document.metadata.get(id_field) if id_field else document.id
        hazard = document.metadata.get(hazard_field) if hazard_field else None
        return Found(
            "" if identifier is None else str(identifier),
            score,
            document.page_content,
            bool(document.metadata.get(harmful_field)) if harmful_field else False,
            hazard_named(hazard, self._path),
        )


class _LangChainVectors:
    def __init__(self, embeddings: _Embeddings) -> None:
        self._embeddings = embeddings

    @cached_property
    def identity(self) -> str:
        """By what it computes, since an ``Embeddings`` has no name that would change with its model."""
        kind = type(self._embeddings)
        vector = np.round(self.queries([_FINGERPRINTED])[0].astype(np.float64), 3) + 0.0
        return f"{kind.__module__}.{kind.__qualname__} {hashlib.sha256(vector.tobytes()).hexdigest()}"

    def queries(self, texts: Sequence[str]) -> FloatMatrix:
        return self._rows(lambda: [self._embeddings.embed_query(text) for text in texts], texts)

    def documents(self, texts: Sequence[str]) -> FloatMatrix:
        return self._rows(lambda: self._embeddings.embed_documents(list(texts)), texts)

    def _rows(self, embed: Callable[[], list[list[float]]], texts: Sequence[str]) -> FloatMatrix:
        kind = type(self._embeddings).__qualname__
        try:
            rows = np.asarray(embed(), dtype=np.float32)
        except Exception as error:  # foreign code, as above
            raise AuditError(f"the embedder {kind} raised: {_told(error, texts)}") from error
        if rows.ndim != 2 or len(rows) != len(texts) or not np.isfinite(rows).all():
            raise AuditError(f"the embedder {kind} gave {rows.shape} for {len(texts)} texts; expected finite rows")
        return rows
