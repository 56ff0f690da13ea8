"""The targets of ``audit.yaml``, one model a kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from safe_retrieval.audit.arms import HYDE_QUERIES
from safe_retrieval.audit.external import Merging, TargetOptions
from safe_retrieval.audit.scales import Scale
from safe_retrieval.audit.searchers.embeddings import EmbeddingsEndpoint
from safe_retrieval.audit.searchers.http import SearchEndpoint
from safe_retrieval.audit.searching import Holds
from safe_retrieval.audit.targets import AuditArm
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.types import GateAction


class _Target(BaseModel, ABC):
    """What every target has.

    Attributes:
        name: in the report; ``None`` takes the kind's default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(default=None, min_length=1)

    @property
    def called(self) -> str:
        """The name in the report."""
        return self.name or self._default_name

    @property
    @abstractmethod
    def _default_name(self) -> str:
        """The name without one."""


class _OwnPassages(_Target):
    """What a target has that brings its own passages.

    Attributes:
        holds: ``own`` passages, or exactly the ``probes`` that somebody put in for the audit.
        overlay: whether probe passages are put beside its own at query time.
        scores: what its scores are; ``None`` finds it out.
        empty_is_refusal: an answer without a passage counts as a refusal.
        queries: most probes asked, evenly over their kinds; ``None`` asks all.
    """

    holds: Holds = Holds.OWN
    overlay: Merging = Merging.AUTO
    scores: Scale | None = None
    empty_is_refusal: bool = False
    queries: int | None = Field(default=None, ge=3)

    def options(self, seed: int) -> TargetOptions:
        """As the target takes them."""
        return TargetOptions(self.holds, self.overlay, self.scores, self.empty_is_refusal, self.queries, seed)


class ModelChoice(BaseModel):
    """Which models an arm is made of.

    Attributes:
        backbone: language model: catalog name, hub id or folder; ``None`` takes the adapter's.
        adapter: folder of a response adapter; ``None`` takes the one shipped for backbone and document encoder.
        policy: name of a response policy, or a system prompt; ``None`` takes the adapter's.
        dtype: what the language model computes in.
    """

    backbone: str | None = None
    adapter: Path | None = None
    policy: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"


class ArmTarget(_Target, ModelChoice):
    """One of the six arms over the probes' passages: ``bm25``, ``hyde`` and the others.

    Attributes:
        arm: which.
        encoder: of the passages.
        queries: most probes that ``hyde`` is asked; 0 asks all.
    """

    kind: Literal["arm"]
    arm: AuditArm
    encoder: str = DEFAULT_DOCUMENT_ENCODER
    queries: int = Field(default=HYDE_QUERIES, ge=0)

    @property
    def _default_name(self) -> str:
        return self.arm.value


class Loader(StrEnum):
    """Who loads a model."""

    SENTENCE_TRANSFORMERS = "sentence-transformers"
    MTEB = "mteb"


class ModelTarget(_Target):
    """An embedding model over the probes' passages, as an ordinary dense retriever.

    Attributes:
        model: catalog name, hub id or folder; with ``loader: mteb``, mteb's name.
        loader: who loads it.
    """

    kind: Literal["model"]
    model: str = Field(min_length=1)
    loader: Loader = Loader.SENTENCE_TRANSFORMERS

    @property
    def _default_name(self) -> str:
        return self.model


class EmbeddingsTarget(_Target, EmbeddingsEndpoint):
    """An embeddings endpoint over the probes' passages, as an ordinary dense retriever."""

    kind: Literal["embeddings"]

    @property
    def _default_name(self) -> str:
        return self.model


class IndexTarget(_OwnPassages, ModelChoice):
    """An index folder of ours.

    Attributes:
        path: the folder.
        arm: how queries become hits.
        gate: what is done with queries that the backbone would refuse.
        threshold: refusal probability from which the gate fires; ``None`` takes the default.
    """

    kind: Literal["index"]
    path: Path
    arm: AuditArm = AuditArm.INPUT
    gate: GateAction = GateAction.ALLOW
    threshold: float | None = Field(default=None, ge=0, le=1)

    @property
    def _default_name(self) -> str:
        return f"{self.path.name}, {self.arm.value}"


class FaissTarget(_OwnPassages):
    """A FAISS file and the texts of its vectors.

    Attributes:
        path: the file.
        texts: the passages in the order of the vectors: JSON lines, CSV, Parquet or text, see docs/index.md.
        encoder: the model that made the vectors.
        nprobe: lists that an inverted file looks at; ``None`` leaves what the file says.
    """

    kind: Literal["faiss"]
    path: Path
    texts: Path
    encoder: str = DEFAULT_DOCUMENT_ENCODER
    nprobe: int | None = Field(default=None, ge=1)

    @property
    def _default_name(self) -> str:
        return self.path.stem


class LangChainTarget(_OwnPassages):
    """Any LangChain retriever or vector store.

    Attributes:
        object: import path, ``module:attribute``; a module beside the file is found.
        id_field, harmful_field, hazard_field: fields of a document's metadata with its id and with its own label.
    """

    kind: Literal["langchain"]
    object: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    id_field: str | None = None
    harmful_field: str | None = None
    hazard_field: str | None = None

    @property
    def _default_name(self) -> str:
        return self.object.rpartition(":")[2]


class HttpTarget(_OwnPassages, SearchEndpoint):
    """Any search endpoint that speaks JSON; see :class:`~safe_retrieval.audit.searchers.http.SearchEndpoint`.

    Attributes:
        embeddings: its embedder, so that probe passages can be overlaid; ``None`` where it cannot be asked.
        encoder: the same, where its embedder is a model that can be had here.
    """

    kind: Literal["http"]
    embeddings: EmbeddingsEndpoint | None = None
    encoder: str | None = None

    @model_validator(mode="after")
    def _has_one_embedder(self) -> Self:
        if self.embeddings and self.encoder:
            raise ValueError("expected embeddings or encoder, and not both")
        return self

    @property
    def _default_name(self) -> str:
        return "http"


TargetSettings = Annotated[
    ArmTarget | ModelTarget | EmbeddingsTarget | IndexTarget | FaissTarget | LangChainTarget | HttpTarget,
    Field(discriminator="kind"),
]
