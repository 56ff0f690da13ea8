"""Any search endpoint that speaks JSON: a template for the request, JSONPath for what is in the answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any

from pydantic import Field, field_validator, model_validator

from safe_retrieval.audit.searchers.endpoint import Endpoint, EndpointSettings, NoAnswerError, filled, public_settings
from safe_retrieval.audit.searching import Answer, Found, Vectors, hazard_named
from safe_retrieval.encoder.texts import readable

QUERY, K = "{query}", "{k}"
"""What stands in the settings of a request for the query, and for the number of hits."""


class Method(StrEnum):
    """How a request is sent."""

    GET = "GET"
    POST = "POST"


class SearchEndpoint(EndpointSettings):
    """A search endpoint.

    Attributes:
        method: ``POST`` sends ``body`` as JSON, ``GET`` sends ``params``.
        body: any JSON; in its strings ``{query}`` stands for the query and ``{k}`` for the number of passages; a string
            that is ``{k}`` and nothing else becomes the number. ``${NAME}`` is filled in from the environment.
        params: of the address, with the same placeholders.
        results: JSONPath of the list of results.
        id, score, text: JSONPath in a result; of these ``id`` or ``text`` is needed, for the audit has to recognise
            passages.
        harmful, hazard: JSONPath in a result of the endpoint's own label, where it has one.
        refused: JSONPath in the answer of something that is true where the endpoint refuses.
    """

    method: Method = Method.POST
    body: Any = Field(default_factory=lambda: {"query": QUERY, "k": K})
    params: dict[str, str] = Field(default_factory=dict)
    results: str = "$.results"
    id: str | None = "$.id"
    score: str | None = "$.score"
    text: str | None = "$.text"
    harmful: str | None = None
    hazard: str | None = None
    refused: str | None = None

    @field_validator("results", "id", "score", "text", "harmful", "hazard", "refused")
    @classmethod
    def _is_a_path(cls, value: str | None) -> str | None:
        if value is not None:
            _compiled(value)
        return value

    @model_validator(mode="after")
    def _can_be_asked_and_recognised(self) -> SearchEndpoint:
        if self.id is None and self.text is None:
            raise ValueError("expected id or text: without either no passage can be recognised")
        sent = self.params if self.method is Method.GET else self.body
        if QUERY not in str(sent):
            raise ValueError(f"expected {QUERY} in {'params' if self.method is Method.GET else 'body'}")
        return self


class HttpSearcher:
    """What an endpoint returns.

    Args:
        settings: where it is, how it is asked, and where in an answer the results are.
        name: for messages.
        vectors: of its embedder, where it can be asked for them; ``None`` where not, so that nothing is merged.

    Raises:
        ConfigError: a variable of the environment is not set.
    """

    def __init__(self, settings: SearchEndpoint, name: str, *, vectors: Vectors | None = None) -> None:
        self._settings, self._name = settings, name
        self._endpoint = Endpoint(settings, name)
        self._body, self._params = _filled(settings.body), _filled(settings.params)
        self._paths = {
            field: _compiled(path)
            for field in ("results", "id", "score", "text", "harmful", "hazard", "refused")
            if (path := getattr(settings, field)) is not None
        }
        self.vectors = vectors

    @property
    def batch(self) -> int:
        """Requests under way at the same time."""
        return self._settings.concurrency

    @property
    def has_gate(self) -> bool:
        """Whether answers say that a query was refused."""
        return self._settings.refused is not None

    @property
    def record(self) -> Mapping[str, Any]:
        """The settings, with names of environment variables and none of their values, nor any header's."""
        return {"kind": "http", **public_settings(self._settings)}

    def search(self, queries: Sequence[str], k: int) -> list[Answer]:
        """One request a query.

        Raises:
            AuditError: an endpoint gave no answer, again and again.
        """
        if len(queries) == 1:
            return [self._search(queries[0], k)]
        with ThreadPoolExecutor(max_workers=self._settings.concurrency) as pool:
            return list(pool.map(lambda query: self._search(query, k), queries))

    def _search(self, query: str, k: int) -> Answer:
        method = self._settings.method
        (hits, refused), seconds = self._endpoint.ask(
            self._read,
            method=method.value,
            json=_inserted(self._body, readable(query), k) if method is Method.POST else None,
            params=_inserted(self._params, readable(query), k),
        )
        return Answer(hits, seconds, flagged=refused)

    def _read(self, content: Any) -> tuple[tuple[Found, ...], bool]:
        refused = _is_true(self._value("refused", content))
        matches = [match.value for match in self._paths["results"].find(content)]
        if refused and not matches:
            return (), True
        if len(matches) != 1 or not isinstance(matches[0], list):
            found = "nothing" if not matches else ", ".join(type(match).__name__ for match in matches[:3])
            raise NoAnswerError(f"expected one list at {self._settings.results}, found {found}")
        return tuple(self._found(result) for result in matches[0]), refused

    def _found(self, result: Any) -> Found:
        identifier, score, text = (self._value(field, result) for field in ("id", "score", "text"))
        if text is not None and not isinstance(text, str):
            raise NoAnswerError(f"expected a string at {self._settings.text} of a result, found {type(text).__name__}")
        if not isinstance(identifier, str | int | float | None):  # its content would stand in every report
            raise NoAnswerError(
                f"expected a string or number at {self._settings.id} of a result, found {type(identifier).__name__}"
            )
        if identifier is None and text is None:
            raise NoAnswerError(f"a result has neither {self._settings.id} nor {self._settings.text}")
        if self._settings.score is not None and not _is_number(score):
            raise NoAnswerError(
                f"expected a number at {self._settings.score} of a result, found {type(score).__name__}; say score: "
                "null where there is none"
            )
        return Found(
            "" if identifier is None else str(identifier),
            None if score is None else float(score),
            text,
            _is_true(self._value("harmful", result)),
            hazard_named(self._value("hazard", result), self._name),
        )

    def _value(self, field: str, content: Any) -> Any:
        path = self._paths.get(field)
        found = path.find(content) if path is not None else []
        return found[0].value if found else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _filled(template: Any) -> Any:
    """A template with the environment's values in its strings."""
    if isinstance(template, Mapping):
        return {key: _filled(value) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value) for value in template]
    return filled(template) if isinstance(template, str) else template


def _inserted(template: Any, query: str, k: int) -> Any:
    """A template with its placeholders filled in, value by value, so that no query can change its form."""
    if isinstance(template, Mapping):
        return {key: _inserted(value, query, k) for key, value in template.items()}
    if isinstance(template, list):
        return [_inserted(value, query, k) for value in template]
    if template == K:
        return k
    if isinstance(template, str):
        return template.replace(K, str(k)).replace(QUERY, query)  # in this order: a query may hold "{k}"
    return template


def _compiled(path: str) -> Any:
    """A JSONPath, ready to be used; of one that ends in ``[*]`` the list is meant.

    Raises:
        ValueError: it is none.
    """
    from jsonpath_ng import parse
    from jsonpath_ng.exceptions import JSONPathError

    try:
        return parse(path.removesuffix("[*]"))
    except JSONPathError as error:
        raise ValueError(f"expected a JSONPath such as $.results, got {path!r}: {error}") from error


def _is_true(value: Any) -> bool:
    """Whether a label says yes; some endpoints write it as a word."""
    if isinstance(value, str):
        return value.strip().lower() not in {"", "0", "false", "no", "none", "null"}
    return bool(value)
