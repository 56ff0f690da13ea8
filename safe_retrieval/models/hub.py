"""Models from the Hugging Face hub: safetensors, GGUF, configuration and tokenizer files only, never code or pickles.

Files are asked for one by one at a commit and checked afterwards, against the catalog's pins or against the hashes
that the hub itself lists. An unfinished file is named by the hash that it will have, so what came of it is gone on with
in the next call and never joined to the bytes of another commit.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from safe_retrieval.errors import ChecksumError, DownloadError, ModelNotFoundError
from safe_retrieval.models.cache import fault_clears
from safe_retrieval.models.digest import digest_of, is_model_file, sha256_of
from safe_retrieval.models.local import refuse_adapter
from safe_retrieval.models.progress import Reporter, Update
from safe_retrieval.models.record import ModelRecord, PinnedFile
from safe_retrieval.models.transfer import download, transport

UNFINISHED = "hub"
"""Folder of unfinished files inside the area of a download."""

_PROBE_SECONDS = 5.0
"""How long the hub may take to answer at all before the next source is tried."""


class RemoteFile(NamedTuple):
    """A file the hub lists: its size, and the hash the hub names for it (LFS SHA-256, or git blob id)."""

    path: str
    size: int
    sha256: str | None
    blob_id: str | None

    @property
    def unfinished(self) -> str:
        """Name of the file, inside :data:`UNFINISHED`, that holds what came of these bytes so far."""
        return self.sha256 or self.blob_id or hashlib.sha256(self.path.encode()).hexdigest()


class Snapshot(NamedTuple):
    """The model files of a repository at one commit."""

    repo_id: str
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class _Source(NamedTuple):
    """Where files come from: a repository at a revision, its name for the user, and who says what they should be."""

    name: str
    repo_id: str
    revision: str
    authority: str


def pinned_as_remote(files: tuple[PinnedFile, ...]) -> tuple[RemoteFile, ...]:
    """The catalog's files as the hub would list them."""
    return tuple(RemoteFile(file.path, file.size, file.sha256, None) for file in files)


def fetch_pinned(record: ModelRecord, area: Path, files: Path, report: Reporter) -> None:
    """Put the record's pinned files under ``files``, from the hub repository that the record names.

    Files that are there and right are not asked for.

    Raises:
        ModelNotFoundError: the repository or a file is not there, or not open to this user.
        DownloadError: the hub cannot be reached, or the connection broke; what had come is kept.
        ChecksumError: a file is not the pinned one; nothing unfinished is left.
    """
    _probe()
    source = _Source(record.name, record.hub_id, record.hub_revision, "the catalog")
    _fetch(source, pinned_as_remote(record.files), area, files, report)


