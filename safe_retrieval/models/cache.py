"""The cache on disk: where models lie, how a finished one gets there, and how it is checked.

    HOME/models/<slot>/             a finished model, with ``safe-retrieval.json``, its manifest
    HOME/partial/<slot>/            what has come so far; survives a cut, and the next call goes on from it
    HOME/locks/<slot>.lock          held by the process that fills the slot
    HOME/fingerprints/<key>.json    hashes of weights and of folders outside the cache, kept until a file changes

A folder appears under ``models/`` by one rename, complete, or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs
from filelock import FileLock, Timeout

from safe_retrieval.errors import ChecksumError, DiskFullError, DownloadError, ModelError
from safe_retrieval.models.digest import FileDigest, digest_of, sha256_of, size_under
from safe_retrieval.models.memory import remember, remembered
from safe_retrieval.models.progress import Reporter
from safe_retrieval.models.record import ModelKind

MANIFEST_NAME = "safe-retrieval.json"
MANIFEST_VERSION = 1
"""File name and format version of what lies in each installed folder and names its files."""

_SMALL = 16 << 20
"""Files up to this size are hashed on every start: configuration and tokenizers, in a few hundredths of a second.

Larger ones are hashed once for each size, time and inode they have had.
"""


def cache_home() -> Path:
    """The folder everything downloaded lies under: ``SAFE_RETRIEVAL_HOME``, else the platform's user cache folder."""
    chosen = os.environ.get("SAFE_RETRIEVAL_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("safe-retrieval", appauthor=False))


def memory_of(path: Path) -> Path:
    """Where the hashes of a folder or file are remembered: outside it, because it may be read-only."""
    key = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return cache_home() / "fingerprints" / f"{key}.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was installed: written last, beside the files it names.

    Attributes:
        name: catalog name, hub id, or name of the GGUF file.
        kind: ``None`` where it is not known.
        fingerprint: the model's identity, ``"sha256:<64 hex>"``.
        source: where the bytes came from, for people.
        created_with: versions of the libraries that took part.
        files: size and SHA-256 by POSIX path inside the folder.
    """

    name: str
    kind: ModelKind | None
    fingerprint: str
    source: str
    created_with: Mapping[str, str]
    files: Mapping[str, FileDigest]

    def write(self, folder: Path) -> None:
        """Write the manifest into ``folder``."""
        document = {"format_version": MANIFEST_VERSION, **asdict(self)}
        document["files"] = {path: digest._asdict() for path, digest in sorted(self.files.items())}
        (folder / MANIFEST_NAME).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of ``folder``.

        Raises:
            ModelError: it is missing, broken, or of a version this release does not know; the message names the file.
        """
        path = folder / MANIFEST_NAME
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            version = document["format_version"]
            if version != MANIFEST_VERSION:
                raise ModelError(
                    f"{path} has format version {version}, expected {MANIFEST_VERSION}: "
                    "it was written by another release; remove the folder and pull the model again"
                )
            return cls(
                name=document["name"],
                kind=ModelKind(document["kind"]) if document["kind"] else None,
                fingerprint=document["fingerprint"],
                source=document["source"],
                created_with=document["created_with"],
                files={path: FileDigest(**digest) for path, digest in document["files"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} cannot be read ({type(error).__name__}: {error}); {_mend(folder)}") from error


_OTHER_BYTES = "has other bytes than were installed: its SHA-256 differs"


class Fault(NamedTuple):
    """One file that is not as installed: POSIX path inside the folder, and what is wrong with it."""

    path: str
    problem: str


def faults(folder: Path, manifest: Manifest, *, thorough: bool) -> Iterator[Fault]:
    """Files of ``folder`` that differ from the manifest.

    Presence and size of every file are looked at, and the bytes of small ones. Large ones are hashed if they changed
    since the last time, by size, time or inode, and with ``thorough`` in any case.
    """
    large = []
    for relative, expected in manifest.files.items():
        path = folder / relative
        if not path.is_file():
            yield Fault(relative, "is missing")
        elif (size := path.stat().st_size) != expected.size:
            yield Fault(relative, f"has {size:,} bytes, expected {expected.size:,}")
        elif size > _SMALL:
            large.append(relative)
        elif sha256_of(path) != expected.sha256:
            yield Fault(relative, _OTHER_BYTES)
    if large:
        found = remembered(folder, large, memory_of(folder), afresh=thorough)
        yield from (Fault(name, _OTHER_BYTES) for name in large if found[name] != manifest.files[name])


def checked_manifest(folder: Path, *, thorough: bool = False) -> Manifest:
    """The manifest of a folder whose files are as installed.

    Raises:
        ChecksumError: a file is missing, truncated or altered; the message names it.
        ModelError: the manifest itself cannot be read.
    """
    manifest = Manifest.read(folder)
    for fault in faults(folder, manifest, thorough=thorough):
        raise ChecksumError(f"{folder / fault.path} {fault.problem}; {_mend(folder)}")
    return manifest


def _mend(folder: Path) -> str:
    return f"to mend it, pull the model again: safe-retrieval models pull --again NAME (or remove {folder})"


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one model in the cache."""

    key: str

    @property
    def folder(self) -> Path:
        """Where the finished model lies."""
        return cache_home() / "models" / self.key

    @property
    def area(self) -> Path:
        """Where it is put together."""
        return cache_home() / "partial" / self.key

    @property
    def lock_path(self) -> Path:
        """The lock of whoever fills or empties it."""
        return cache_home() / "locks" / f"{self.key}.lock"

    @contextmanager
    def filling(self, report: Reporter) -> Iterator[Path]:
        """Hold the slot's lock; yields :attr:`area`, made if it was not there. A second process waits, and says so.

        An area without a byte in it is removed in the end, whatever the outcome.

        Raises:
            DiskFullError: the disk filled up meanwhile; the area has been removed.
            ModelError: the cache cannot be written.
        """
        lock = FileLock(self.lock_path)
        try:
            self.lock_path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                report.say(f"{self.key}: another process is fetching it; waiting")
                lock.acquire()
            self.area.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(
                f"the cache folder {cache_home()} cannot be written ({error}); "
                "set SAFE_RETRIEVAL_HOME to a folder of yours"
            ) from error
        try:
            with disk_full_clears(self.area):
                yield self.area
        finally:
            if not size_under(self.area):
                shutil.rmtree(self.area, ignore_errors=True)
            lock.release()

    def publish(self, finished: Path, files: Mapping[str, FileDigest]) -> None:
        """Move a finished folder, whose ``files`` have just been hashed, to :attr:`folder` by one rename.

        The area is removed, and the hashes of large files remembered, so that the first start computes none.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if self.folder.exists():  # one that is being replaced: out of the way by a rename, so the gap is short
            self.folder.replace(self.area / "replaced")
        finished.replace(self.folder)
        if large := {name: digest for name, digest in files.items() if digest.size > _SMALL}:
            remember(self.folder, large, memory_of(self.folder))
        shutil.rmtree(self.area, ignore_errors=True)


@contextmanager
def disk_full_clears(area: Path) -> Iterator[None]:
    """Turn "no space left" into :class:`DiskFullError`, after removing ``area`` so that nothing half-written stays."""
    try:
        yield
    except DiskFullError:
        shutil.rmtree(area, ignore_errors=True)
        raise
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        shutil.rmtree(area, ignore_errors=True)
        raise DiskFullError(
            f"the disk under {cache_home()} is full; what had come so far has been removed. "
            "Free some room, or set SAFE_RETRIEVAL_HOME to a folder on a larger disk"
        ) from error


@contextmanager
def fault_clears(*paths: Path) -> Iterator[None]:
    """Remove ``paths`` after an error that doing the same again cannot mend; a cut leaves them, to be gone on with."""
    try:
        yield
    except DownloadError:
        raise
    except ModelError:
        for path in paths:
            _remove(path)
        raise


def tidy(area: Path, expected: Mapping[str, int]) -> int:
    """Remove from ``area`` what the work at hand cannot use, and return how many bytes of use are left.

    Args:
        area: of :class:`Slot`.
        expected: largest size by POSIX path inside the area. A file of another name, left by a killed process or
            another commit, goes, and so does one that is larger.
    """
    for path in [path for path in area.rglob("*") if not path.is_dir() or path.is_symlink()]:
        if path.lstat().st_size > expected.get(path.relative_to(area).as_posix(), -1):
            path.unlink()
    return size_under(area)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def need_room(area: Path, needed: int, what: str) -> None:
    """Look before starting whether ``needed`` more bytes fit.

    Raises:
        DiskFullError: they do not; nothing has been written.
    """
    free = shutil.disk_usage(area).free
    if free < needed:
        raise DiskFullError(
            f"{what} needs {needed / 1e6:,.0f} MB under {cache_home()}, and {free / 1e6:,.0f} MB are free; "
            "free some room, or set SAFE_RETRIEVAL_HOME to a folder on a larger disk"
        )


def digests(folder: Path) -> dict[str, FileDigest]:
    """Size and SHA-256 of every file under ``folder`` but the manifest, by POSIX path."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
    return {path.relative_to(folder).as_posix(): digest_of(path) for path in found}
