from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from safe_retrieval.errors import ModelNotFoundError
from safe_retrieval.models import inventory
from safe_retrieval.models.cache import MANIFEST_NAME, Manifest, Slot, digests, memory_of
from safe_retrieval.models.digest import size_under
from safe_retrieval.models.inventory import Pruned, PrunedKind


@pytest.fixture
def folder(stand_in: Any) -> Path:
    """The stand-in, installed."""
    slot = Slot(stand_in.record.name)
    for path, data in stand_in.files.items():
        (slot.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (slot.folder / path).write_bytes(data)
    record = stand_in.record
    Manifest(record.name, record.kind, record.fingerprint, "test", {}, digests(slot.folder)).write(slot.folder)
    return slot.folder


def test_an_empty_cache() -> None:
    assert inventory.installed() == ()
    assert inventory.prune(everything=True) == ()


def test_installed_models_sound_or_not(folder: Path, home: Path) -> None:
    (home / "models" / "broken").mkdir()
    broken, sound = inventory.installed()
    assert (broken.name, broken.manifest, broken.size_bytes) == ("broken", None, 0)
    assert sound.manifest == Manifest.read(folder)
    assert sound.size_bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_verify_names_the_bad_file(folder: Path, stand_in: Any) -> None:
    assert inventory.verify(stand_in.record.name).faults == ()
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[150_000] ^= 0x10
    weights.write_bytes(data)
    for name in (stand_in.record.name, stand_in.record.hub_id, str(folder)):
        result = inventory.verify(name)
        assert [(result.folder / fault.path) for fault in result.faults] == [weights]


def test_a_manifest_altered_with_its_file_does_not_pass(folder: Path, stand_in: Any) -> None:
    (folder / "config.json").write_bytes(b"{}")
    record = stand_in.record
    Manifest(record.name, record.kind, "sha256:" + "0" * 64, "test", {}, digests(folder)).write(folder)
    faults = inventory.verify(record.name).faults
    assert [fault.path for fault in faults] == [MANIFEST_NAME, "config.json"]
    assert "is not the file the catalog names" in faults[1].problem


def test_a_broken_manifest_is_a_fault(folder: Path, stand_in: Any) -> None:
    (folder / MANIFEST_NAME).write_text("{")
    (fault,) = inventory.verify(stand_in.record.name).faults
    assert fault.path == MANIFEST_NAME
    (folder / MANIFEST_NAME).unlink()
    assert [fault.path for fault in inventory.verify(stand_in.record.name).faults] == [MANIFEST_NAME]


def test_verify_of_what_is_not_there(stand_in: Any) -> None:
    with pytest.raises(ModelNotFoundError, match="models pull stand-in-encoder"):
        inventory.verify(stand_in.record.name)


def test_prune_removes_partials_and_what_is_named(folder: Path, home: Path, stand_in: Any) -> None:
    partial = home / "partial" / "someone--else"
    partial.mkdir(parents=True)
    (partial / "artifact").write_bytes(b"x" * 1_000)
    assert inventory.prune() == (Pruned("someone--else", PrunedKind.PARTIAL, 1_000),)
    assert folder.is_dir()
    size = size_under(folder)
    memory_of(folder).parent.mkdir()
    memory_of(folder).write_text("{}")
    assert inventory.prune([stand_in.record.name]) == (Pruned(stand_in.record.name, PrunedKind.MODEL, size),)
    assert not folder.exists()
    assert not memory_of(folder).exists()  # what was remembered of its weights goes with them
    with pytest.raises(ModelNotFoundError):
        inventory.prune([stand_in.record.name])


def test_prune_all_forgets_hashes_too(folder: Path, home: Path) -> None:
    (home / "fingerprints").mkdir()
    (home / "fingerprints" / "x.json").write_text(json.dumps({}))
    (pruned,) = inventory.prune(everything=True)
    assert pruned.kind is PrunedKind.MODEL
    assert not (home / "fingerprints").exists()
    assert list((home / "models").iterdir()) == []


def test_a_model_outside_the_cache_is_never_removed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    folder.rename(outside)
    with pytest.raises(ModelNotFoundError, match="lies outside the cache"):
        inventory.prune([str(outside)])
    assert outside.is_dir()


def test_what_is_being_filled_is_left_alone(folder: Path, stand_in: Any) -> None:
    slot = Slot(stand_in.record.name)
    slot.lock_path.parent.mkdir(parents=True)
    with FileLock(slot.lock_path):
        assert inventory.prune(everything=True) == (Pruned(slot.key, PrunedKind.IN_USE, 0),)
    assert folder.is_dir()
