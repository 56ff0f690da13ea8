"""What goes over the wire. Requests refuse fields they do not know; texts in a refused request are not repeated."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from safe_retrieval.encoder.texts import readable
from safe_retrieval.errors import InputError
from safe_retrieval.index.filters import Filter, as_filter
from safe_retrieval.server.settings import MAX_TEXTS
from safe_retrieval.types import GateAction

MAX_QUERIES = 128
"""Queries of one search."""

MAX_HITS = 1000
"""Hits of one query."""


class InputType(StrEnum):
    """The side of retrieval that a text belongs to; the two sides have different encoders of one space."""

    QUERY = "query"
    DOCUMENT = "document"


class EncodingFormat(StrEnum):
    """How vectors are written."""

    FLOAT = "float"
    """A list of numbers."""
    BASE64 = "base64"
    """Little-endian float32, base64: a quarter of the size, and what the ``openai`` client asks for by itself."""


def _as_texts(value: object, most: int) -> list[str]:
    """One text or a list of them, as a list; lone surrogates and NULs become U+FFFD as everywhere in the package."""
    if isinstance(value, str):
        return [readable(value)]
    if not isinstance(value, list):
        raise InputError("expected a text or a list of texts")
    if not 1 <= len(value) <= most:
        raise InputError(f"expected 1 to {most} texts, got {len(value)}")
    if any(isinstance(item, int | list) and not isinstance(item, bool) for item in value):
        raise InputError(
            "expected texts, got token ids; ids of another model's vocabulary mean nothing here, so send the text "
            "itself (LangChain's OpenAIEmbeddings does with check_embedding_ctx_length=False)"
        )
    for position, item in enumerate(value):
        if not isinstance(item, str):
            raise InputError(f"item {position}: expected a text")
    return [readable(item) for item in value]


def _list_schema(most: int) -> dict[str, Any]:
    items = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": most}
    return {"anyOf": [{"type": "string"}, items]}


Texts: TypeAlias = Annotated[
    list[str],
    BeforeValidator(lambda value: _as_texts(value, MAX_TEXTS)),
    WithJsonSchema(_list_schema(MAX_TEXTS)),
]
"""A text or a list of 1 to 2048."""

Queries: TypeAlias = Annotated[
    list[str],
    BeforeValidator(lambda value: _as_texts(value, MAX_QUERIES)),
    WithJsonSchema(_list_schema(MAX_QUERIES)),
]
"""A query or a list of 1 to 128."""


def _as_where(value: object) -> Filter | None:
    if value is not None and not isinstance(value, dict):
        raise InputError("expected an object as a filter")
    return as_filter(value)


Condition: TypeAlias = Annotated[
    Filter | None,
    PlainValidator(_as_where),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "null"}]}),
]
"""What the metadata of a hit must fulfil, as the mapping that :func:`~safe_retrieval.index.filters.as_filter` reads."""

Share: TypeAlias = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
"""A probability."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class EmbeddingsRequest(_Request):
    """OpenAI's, and the side of retrieval."""

    model: str
    input: Texts
    input_type: InputType | None = Field(
        None, description="Without it, the model's: `query`, or `document` for the model whose name ends so."
    )
    encoding_format: EncodingFormat = EncodingFormat.FLOAT
    dimensions: int | None = Field(None, description="Only the model's own: vectors cannot be shortened.")
    user: str | None = Field(None, description="Accepted as OpenAI does, and not used.")


class SearchRequest(_Request):
    """Queries over the index that the server was given."""

    query: Queries
    k: int = Field(10, ge=1, le=MAX_HITS)
    gate: GateAction | None = Field(None, description="Without it, the server's; never a looser one.")
    threshold: Share | None = Field(
        None, description="Refusal probability from which the gate fires; without it, the server's; never a higher one."
    )
    where: Condition = Field(
        None, description='What metadata and words of a hit must fulfil, such as {"year": {"$gte": 1990}}.'
    )
    return_documents: bool = Field(True, description="Whether hits hold title, text and metadata.")


class ScreenRequest(_Request):
    """Texts to be judged, in the shape of a rerank request without its query."""

    model: str | None = None
    documents: Texts
    top_n: int | None = Field(None, ge=1, description="How many results to return, the most likely refused first.")
    threshold: Share | None = Field(None, description="Probability from which a text is flagged; else the server's.")
    return_documents: bool = False


class Usage(BaseModel):
    """Tokens, counted by the document encoder's tokenizer."""

    prompt_tokens: int
    total_tokens: int


class Embedding(BaseModel):
    """One vector of unit norm; ``embedding`` is a string where base64 was asked for."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsResponse(BaseModel):
    """OpenAI's."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class Model(BaseModel):
    """OpenAI's, and what a client needs to keep vectors apart that do not belong together."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "safe-retrieval"
    input_type: InputType
    dimensions: int
    space: str


class ModelList(BaseModel):
    """OpenAI's."""

    object: Literal["list"] = "list"
    data: list[Model]


class FoundDocument(BaseModel):
    """A passage of the corpus."""

    title: str
    text: str
    metadata: dict[str, Any]


class SearchHit(BaseModel):
    """One hit; ``score`` is the cosine."""

    rank: int
    id: str
    score: float
    document: FoundDocument | None = None


class SearchResult(BaseModel):
    """What one query found; ``refusal_score`` is null where nothing judged it."""

    object: Literal["search.result"] = "search.result"
    index: int
    refusal_score: float | None
    flagged: bool
    hits: list[SearchHit]


class SearchResponse(BaseModel):
    """One result for each query, in order."""

    object: Literal["list"] = "list"
    data: list[SearchResult]
    model: str
    gate: GateAction
    threshold: float
    usage: Usage


class Verdict(BaseModel):
    """The probability that the backbone would refuse to answer the text at ``index``."""

    index: int
    refusal_score: float
    flagged: bool
    document: str | None = None


class ScreenResponse(BaseModel):
    """Verdicts, the most likely refused first."""

    object: Literal["list"] = "list"
    results: list[Verdict]
    model: str
    threshold: float
    usage: Usage


class Health(BaseModel):
    """Whether a probe is satisfied."""

    status: str


class ErrorDetail(BaseModel):
    """OpenAI's."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """OpenAI's."""

    error: ErrorDetail
