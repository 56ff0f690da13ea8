"""All settings of an audit: one YAML file, one pydantic model. ``audit init`` writes it with comments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from safe_retrieval._paths import placed
from safe_retrieval.audit.attribution import Rung
from safe_retrieval.audit.changes import Factor
from safe_retrieval.audit.figures import HEADLINE
from safe_retrieval.audit.gate import Bound, Threshold, Worsening
from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.probes import DEFAULT_BENIGN, Placement, ProbeKind
from safe_retrieval.audit.target_settings import TargetSettings
from safe_retrieval.errors import ConfigError

DEFAULT_NAME = "audit.yaml"
"""Of the file of settings."""

ADVBENCH_IR = "McGill-NLP/AdvBench-IR"
"""Where on the hub its authors publish it."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BuiltInProbes(_Settings):
    """The set that ships with the package."""

    kind: Literal["built-in"]


class DataFolderProbes(_Settings):
    """Published sets in one folder, as docs/data.md prepares them.

    Attributes:
        path: holds ``harm/``, ``benign/`` and perhaps ``prompts/``.
        harm: names of harmful sets; ``None`` takes all.
        benign: names of benign sets.
    """

    kind: Literal["data-folder"]
    path: Path
    harm: tuple[str, ...] | None = None
    benign: tuple[str, ...] = DEFAULT_BENIGN


class AdvBenchProbes(_Settings):
    """AdvBench-IR: harmful requests with the passages written for them.

    Attributes:
        path: a folder in BEIR form; ``None`` reads it from the hub.
        hub: its name there.
        placement: where its passages are.
    """

    kind: Literal["advbench-ir"]
    path: Path | None = None
    hub: str = ADVBENCH_IR
    placement: Placement = Placement.OVERLAY


class BeirProbes(_Settings):
    """A folder of one's own in BEIR form.

    Attributes:
        path: the folder.
        role: of all its queries; the passages of a harmful set are harmful.
        name: of the set in the report; ``None`` takes the folder's.
        hazard: of a harmful set.
        hazard_field: field of queries and passages that names their own.
        license: of the set.
        placement: where its passages are.
    """

    kind: Literal["beir"]
    path: Path
    role: ProbeKind
    name: str | None = None
    hazard: Hazard = Hazard.UNMAPPED
    hazard_field: str | None = None
    license: str | None = None
    placement: Placement = Placement.OVERLAY


class PromptProbes(_Settings):
    """A list of prompts without passages: harmful ones for any harm, sensitive ones for over-refusal.

    Attributes:
        path: JSON lines, plain or gzipped, or a text file with a prompt a line.
        role: ``harmful`` or ``sensitive``.
        name: of the set in the report; ``None`` takes the file's.
        text_field: field of a line that holds the prompt.
        id_field: field that names it; a line without it is named by its number.
        where: fields and values that a line must have to be taken, such as ``{label: safe}``.
        hazard: of harmful prompts.
        hazard_field: field of a line that names its own.
        license: of the list.
    """

    kind: Literal["prompts"]
    path: Path
    role: ProbeKind
    name: str | None = None
    text_field: str = "prompt"
    id_field: str = "id"
    where: dict[str, str] = Field(default_factory=dict)
    hazard: Hazard = Hazard.UNMAPPED
    hazard_field: str | None = None
    license: str | None = None

    @model_validator(mode="after")
    def _has_no_passages(self) -> Self:
        if self.role is ProbeKind.BENIGN:
            raise ValueError("a benign query needs passages that answer it; expected role harmful or sensitive")
        return self


ProbeSettings = Annotated[
    BuiltInProbes | DataFolderProbes | AdvBenchProbes | BeirProbes | PromptProbes, Field(discriminator="kind")
]


class ThresholdSettings(_Settings):
    """A limit on a figure; see :class:`~safe_retrieval.audit.gate.Threshold`.

    Attributes:
        metric: name in the report, such as ``harm@5``.
        at_most, at_least: the limit, one of them, from 0 to 1: 5 % is 0.05.
        bound: hold the figure itself against it, or the end of its interval that is against it.
        targets: names of targets it is set for; empty for all.
        hazard: of that category alone.
    """

    metric: str
    at_most: float | None = Field(default=None, ge=0, le=1)
    at_least: float | None = Field(default=None, ge=0, le=1)
    bound: Bound = Bound.INTERVAL
    targets: tuple[str, ...] = ()
    hazard: Hazard | None = None

    @model_validator(mode="after")
    def _has_one_limit(self) -> Self:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"expected at_most or at_least for {self.metric}, and not both")
        return self

    @property
    def threshold(self) -> Threshold:
        """As the gate takes it."""
        return Threshold(self.metric, self.at_most, self.at_least, self.bound, self.targets, self.hazard)


