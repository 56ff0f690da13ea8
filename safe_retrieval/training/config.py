"""All settings of a training run: one YAML file, one pydantic model."""

from __future__ import annotations

import operator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from safe_retrieval._paths import placed
from safe_retrieval.backbone.language_model import EIGHT_BIT
from safe_retrieval.encoder.adapter import HeadShape
from safe_retrieval.encoder.policy import policy_from
from safe_retrieval.encoder.pooled import BIDIRECTIONAL, CAUSAL
from safe_retrieval.errors import ConfigError
from safe_retrieval.models.naming import folder_or_name

_Model = TypeVar("_Model", bound=BaseModel)


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AlignmentLoss(StrEnum):
    """How an embedding is compared with its target."""

    COSINE = "cosine"
    MSE = "mse"


class QuerySettings(_Settings):
    """Which queries are trained on.

    Attributes:
        files: JSON lines or text files of queries; relative paths are relative to the configuration file.
        count: how many of them; ``None`` takes all.
        shares: by file stem, the share of ``count`` drawn from it.
        longest: queries of more characters than this are left out.
        keep_apart_from: an evaluation folder whose queries may not be trained on.
    """

    files: tuple[Path, ...] = Field(min_length=1)
    count: int | None = Field(default=None, gt=0)
    shares: dict[str, float] = {}
    longest: int = Field(default=400, gt=0)
    keep_apart_from: Path | None = None

    @model_validator(mode="after")
    def _shares_are_of_the_files(self) -> QuerySettings:
        sources = {file.name.split(".")[0] for file in self.files}
        unknown = sorted(self.shares.keys() - sources)
        if unknown:
            raise ValueError(f"shares names {unknown[0]}, expected one of the files: {', '.join(sorted(sources))}")
        if any(share < 0 for share in self.shares.values()) or sum(self.shares.values()) > 1 + 1e-9:
            raise ValueError(f"expected shares from 0 up, 1 in all at most, got {self.shares}")
        return self


class Precision(StrEnum):
    """What the backbone computes in while it reads queries and answers them."""

    FULL = "full"
    INT8 = EIGHT_BIT

    @property
    def dtype(self) -> str:
        """What :meth:`LanguageModel.load` takes for it."""
        return "auto" if self is Precision.FULL else self.value


class ResponseSettings(_Settings):
    """How responses are generated.

    Attributes:
        model: who answers: a catalog name, hub id or folder. ``None`` is the backbone itself; another, better aligned
            one teaches the backbone's trained tokens to foresee *its* answers, and the refusal head its verdicts.
        max_new_tokens: bound on a response.
        batch_size: queries decoded together.
        precision: ``full``, that of the training, or ``int8``: answers, and the kept prefixes that the trained tokens
            stand behind, are computed in 8-bit integers, in half the time or less on a CPU that has such products. The
            tokens and their gradients are computed in full precision either way.
        prefix_precision: of the kept prefixes, where it is to be another than that of the answers: those of a larger
            model are worth reading in full what they answer.
    """

    model: str | None = None
    precision: Precision = Precision.FULL
    prefix_precision: Precision | None = Field(default=None, exclude_if=operator.not_)
    max_new_tokens: int = Field(default=48, gt=0)
    batch_size: int = Field(default=128, gt=0)


class AdapterSettings(_Settings):
    """Shape of the adapter; see :class:`~safe_retrieval.encoder.adapter.AdapterShape`.

    Attributes:
        initial_text: what the trained tokens start as: the embeddings of this text, repeated as needed. A phrase that
            leads into an answer already makes their states speak of it.
        read_values: whether the head reads the query's attention values as well.
        read_first_token: whether it also reads the mean embedding of the first token that the answer is likely to have.
        tokens_from: folder of an adapter, or the backbone that one is shipped for, whose tokens and reconstruction head
            this run starts from in place of ``initial_text``; with ``epochs: 0`` they stay as they are, and only the
            alignment and refusal heads are fitted, on as many queries as are given. It may be of another policy.
        blend_share: share of the response vector in a blend where the backbone would answer; no part of the training,
            the adapter carries it to whoever blends. ``None`` is the usual fifth.
    """

    thought_tokens: int = Field(default=0, ge=0)
    compression_tokens: int = Field(default=8, ge=1)
    head: HeadShape = HeadShape.MLP
    head_width: int = Field(default=512, gt=0)
    read_prompt: bool = True
    read_values: bool = False
    read_first_token: bool = False
    mixture: bool = False
    initial_text: str = "In short, the answer to this is that it"
    tokens_from: str | None = None
    blend_share: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _only_what_is_solved_for(self) -> AdapterSettings:
        if self.head is not HeadShape.RIDGE and (self.read_values or self.read_first_token or self.mixture):
            raise ValueError(
                "expected adapter.head: ridge with adapter.read_values, adapter.read_first_token or adapter.mixture; "
                "others learn by gradients"
            )
        return self


