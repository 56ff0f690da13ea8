"""Ablations: one training configuration and, by name, what a row changes in it.

The file names a base configuration and overrides; nothing is copied, so a row differs from the base by what it says and
by nothing else. A row is trained, then measured::

    safe-retrieval bench ablate compression-tokens-5 --data DIR
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safe_retrieval.encoder.persistence import load_adapter
from safe_retrieval.errors import ConfigError, InputError
from safe_retrieval.training.config import TrainingConfig, load_config

LABEL = "ablation-"
"""What the label of a row's results begins with."""


class Ablations(BaseModel):
    """The content of an ablation file.

    Attributes:
        base: the base configuration, relative to the file.
        tasks: tasks that every row is measured on.
        arms: arms that every row is measured with.
        rows: by name, settings that replace those of the base, nested as there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Path
    tasks: tuple[str, ...] = Field(min_length=1)
    arms: tuple[str, ...] = Field(min_length=1)
    rows: dict[str, dict[str, Any]] = Field(min_length=1)


def load_ablations(path: Path) -> Ablations:
    """Read an ablation file.

    Raises:
        ConfigError: it cannot be read, or a field is unknown or wrong; the message names it.
    """
    try:
        ablations = Ablations.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"expected a YAML file of ablations at {path}: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {_told(error)}") from error
    return ablations.model_copy(update={"base": path.parent / ablations.base})


def ablation_config(ablations: Ablations, name: str, out: Path, *, queries: int | None = None) -> TrainingConfig:
    """The training configuration of a row.

    Responses are shared with the base where the row does not change how they are generated, and otherwise the row keeps
    its own.

    Args:
        ablations: the file's content.
        name: of the row.
        out: folder of all rows' runs; this one's is ``out/name``, or ``out/name-of-queries``.
        queries: how many the base takes, those held out included; a row that changes the number keeps its own.
            ``None`` leaves it as the base has it.

    Raises:
        InputError: there is no such row; the message lists them.
        ConfigError: the base is broken, or the row names a setting that does not exist.
    """
    if name not in ablations.rows:
        raise InputError(f"expected an ablation out of {', '.join(ablations.rows)}, got {name!r}")
    base = load_config(ablations.base)
    if queries is not None:
        base = base.model_copy(update={"queries": base.queries.model_copy(update={"count": queries})})
    merged = _merged(base.model_dump(), ablations.rows[name]) | {"out": out / row_folder(name, queries)}
    try:
        config = TrainingConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(f"ablation {name}: {_told(error)}") from error
    if _generation(config) == _generation(base):
        return config.model_copy(update={"responses_file": base.responses_path})
    return config.model_copy(update={"responses_file": None})


def row_folder(name: str, queries: int | None = None) -> str:
    """Name of a row's folder among the runs; that of its results begins with :data:`LABEL`."""
    return name if queries is None else f"{name}-of-{queries}"


def training_record(ablations: Ablations, name: str, adapter: Path) -> dict[str, Any]:
    """What a row changes, and how its training ended: held-out alignment, own-response retrieval, reconstruction.

    Raises:
        AdapterFormatError: the adapter cannot be read.
    """
    record = load_adapter(adapter).record
    kept = ("queries", "held_out_queries", "held_out", "seconds_of_last_start", "dtype", "versions", "seed")
    return {
        "row": name,
        "changes": ablations.rows[name],
        "adapter": record.weights_sha256,
        **{field: record.training.get(field) for field in kept},
    }


def _merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``overrides`` in it, mapping by mapping; an empty mapping replaces."""
    merged = dict(base)
    for key, value in overrides.items():
        nested = isinstance(value, Mapping) and value and isinstance(base.get(key), Mapping)
        merged[key] = _merged(base[key], value) if nested else value
    return merged


def _generation(config: TrainingConfig) -> tuple[object, ...]:
    """What decides the responses to a query."""
    asked = config.responses
    return config.backbone, config.policy, config.template, asked.model, asked.precision, asked.max_new_tokens


def _told(error: ValidationError) -> str:
    places = (f"{'.'.join(map(str, each['loc'])) or 'the file'}: {each['msg']}" for each in error.errors())
    return "; ".join(places)
