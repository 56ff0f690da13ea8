from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from safe_retrieval.audit import settings, target_settings
from safe_retrieval.audit.searchers.embeddings import EmbeddingsEndpoint
from safe_retrieval.audit.searchers.http import SearchEndpoint
from safe_retrieval.audit.settings import AuditSettings, load_settings
from safe_retrieval.errors import ConfigError

EXAMPLE = Path(settings.__file__).with_name("audit.example.yaml").read_text(encoding="utf-8")


def models() -> Iterator[type[BaseModel]]:
    for module in (settings, target_settings):
        for found in vars(module).values():
            if isinstance(found, type) and issubclass(found, BaseModel) and found.__module__ == module.__name__:
                yield found
    yield from (EmbeddingsEndpoint, SearchEndpoint)


@pytest.mark.parametrize("model", list(models()), ids=lambda model: model.__name__)
def test_every_field_is_described_and_stands_in_the_example(model: type[BaseModel]) -> None:
    described = "".join(base.__doc__ or "" for base in model.__mro__ if issubclass(base, BaseModel))
    for name, field in model.model_fields.items():
        if field.exclude or name == "kind":
            continue
        assert re.search(rf"\b{name}\b", described), f"{model.__name__}.{name} is not described"
        assert re.search(rf"[\s{{#-]{name}: ", EXAMPLE) or re.search(rf"^#? *{name}:$", EXAMPLE, re.M), name


def test_every_kind_stands_in_the_example_and_all_of_it_is_valid() -> None:
    """Taking the comments off the entries, one kind after the other, gives settings that can be read."""
    for kind in ("arm", "index", "faiss", "langchain", "http", "embeddings"):
        assert kind in {block["kind"] for block in commented(EXAMPLE, "targets")}
    for kind in ("data-folder", "advbench-ir", "beir", "prompts"):
        assert kind in {block["kind"] for block in commented(EXAMPLE, "probes")}
    whole = yaml.safe_load(EXAMPLE)
    whole["targets"] += commented(EXAMPLE, "targets")
    whole["probes"] += commented(EXAMPLE, "probes")
    AuditSettings.model_validate(whole)


def commented(text: str, section: str) -> list[dict[str, object]]:
    """The entries of a section that are commented out."""
    body = text.split(f"\n{section}:\n")[1]
    body = re.split(r"\n[a-z]", body)[0]
    lines = [line[4:] for line in body.splitlines() if re.match(r"  # (- |  )", line)]
    found: list[dict[str, object]] = yaml.safe_load("\n".join(lines))
    return found


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "audit.yaml").write_text("targets: [{kind: arm, arm: bm25}]\n")
    found = load_settings(tmp_path / "audit.yaml")
    assert found.placed(Path("x")) == tmp_path / "x"
    assert found.placed(Path("/x")) == Path("/x")
    monkeypatch.setenv("ELSEWHERE", "/elsewhere")
    assert found.placed(Path("$ELSEWHERE/x")) == Path("/elsewhere/x")
    assert load_settings(found) is found
    with pytest.raises(ConfigError, match="variable in it to be set"):
        found.placed(Path("$NO_SUCH_VARIABLE"))


def test_names_of_targets() -> None:
    found = load_settings(
        {
            "targets": [
                {"kind": "index", "path": "a/b"},
                {"kind": "langchain", "object": "x.y:z"},
                {"kind": "http", "url": "http://x"},
                {"kind": "faiss", "path": "v.faiss", "texts": "t"},
            ]
        }
    )
    assert [target.called for target in found.targets] == ["b, input", "z", "http", "v"]
    assert found.reference == "b, input"


def test_a_file_nested_without_end_is_no_settings(tmp_path: Path) -> None:
    (tmp_path / "audit.yaml").write_text("[" * 3_000)
    with pytest.raises(ConfigError, match="expected the settings of an audit"):
        load_settings(tmp_path / "audit.yaml")