class LossSettings(_Settings):
    """Weights of the losses; see :mod:`safe_retrieval.training.losses`."""

    alignment: AlignmentLoss = AlignmentLoss.COSINE
    alignment_weight: float = Field(default=1.0, ge=0)
    contrast_weight: float = Field(default=0.1, ge=0)
    contrast_temperature: float = Field(default=0.05, gt=0)
    reconstruction_weight: float = Field(default=0.1, ge=0)
    reconstruction_share: float = Field(default=0.25, ge=0, le=1)
    reconstruction_tokens: int = Field(default=24, gt=0)


class OptimiserSettings(_Settings):
    """AdamW with linear warm-up and cosine decay to zero, and the two phases of a run.

    Attributes:
        epochs: passes over all queries in which tokens and heads are trained together; 0.25 is a quarter of one. A
            ``ridge`` head is fitted on all queries afterwards, whatever the tokens saw. 0 only where the tokens are
            those of another adapter.
        head_epochs: passes after that in which only the alignment head is trained, on states that no longer change;
            they cost next to nothing. A ``ridge`` head is solved for instead.
        workers: threads that share a batch, one intra-op thread each; 1 leaves threading to torch.
        patience: stop a phase when held-out alignment has not improved for so many evaluations; ``None`` never stops.
    """

    learning_rate: float = Field(default=1e-3, gt=0)
    head_learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=50, ge=0)
    batch_size: int = Field(default=64, gt=0)
    epochs: float = Field(default=3, ge=0, allow_inf_nan=False)
    head_epochs: int = Field(default=30, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    workers: int = Field(default=1, gt=0)
    patience: int | None = Field(default=None, gt=0)


class PromptStyle(StrEnum):
    """What stands around a query."""

    CHAT = "chat"
    NONE = "none"


class TrainingConfig(_Settings):
    """One run.

    Attributes:
        backbone: catalog name, hub id or folder.
        teacher: see :func:`~safe_retrieval.training.teachers.load_teacher`.
        policy: name or system prompt.
        template: ``chat``, the backbone's own, or ``none``, plain paragraphs; an adapter is asked as it was trained.
        out: folder of the run: responses, checkpoints, log, and at the end ``adapter/``.
        responses_file: responses that are there already, or where they go; ``None`` keeps them in ``out``.
        held_out: queries kept back for evaluation.
        checkpoint_steps: steps between checkpoints.
        prefixes: folder of kept prefixes; ``None`` is beside the responses, so that runs which share them compute each
            query once.
        prefix_gigabytes: bound on kept prefixes.
    """

    backbone: str
    teacher: str = "all-minilm-l6-v2"
    policy: str = "careful"
    template: PromptStyle = PromptStyle.CHAT
    out: Path
    responses_file: Path | None = None
    seed: int = 0
    held_out: int = Field(default=256, gt=0)
    checkpoint_steps: int = Field(default=50, gt=0)
    prefixes: Path | None = None
    prefix_gigabytes: float = Field(default=8.0, ge=0)
    queries: QuerySettings
    responses: ResponseSettings = ResponseSettings()
    adapter: AdapterSettings = AdapterSettings()
    loss: LossSettings = LossSettings()
    optimiser: OptimiserSettings = OptimiserSettings()

    @property
    def responses_path(self) -> Path:
        """The responses file, wherever it is."""
        return self.responses_file or self.out / "responses.jsonl"

    @property
    def prefixes_path(self) -> Path:
        """The folder of kept prefixes, wherever it is."""
        return self.prefixes or self.responses_path.parent / "prefixes"

    @field_validator("policy")
    @classmethod
    def _policy_is_known(cls, choice: str) -> str:
        policy_from(choice)
        return choice

    @model_validator(mode="after")
    def _tokens_come_from_somewhere(self) -> TrainingConfig:
        if self.optimiser.epochs == 0 and self.adapter.tokens_from is None:
            raise ValueError("expected adapter.tokens_from with optimiser.epochs: 0; else the tokens stay untrained")
        return self


class GateConfig(_Settings):
    """A refusal head for an adapter that is there, taught by another model; see :mod:`safe_retrieval.training.gate`.

    Attributes:
        adapter: whose refusal head is replaced: an adapter folder, or the backbone whose shipped adapter it is.
        judge: whose refusal probability is foreseen, named in the same way.
        out: folder of the run: what the models computed, and at the end ``adapter/``.
        seed: of the sample of queries.
        batch_size: most queries in one pass.
    """

    adapter: str
    judge: str
    out: Path
    seed: int = 0
    batch_size: int = Field(default=32, gt=0)
    queries: QuerySettings

    @model_validator(mode="after")
    def _judges_another(self) -> GateConfig:
        if self.judge == self.adapter:
            raise ValueError("expected a judge other than the adapter itself, whose own verdicts a run gives it anyway")
        return self


def load_config(path: Path) -> TrainingConfig:
    """Read a YAML file; environment variables in its paths are filled in, relative paths are relative to its folder.

    Raises:
        ConfigError: the file cannot be read, or a field is unknown or wrong; the message names it.
    """
    config = _read(path, TrainingConfig)
    model = config.responses.model
    anchored = {
        "backbone": _folder_or_name(path.parent, config.backbone),
        "teacher": _folder_or_name(path.parent, config.teacher),
        "responses": config.responses.model_copy(
            update={"model": None if model is None else _folder_or_name(path.parent, model)}
        ),
        "queries": _anchored(config.queries, path.parent),
        "out": placed(path.parent, config.out),
        "responses_file": _under(path.parent, config.responses_file),
        "prefixes": _under(path.parent, config.prefixes),
        "adapter": config.adapter.model_copy(update={"tokens_from": _named(path.parent, config.adapter.tokens_from)}),
    }
    return config.model_copy(update=anchored)


def load_gate_config(path: Path) -> GateConfig:
    """Read the YAML file of a gate's training, its paths as in :func:`load_config`.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    config = _read(path, GateConfig)
    anchored = {
        "adapter": _folder_or_name(path.parent, config.adapter),
        "judge": _folder_or_name(path.parent, config.judge),
        "out": placed(path.parent, config.out),
        "queries": _anchored(config.queries, path.parent),
    }
    return config.model_copy(update=anchored)


def _read(path: Path, kind: type[_Model]) -> _Model:
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"expected a YAML training configuration at {path}: {error}") from error
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in e['loc']) or 'the file'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{path}: " + "; ".join(lines)) from error


def _anchored(queries: QuerySettings, folder: Path) -> QuerySettings:
    files = tuple(placed(folder, file) for file in queries.files)
    return queries.model_copy(update={"files": files, "keep_apart_from": _under(folder, queries.keep_apart_from)})


def _folder_or_name(folder: Path, name: str) -> str:
    """A model's folder where there is one, also behind a prefix such as ``llm2vec:``; else the name as it is."""
    kind, separator, rest = name.partition(":")
    if kind not in {CAUSAL, BIDIRECTIONAL}:
        kind, separator, rest = "", "", name
    return f"{kind}{separator}{folder_or_name(rest, partial(placed, folder))}"


def _named(folder: Path, name: str | None) -> str | None:
    return None if name is None else _folder_or_name(folder, name)


def _under(folder: Path, path: Path | None) -> Path | None:
    return None if path is None else placed(folder, path)