def list_snapshot(repo_id: str, revision: str) -> Snapshot:
    """The model files of ``repo_id`` at ``revision`` (branch, tag or commit), with the hashes the hub lists.

    Raises:
        ModelNotFoundError: there is no such repository or revision, it is not open to this user, or it holds no
            safetensors weights.
        ModelError: it holds an adapter for a base model.
        DownloadError: the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    _probe()
    with _told(repo_id):
        info = HfApi(endpoint=_endpoint()).model_info(repo_id, revision=revision, files_metadata=True, timeout=30)
    refuse_adapter(f"{repo_id} on the hub", [item.rfilename for item in info.siblings or ()])
    files = tuple(
        RemoteFile(item.rfilename, item.size or 0, item.lfs.sha256 if item.lfs else None, item.blob_id)
        for item in info.siblings or ()
        if is_model_file(item.rfilename)
    )
    if not any(file.path.endswith(".safetensors") for file in files):
        raise ModelNotFoundError(
            f"{repo_id} on the hub holds no safetensors weights, and pickled ones are never loaded; "
            "choose a repository that has model.safetensors (for a GGUF file, download it and give its path)"
        )
    return Snapshot(repo_id, str(info.sha), files)


def fetch_snapshot(snapshot: Snapshot, area: Path, files: Path, report: Reporter) -> None:
    """Put the snapshot's files under ``files``, each checked against the hash that the hub lists.

    Files that are there and right are not asked for.

    Raises:
        ModelNotFoundError: a file is not there, or not open to this user.
        DownloadError: the connection broke; what had come is kept.
        ChecksumError: a file differs from what the hub lists; nothing unfinished is left.
    """
    source = _Source(snapshot.repo_id, snapshot.repo_id, snapshot.commit, "the hub's own listing")
    _fetch(source, snapshot.files, area, files, report)


def _fetch(source: _Source, wanted: tuple[RemoteFile, ...], area: Path, files: Path, report: Reporter) -> None:
    unfinished = area / UNFINISHED
    missing = [file for file in wanted if not _is_right(files / file.path, file)]
    total = sum(file.size for file in wanted)
    done = total - sum(file.size for file in missing)
    with fault_clears(unfinished), _told(source.repo_id), report.bytes(f"{source.name} (hub)", total) as update:
        unfinished.mkdir(parents=True, exist_ok=True)
        for file in missing:
            partial = unfinished / file.unfinished
            _bring(source, file, partial, _after(done, update))
            target = files / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(target)
            done += file.size
    shutil.rmtree(unfinished, ignore_errors=True)


def _after(done: int, update: Update) -> Update:
    """Shows the bytes of one file behind those of the files before it."""
    return lambda came: update(done + came)


def _bring(source: _Source, file: RemoteFile, partial: Path, update: Update) -> None:
    """Make ``partial`` the whole file, going on after what is in it."""
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(source.repo_id, file.path, revision=source.revision, endpoint=_endpoint())
    if file.sha256 is None and file.blob_id is None:
        partial.unlink(missing_ok=True)  # without a hash nobody could say whether two halves belong together
    # What an earlier call left may be wrong (a machine that lost power leaves zeros): then once more, from the start.
    for _ in range(2 if partial.exists() else 1):
        download(url, partial, file.size, update)
        if _is_right(partial, file):
            return
        came = digest_of(partial)
        partial.unlink()
    expected = f"SHA-256 {file.sha256}" if file.sha256 is not None else f"the git blob id {file.blob_id}"
    raise ChecksumError(
        f"{file.path} of {source.repo_id} on the hub is not what {source.authority} names: expected {file.size:,} "
        f"bytes with {expected}, got {came.size:,} bytes with SHA-256 {came.sha256}; pull it again, and if that does "
        "not help, look at what stands between the hub and this machine: a mirror (HF_ENDPOINT) or a proxy"
    )


def _is_right(path: Path, file: RemoteFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    if file.sha256 is not None:
        return sha256_of(path) == file.sha256
    content = path.read_bytes()  # no LFS entry: a small text file, named by its git blob id
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return file.blob_id is None or blob.hexdigest() == file.blob_id


def _endpoint() -> str:
    """The hub's address, or that of the user's mirror: ``HF_ENDPOINT`` as it is now, not as it was at import."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT


def _probe() -> None:
    """Ask the hub for one answer, so that a machine that cannot reach it goes on to the next source in seconds."""
    try:
        httpx.head(_endpoint(), timeout=_PROBE_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadError(f"the hub does not answer ({type(error).__name__}: {error})") from error


@contextmanager
def _told(repo_id: str) -> Iterator[None]:
    """Turn what the hub's library raises into this package's errors."""
    from huggingface_hub import errors

    try:
        with _without_telemetry():
            yield
    except errors.GatedRepoError as error:
        raise ModelNotFoundError(
            f"{repo_id} is gated on the hub: ask for access on its page, then log in with `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise ModelNotFoundError(f"the hub does not offer {repo_id} to you ({_first_line(error)})") from error
    except errors.HFValidationError as error:
        raise ModelNotFoundError(f"{repo_id!r} is not a name that the hub could know ({_first_line(error)})") from error
    except (errors.HfHubHTTPError, transport().HTTPError) as error:
        raise DownloadError(f"the hub did not deliver {repo_id} ({_first_line(error)})") from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise DownloadError(f"the hub did not deliver {repo_id} ({_first_line(error)})") from error


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """The hub is told what is wanted and nothing about this machine.

    Otherwise the library also asks its own address, and not the mirror's, which program it might be running under.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True  # read at import from the environment, so setting that comes too late
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
