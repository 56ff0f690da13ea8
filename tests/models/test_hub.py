"""The hub, against a stand-in of it on the loopback interface, through the real client library."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _detect_agent

from safe_retrieval.errors import ChecksumError, DiskFullError, DownloadError, ModelError, ModelNotFoundError
from safe_retrieval.models import fetch, hub, transfer
from safe_retrieval.models.cache import Manifest
from safe_retrieval.models.digest import digest_of, size_under, tree_fingerprint
from safe_retrieval.models.fetch import resolve
from safe_retrieval.models.progress import Reporter
from safe_retrieval.models.record import ModelKind

REPO = "Someone/Tiny-LM"
COMMIT = "c" * 40
FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "model.safetensors": bytes(range(256)) * 400,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"a pickle",
    "modeling_tiny.py": b"raise SystemExit(3)",
    "onnx/model.json": b"{}",
    "README.md": b"# Tiny",
}
KEPT = {"config.json", "model.safetensors", "tokenizer.json"}


@pytest.fixture
def remote(serve: Callable[..., Any], stand_ins: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub that holds :data:`FILES` as :data:`REPO`."""
    server = serve(stand_ins.hub(REPO, FILES, commit=COMMIT))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return server


@pytest.fixture
def pinned_hub(serve: Callable[..., Any], stand_in: Any, stand_ins: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub that holds the files of ``stand_in``."""
    server = serve(stand_ins.hub(stand_in.record.hub_id, stand_in.files))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return server


def _gets(remote: Any, path: str) -> int:
    return int(remote.requests[f"/{REPO}/resolve/{COMMIT}/{path}"])


def test_any_hub_id_works_and_only_data_comes(remote: Any, home: Path) -> None:
    model = resolve(REPO, kind=ModelKind.LANGUAGE_MODEL)
    assert {path.relative_to(model.path).as_posix() for path in model.path.rglob("*") if path.is_file()} == KEPT | {
        "safe-retrieval.json"
    }
    assert all((model.path / name).read_bytes() == FILES[name] for name in KEPT)
    assert model.path == home / "models" / "Someone--Tiny-LM"
    assert model.fingerprint == tree_fingerprint({name: digest_of(model.path / name) for name in KEPT})
    assert Manifest.read(model.path).source == f"hub: {REPO}@{COMMIT}"
    assert not any("pytorch_model.bin" in path or path.endswith(".py") for path in remote.requests)


def test_the_hub_is_told_nothing_about_this_machine(remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched() -> None:
        pytest.fail("the library asked its own address, and not the mirror, which program calls it")

    monkeypatch.setattr(_detect_agent, "_get_registry", fetched)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    resolve(REPO, kind=ModelKind.LANGUAGE_MODEL)
    assert constants.HF_HUB_DISABLE_TELEMETRY is False  # put back: it is the user's setting


def test_the_same_files_in_a_folder_have_the_same_fingerprint(remote: Any, tmp_path: Path) -> None:
    folder = tmp_path / "by-hand"
    folder.mkdir()
    for name in KEPT | {"README.md"}:
        (folder / name).write_bytes(FILES[name])
    assert resolve(str(folder)).fingerprint == resolve(REPO).fingerprint


def test_a_second_call_asks_nothing(remote: Any) -> None:
    first = resolve(REPO)
    asked = remote.requests.total()
    assert resolve(REPO, offline=True) == first
    assert remote.requests.total() == asked


def test_a_cut_connection_is_resumed_inside_the_file(
    serve: Callable[..., Any], stand_ins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = bytes(12 << 20)
    server = serve(stand_ins.hub(REPO, {**FILES, "model.safetensors": weights}, commit=COMMIT))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.cuts[f"/{REPO}/resolve/{COMMIT}/model.safetensors"] = 11 << 20
    assert (resolve(REPO).path / "model.safetensors").read_bytes() == weights
    assert server.ranges == [f"bytes={11 << 20}-"]


def test_killed_inside_a_file_then_resumed(
    *,
    pinned_hub: Any,
    stand_in: Any,
    home: Path,
    start: Callable[[], subprocess.Popen[str]],
    wait_for: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = f"/{stand_in.record.hub_id}/resolve/main/model.safetensors"
    pinned_hub.holds[weights], pinned_hub.stalls[weights] = 200_000, threading.Event()
    process = start()
    area = home / "partial" / stand_in.record.name
    unfinished = area / "hub" / stand_in.record.sha256
    wait_for(lambda: unfinished.is_file() and unfinished.stat().st_size > 150_000)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (home / "models").exists()
    came = unfinished.stat().st_size
    pinned_hub.stalls[weights].set()
    for garbage in ("hub/.cache/huggingface/download/x.1a2b3c4d.incomplete", "hub/" + "0" * 64, "scratch-1/wheel"):
        (area / garbage).parent.mkdir(parents=True, exist_ok=True)
        (area / garbage).write_bytes(bytes(500_000))

    free: list[int] = []
    monkeypatch.setattr(fetch, "need_room", lambda _, needed, __: free.append(needed))
    model = resolve(stand_in.record.name)
    assert free == [fetch._room(stand_in.record) - came]  # what nobody goes on with is not counted as progress
    assert pinned_hub.ranges == [f"bytes={came}-"]
    assert {path: (model.path / path).read_bytes() for path in stand_in.files} == stand_in.files
    assert list((home / "partial").iterdir()) == []


def test_a_call_that_gave_up_is_gone_on_with(remote: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"/{REPO}/resolve/{COMMIT}/model.safetensors"
    monkeypatch.setattr(transfer, "_TRIES", 1)
    remote.cuts[path] = 60_000
    with pytest.raises(DownloadError, match="did not deliver Someone/Tiny-LM"):
        resolve(REPO)
    assert size_under(home / "partial") == 60_000 + len(FILES["config.json"])
    assert (resolve(REPO).path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert remote.ranges == ["bytes=60000-"]
    assert _gets(remote, "config.json") == 1


@pytest.mark.parametrize("left", [bytes(60_000), bytes(200_000)], ids=["zeros of a lost write", "longer than the file"])
def test_a_wrong_beginning_is_fetched_from_the_start(remote: Any, home: Path, left: bytes, stand_ins: Any) -> None:
    unfinished = home / "partial" / "Someone--Tiny-LM" / "hub" / stand_ins.sha256(FILES["model.safetensors"])
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(left)
    assert (resolve(REPO).path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert list((home / "partial").iterdir()) == []


def test_a_server_that_sends_everything_whatever_was_asked(remote: Any, home: Path, stand_ins: Any) -> None:
    remote.whole = True
    unfinished = home / "partial" / "Someone--Tiny-LM" / "hub" / stand_ins.sha256(FILES["model.safetensors"])
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(FILES["model.safetensors"][:1_000])
    assert (resolve(REPO).path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert _gets(remote, "model.safetensors") == 1


def test_a_busy_server_is_asked_again_and_then_given_up(
    remote: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_PAUSE", 0.0)
    remote.statuses[f"/{REPO}/resolve/{COMMIT}/config.json"] = 503
    with pytest.raises(DownloadError, match="503"):
        resolve(REPO)
    assert _gets(remote, "config.json") == transfer._TRIES
    assert list((home / "partial").iterdir()) == []  # nothing had come


@pytest.mark.parametrize("catalogued", [False, True])
def test_a_full_disk_during_a_download_leaves_nothing(
    remote: Any, stand_in: Any, home: Path, catalogued: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: str, partial: Path, *__: object) -> None:
        partial.write_bytes(b"a beginning")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "download", full)
    with pytest.raises(DiskFullError, match="is full; what had come so far has been removed"):
        resolve(stand_in.record.name if catalogued else REPO)
    assert list((home / "partial").iterdir()) == []
    assert not (home / "models").exists()


def test_a_revision_has_a_place_of_its_own(remote: Any, stand_ins: Any, home: Path) -> None:
    remote.pages |= stand_ins.hub(REPO, FILES, commit=COMMIT, revision="v1.0").pages
    assert resolve(f"{REPO}@v1.0").path == home / "models" / "Someone--Tiny-LM@v1.0"
    remote.headers[f"/api/models/{REPO}/revision/nowhere"] = {"X-Error-Code": "RevisionNotFound"}
    with pytest.raises(ModelNotFoundError, match="does not offer"):
        resolve(f"{REPO}@nowhere")


def test_bytes_that_differ_from_the_listing(remote: Any, home: Path) -> None:
    path = f"/{REPO}/resolve/{COMMIT}/model.safetensors"
    remote.pages[path] = remote.pages[path][:-1] + b"X"
    words = r"model\.safetensors of Someone/Tiny-LM on the hub is not what the hub's own listing names"
    with pytest.raises(ChecksumError, match=words):
        resolve(REPO)
    assert not (home / "models").exists()
    assert list((home / "partial").iterdir()) == []


def test_small_files_are_checked_by_their_blob_id(remote: Any) -> None:
    path = f"/{REPO}/resolve/{COMMIT}/config.json"
    remote.pages[path] = b'{"architectures": ["LlamaForCausalLX"]}'
    with pytest.raises(ChecksumError, match=r"config\.json"):
        resolve(REPO)


def test_only_pickled_weights(serve: Callable[..., Any], stand_ins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(stand_ins.hub(REPO, {"config.json": b"{}", "pytorch_model.bin": b"x"}))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    with pytest.raises(ModelNotFoundError, match="holds no safetensors weights, and pickled ones are never loaded"):
        resolve(REPO)


@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (401, "RepoNotFound", ModelNotFoundError, "does not offer"),
        (404, "RepoNotFound", ModelNotFoundError, "does not offer"),
        (403, "GatedRepo", ModelNotFoundError, "is gated on the hub"),
        (400, "", DownloadError, "did not deliver"),
    ],
)
def test_refusals_of_the_hub(
    *, remote: Any, home: Path, status: int, code: str, error: type[ModelError], words: str
) -> None:
    path = f"/api/models/{REPO}/revision/main"
    remote.statuses[path] = status
    remote.headers[path] = {"X-Error-Code": code}
    with pytest.raises(error, match=words):
        resolve(REPO)
    assert list((home / "partial").iterdir()) == []


def test_an_adapter_for_a_base_model_is_refused_before_it_is_fetched(
    serve: Callable[..., Any], stand_ins: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"config.json": b"{}", "adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}
    server = serve(stand_ins.hub(REPO, files))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    with pytest.raises(ModelError, match="Someone/Tiny-LM on the hub holds an adapter for a base model"):
        resolve(REPO)
    assert not any("/resolve/" in path for path in server.requests)
    assert list((home / "partial").iterdir()) == []


@pytest.mark.usefixtures("pinned_hub")
def test_catalog_files_come_from_the_hub_at_their_pins(stand_in: Any) -> None:
    model = resolve(stand_in.record.name)
    assert model.fingerprint == stand_in.record.fingerprint
    assert Manifest.read(model.path).source == "hub: someone/stand-in-encoder@main"


def test_a_hub_with_other_bytes_than_the_pins(
    serve: Callable[..., Any], stand_in: Any, stand_ins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered = {**stand_in.files, "config.json": b'{"model_type": "else"}'}
    server = serve(stand_ins.hub(stand_in.record.hub_id, altered))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    words = r"config\.json of someone/stand-in-encoder on the hub is not what the catalog names: expected 22 bytes"
    with pytest.raises(ChecksumError, match=words):
        hub.fetch_pinned(stand_in.record, tmp_path, tmp_path / "files", Reporter(enabled=False))
    assert not list(tmp_path.rglob("config.json"))
    assert not (tmp_path / "hub").exists()


def test_pinned_files_that_are_here_are_not_fetched_again(pinned_hub: Any, stand_in: Any, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "model.safetensors").write_bytes(stand_in.files["model.safetensors"])
    (files / "config.json").write_bytes(b"half")
    hub.fetch_pinned(stand_in.record, tmp_path, files, Reporter(enabled=False))
    assert {path: (files / path).read_bytes() for path in stand_in.files} == stand_in.files
    asked = {path.rpartition("/main/")[2] for path in pinned_hub.requests if "/resolve/" in path}
    assert asked == set(stand_in.files) - {"model.safetensors"}


def test_progress_false_is_silent(remote: Any, capfd: pytest.CaptureFixture[str]) -> None:
    resolve(REPO, progress=False)
    assert capfd.readouterr() == ("", "")


def test_a_hub_that_is_silent_is_given_up_after_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(url: str, *, timeout: float) -> None:
        assert timeout == 5.0
        raise httpx.ConnectTimeout("timed out")

    monkeypatch.setattr(httpx, "head", silent)
    with pytest.raises(DownloadError, match=r"the hub does not answer \(ConnectTimeout: timed out\)"):
        hub.list_snapshot(REPO, "main")


def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "no-scheme")
    with pytest.raises(DownloadError, match="the hub does not answer"):
        hub.list_snapshot(REPO, "main")


def test_a_file_that_is_here_is_not_fetched_again(remote: Any, tmp_path: Path) -> None:
    snapshot = hub.list_snapshot(REPO, "main")
    assert snapshot.commit == COMMIT
    assert snapshot.size == sum(len(FILES[name]) for name in KEPT)
    files = tmp_path / "files"
    files.mkdir()
    (files / "model.safetensors").write_bytes(FILES["model.safetensors"])
    hub.fetch_snapshot(snapshot, tmp_path, files, Reporter(enabled=False))
    assert _gets(remote, "model.safetensors") == 0
    assert _gets(remote, "config.json") == 1
