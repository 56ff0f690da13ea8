from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from safe_retrieval.errors import ModelError, ModelNotFoundError
from safe_retrieval.models import local, memory
from safe_retrieval.models.digest import FileDigest, sha256_of, tree_fingerprint
from safe_retrieval.models.fetch import resolve
from safe_retrieval.models.record import ModelKind


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "my-model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"]}))
    (made / "model.safetensors").write_bytes(b"weights")
    (made / "README.md").write_text("not part of the model")
    return made


def test_fingerprint_is_over_the_model_files(folder: Path) -> None:
    expected = tree_fingerprint(
        {name: FileDigest(0, sha256_of(folder / name)) for name in ("config.json", "model.safetensors")}
    )
    model = resolve(str(folder))
    assert model.fingerprint == expected
    assert (model.path, model.kind, model.record) == (folder, ModelKind.LANGUAGE_MODEL, None)
    (folder / "README.md").write_text("changed")
    assert resolve(str(folder)).fingerprint == expected
    (folder / "config.json").write_text("{}")
    assert resolve(str(folder)).fingerprint != expected


def test_hashes_are_remembered_until_a_file_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(memory, "sha256_of", counting)
    first = local.fingerprint(folder)
    assert local.fingerprint(folder) == first
    assert hashed == ["config.json", "model.safetensors"]
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert local.fingerprint(folder) == first
    assert hashed == ["config.json", "model.safetensors", "model.safetensors"]
    status = (folder / "config.json").stat()
    other = folder / "other"
    other.write_bytes((folder / "config.json").read_bytes()[::-1])
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(folder / "config.json")  # the same size and time: only the inode tells
    assert local.fingerprint(folder) != first
    assert hashed[3:] == ["config.json"]


def test_a_broken_memory_is_computed_anew(folder: Path, home: Path) -> None:
    first = local.fingerprint(folder)
    (memory,) = (home / "fingerprints").iterdir()
    for content in ("[]", "{", '{"config.json": {}}', '{"config.json": 1}'):
        memory.write_text(content)
        assert local.fingerprint(folder) == first


def test_a_cache_that_cannot_be_written_only_costs_time(folder: Path, home: Path) -> None:
    home.write_text("a file where the folder would be")
    assert local.fingerprint(folder) == local.fingerprint(folder)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"modules.json": "[]"}, ModelKind.SENTENCE_ENCODER),
        ({"config.json": '{"architectures": ["GPT2LMHeadModel"]}'}, ModelKind.LANGUAGE_MODEL),
        ({"config.json": '{"architectures": ["BertModel"]}'}, None),
        ({"config.json": "{}"}, None),
        ({"config.json": "[]"}, None),
        ({"config.json": "{"}, None),
        ({}, None),
    ],
)
def test_kind_by_configuration(tmp_path: Path, files: dict[str, str], kind: ModelKind | None) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert local.detect_kind(tmp_path) is kind


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match="never loaded"):
        resolve(str(folder))


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"neither config\.json nor modules\.json"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("configured", [True, False])
def test_an_adapter_for_a_base_model_is_refused(folder: Path, configured: bool) -> None:
    """The form in which LLM2Vec's own checkpoints are published."""
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/base"}')
    if not configured:
        (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"my-model holds an adapter for a base model .*merge_and_unload.*save_pret"):
        resolve(str(folder))