class BaselineSettings(_Settings):
    """What is compared with.

    Attributes:
        target: the target that the others are compared with; ``None`` takes the first.
        report: folder of an earlier audit with the same probes.
        fail_on: which worsening since then breaks the gate.
    """

    target: str | None = None
    report: Path | None = None
    fail_on: Worsening = Worsening.SIGNIFICANT


class RungSettings(_Settings):
    """One step between the baseline and a target; see ``audit.attribution``.

    Attributes:
        factor: what it changes.
        target: the target after the change.
        k: passages that are then shown.
    """

    factor: Factor
    target: str
    k: int = Field(default=HEADLINE, ge=1)

    @property
    def rung(self) -> Rung:
        """As the attribution takes it."""
        return Rung(self.factor, self.target, self.k)


class AuditSettings(_Settings):
    """One audit.

    Attributes:
        targets: what is audited.
        probes: what is asked.
        k: further cut-offs beside 1, 5, 20 and 100.
        thresholds: limits on figures; a broken one is exit code 1.
        baseline: what is compared with.
        attribution: by target, the steps from the baseline target to it, each a target too.
        out: folder of the report.
        seed: of bootstraps and samples.
        offline: open no connection for models or data; endpoints are asked all the same.
        folder: relative paths are relative to it; the file's own folder.
    """

    targets: tuple[TargetSettings, ...] = Field(min_length=1)
    probes: tuple[ProbeSettings, ...] = Field(default=(BuiltInProbes(kind="built-in"),), min_length=1)
    k: tuple[Annotated[int, Field(ge=1)], ...] = ()
    thresholds: tuple[ThresholdSettings, ...] = ()
    baseline: BaselineSettings = BaselineSettings()
    attribution: dict[str, tuple[RungSettings, ...]] = Field(default_factory=dict)
    out: Path = Path("audit-report")
    seed: int = Field(default=0, ge=0)
    offline: bool = False
    folder: Path = Field(default=Path(), exclude=True)

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        names = [target.called for target in self.targets]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ValueError(f"two targets are called {repeated!r}; give them names of their own")
        named = [name for threshold in self.thresholds for name in threshold.targets]
        named += [*self.attribution, *([self.baseline.target] if self.baseline.target else [])]
        named += [rung.target for rungs in self.attribution.values() for rung in rungs]
        unknown = next((name for name in named if name not in names), None)
        if unknown is not None:
            raise ValueError(f"{unknown!r} is no target; there are: {', '.join(names)}")
        return self

    @property
    def reference(self) -> str:
        """Name of the target that the others are compared with."""
        return self.baseline.target or self.targets[0].called

    def placed(self, path: Path) -> Path:
        """A path of these settings with ``~`` and environment variables filled in, relative to their folder.

        Raises:
            ConfigError: an environment variable in it is not set.
        """
        return placed(self.folder, path)


def load_settings(source: AuditSettings | Mapping[str, Any] | str | Path) -> AuditSettings:
    """Settings out of a YAML file, or out of what such a file would hold.

    Args:
        source: a path, or a mapping; its relative paths are then relative to the working directory.

    Raises:
        ConfigError: the file cannot be read, or a field is unknown or wrong; the message names it.
    """
    if isinstance(source, AuditSettings):
        return source
    if isinstance(source, Mapping):
        return _validated(source, "the settings", Path())
    path = Path(source)
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            f"expected the settings of an audit at {path}: {error}; safe-retrieval audit init writes one to begin with"
        ) from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: expected a mapping with targets, found {type(content).__name__}")
    return _validated(content, str(path), path.parent)


def _validated(content: Mapping[str, Any], where: str, folder: Path) -> AuditSettings:
    try:
        return AuditSettings.model_validate({**content, "folder": folder})
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in e['loc']) or 'the file'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from error
