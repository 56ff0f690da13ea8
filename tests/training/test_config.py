from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from safe_retrieval.encoder.adapter import HeadShape
from safe_retrieval.encoder.shipped import shipped_name
from safe_retrieval.errors import ConfigError
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.training.config import AlignmentLoss, GateConfig, TrainingConfig, load_config, load_gate_config

SMALLEST: dict[str, Any] = {"backbone": "tiny", "out": "run", "queries": {"files": ["a.txt"]}}


def write(folder: Path, content: dict[str, Any] | str) -> Path:
    path = folder / "config.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def merged(path: str, value: Any) -> dict[str, Any]:
    group, _, name = path.rpartition(".")
    if not group:
        return {**SMALLEST, name: value}
    return {**SMALLEST, group: {**SMALLEST.get(group, {}), name: value}}


def test_paths_are_relative_to_the_file_and_variables_are_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFE_RETRIEVAL_DATA", "/somewhere")
    content = {
        **SMALLEST,
        "responses_file": "kept/responses.jsonl",
        "queries": {
            "files": ["own.txt", "${SAFE_RETRIEVAL_DATA}/set.jsonl.gz", "~/home.txt"],
            "keep_apart_from": "$SAFE_RETRIEVAL_DATA",
        },
    }
    config = load_config(write(tmp_path, content))
    assert config.queries.files == (
        tmp_path / "own.txt",
        Path("/somewhere/set.jsonl.gz"),
        Path("~/home.txt").expanduser(),
    )
    assert config.queries.keep_apart_from == Path("/somewhere")
    assert (config.out, config.responses_file) == (tmp_path / "run", tmp_path / "kept/responses.jsonl")
    assert (config.responses_path, config.prefixes_path) == (config.responses_file, tmp_path / "kept/prefixes")
    own = load_config(write(tmp_path, {**content, "prefixes": "apart"}))
    assert own.prefixes_path == tmp_path / "apart"
    alone = load_config(write(tmp_path, {**content, "responses_file": None}))
    assert (alone.responses_path, alone.prefixes_path) == (own.out / "responses.jsonl", own.out / "prefixes")


def test_a_model_is_a_folder_beside_the_file_where_there_is_one_and_it_is_no_name_of_the_catalog(
    tmp_path: Path,
) -> None:
    for name in ("mine", "qwen2.5-coder-0.5b-instruct", "all-minilm-l6-v2"):
        (tmp_path / name).mkdir()
    for backbone, teacher in (("mine", "llm2vec:mine"), ("./mine", "pooled:mine")):
        config = load_config(write(tmp_path, {**SMALLEST, "backbone": backbone, "teacher": teacher}))
        assert (config.backbone, config.teacher) == (
            str(tmp_path / "mine"),
            f"{teacher.split(':')[0]}:{tmp_path / 'mine'}",
        )
    names = {"backbone": "qwen2.5-coder-0.5b-instruct", "teacher": "all-minilm-l6-v2"}
    for given in (names, {"backbone": "owner/name", "teacher": "self"}):
        config = load_config(write(tmp_path, {**SMALLEST, **given}))
        assert (config.backbone, config.teacher) == tuple(given.values())


def test_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, SMALLEST))
    assert (config.teacher, config.policy, config.seed, config.held_out) == ("all-minilm-l6-v2", "careful", 0, 256)
    assert (config.adapter.head, config.loss.alignment) == (HeadShape.MLP, AlignmentLoss.COSINE)
    assert config.responses_file is None


def test_an_unset_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAFE_RETRIEVAL_DATA", raising=False)
    with pytest.raises(ConfigError, match=r"\$\{SAFE_RETRIEVAL_DATA\}/a\.txt"):
        load_config(write(tmp_path, merged("queries.files", ["${SAFE_RETRIEVAL_DATA}/a.txt"])))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimiser.learning_rate", -1),
        ("optimiser.epochs", 0),
        ("optimiser.speed", 3),
        ("optimiser.patience", 0),
        ("loss.alignment", "euclid"),
        ("loss.reconstruction_share", 1.5),
        ("adapter.head", "cube"),
        ("adapter.compression_tokens", "many"),
        ("responses.max_new_tokens", 0),
        ("queries.files", []),
        ("held_out", 0),
        ("prefix_gigabytes", -1),
        ("adapter.read_values", True),
        ("adapter.read_first_token", True),
        ("adapter.mixture", True),
        ("colour", "green"),
        ("policy", "carefull"),
        ("policy", "  "),
    ],
)
def test_a_faulty_field_is_named(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field) as raised:
        load_config(write(tmp_path, merged(field, value)))
    assert "config.yaml" in str(raised.value)


@pytest.mark.parametrize("name", ["backbone", "out", "queries"])
def test_a_missing_field_is_named(tmp_path: Path, name: str) -> None:
    content = {key: value for key, value in SMALLEST.items() if key != name}
    with pytest.raises(ConfigError, match=rf"{name}: Field required"):
        load_config(write(tmp_path, content))


@pytest.mark.parametrize(
    ("shares", "message"),
    [({"b": 0.5}, "shares names b, expected one of the files: a"), ({"a": 1.2}, "1 in all"), ({"a": -0.1}, "from 0")],
)
def test_shares_that_cannot_be(tmp_path: Path, shares: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, merged("queries.shares", shares)))


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "", "just text", "[" * 3_000])
def test_what_is_no_configuration(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        load_config(write(tmp_path, content))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def settings_of(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted name, with its default."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= settings_of(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = "required" if field.is_required() else field.default
    return found


def test_the_documented_settings_are_those_that_there_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    gate, everything = page.split("## Settings")
    documented = defaults_in(everything)
    expected = {
        name: "none" if default in (None, {}) else str(default).lower() if isinstance(default, bool) else str(default)
        for name, default in settings_of(TrainingConfig).items()
    }
    assert documented == expected
    fields = GateConfig.model_fields.items()
    assert defaults_in(gate) == {
        name: "required" if field.is_required() else str(field.default) for name, field in fields
    }


def defaults_in(page: str) -> dict[str, str]:
    rows = re.findall(r"^\| `([a-z_.]+)` \| (.*?) \|", page, re.MULTILINE)
    return {name: default.strip("`") for name, default in rows}


def test_the_shipped_configurations_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_RETRIEVAL_DATA", "/data")
    files = sorted((Path(__file__).parents[2] / "benchmarks" / "adapters").glob("*.yaml"))
    files = [file for file in files if not file.stem.startswith("llm2vec")]  # a run of another kind
    assert files
    for file in files:
        if file.stem.endswith("-gate"):
            gate = load_gate_config(file)
            assert Path(gate.adapter).parts[-2:] == (file.stem.removesuffix("-gate"), "adapter")
            assert gate.queries.keep_apart_from == Path("/data")
            continue
        config = load_config(file)
        taught_by = f"pooled:{config.backbone}" if config.teacher == "self" else config.teacher
        named = shipped_name(config.backbone, taught_by, config.policy).replace(f"--{DEFAULT_DOCUMENT_ENCODER}", "")
        assert file.stem.removesuffix("-tokens") == named
        assert config.out.name == file.stem
        assert config.queries.keep_apart_from == Path("/data")
        assert config.loss.reconstruction_weight > 0
