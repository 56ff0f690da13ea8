"""Models from the Hugging Face hub: safetensors, GGUF, configuration and tokenizer files only, never code or pickles.

Files are asked for one by one at a commit and checked afterwards, against the catalog's pins or against the hashes
that the hub itself lists. ``snapshot_download`` is not used: with a folder as its target it returns what is there,
complete or not, when the hub cannot be reached.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from safe_retrieval.errors import ChecksumError, DownloadError, ModelNotFoundError
from safe_retrieval.models.digest import is_model_file, sha256_of
from safe_retrieval.models.progress import Reporter
from safe_retrieval.models.record import ModelRecord

_PROBE_SECONDS = 5.0
"""How long the hub may take to answer at all before the next source is tried."""


class RemoteFile(NamedTuple):
    """A file the hub lists: its size, and the hash the hub names for it (LFS SHA-256, or git blob id)."""

    path: str
    size: int
    sha256: str | None
    blob_id: str | None


class Snapshot(NamedTuple):
    """The model files of a repository at one commit."""

    repo_id: str
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def fetch_pinned(record: ModelRecord, area: Path, files: Path, report: Reporter) -> None:
    """Put the record's pinned files under ``files``, from the hub repository that the record names.

    Raises:
        ModelNotFoundError: the repository or a file is not there, or not open to this user.
        DownloadError: the hub cannot be reached, or the connection broke; what had come is kept.
        ChecksumError: a file is not the pinned one; it has been removed.
    """
    _probe()
    with _told(record.hub_id), _download_area(area) as downloads:
        for file in record.files:
            report.say(f"{record.name}: {file.path} from the hub ({file.size / 1e6:,.1f} MB)")
            path = _download(record.hub_id, file.path, record.hub_revision, downloads, report)
            if (came := sha256_of(path)) != file.sha256:
                size = path.stat().st_size
                shutil.rmtree(downloads)
                raise ChecksumError(
                    f"{file.path} of {record.hub_id} on the hub is not what the catalog names: expected "
                    f"{file.size:,} bytes with SHA-256 {file.sha256}, got {size:,} bytes with SHA-256 {came}"
                )
            (files / file.path).parent.mkdir(parents=True, exist_ok=True)
            path.replace(files / file.path)


def list_snapshot(repo_id: str, revision: str) -> Snapshot:
    """The model files of ``repo_id`` at ``revision`` (branch, tag or commit), with the hashes the hub lists.

    Raises:
        ModelNotFoundError: there is no such repository or revision, it is not open to this user, or it holds no
            safetensors weights.
        DownloadError: the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    _probe()
    with _told(repo_id):
        info = HfApi(endpoint=_endpoint()).model_info(repo_id, revision=revision, files_metadata=True, timeout=30)
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

    Raises:
        DownloadError: the connection broke; what had come is kept.
        ChecksumError: a file differs from what the hub lists; it has been removed.
    """
    with _told(snapshot.repo_id), _download_area(area) as downloads:
        for file in snapshot.files:
            target = files / file.path
            if target.is_file() and _is_listed(target, file):
                continue
            report.say(f"{snapshot.repo_id}: {file.path} ({file.size / 1e6:,.1f} MB)")
            path = _download(snapshot.repo_id, file.path, snapshot.commit, downloads, report)
            if not _is_listed(path, file):
                shutil.rmtree(downloads)
                raise ChecksumError(
                    f"{file.path} of {snapshot.repo_id} differs from the hash that the hub lists for it"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


def _is_listed(path: Path, file: RemoteFile) -> bool:
    if path.stat().st_size != file.size:
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
def _download_area(area: Path) -> Iterator[Path]:
    """Where the hub's library downloads to; unfinished files stay in it and are resumed."""
    downloads = area / "hub"
    downloads.mkdir(parents=True, exist_ok=True)
    yield downloads
    shutil.rmtree(downloads, ignore_errors=True)


def _download(repo_id: str, filename: str, revision: str, downloads: Path, report: Reporter) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(
            repo_id,
            filename,
            revision=revision,
            local_dir=downloads,
            endpoint=_endpoint(),
            tqdm_class=None if report.enabled else _silent_bar(),
        )
    )


def _silent_bar() -> type[Any]:
    """The hub library's bar, switched off for one download and not for the whole process."""
    from huggingface_hub.utils import tqdm

    def switched_off(self: Any, *args: Any, **kwargs: Any) -> None:
        tqdm.__init__(self, *args, **{**kwargs, "disable": True})

    return type("Silent", (tqdm,), {"__init__": switched_off})


@contextmanager
def _told(repo_id: str) -> Iterator[None]:
    """Turn what the hub's library raises into this package's errors."""
    from huggingface_hub import errors, get_session

    # The library moved from httpx to httpx2; its session says which of the two this release raises errors of.
    transport = importlib.import_module(type(get_session()).__module__.partition(".")[0])
    try:
        with _without_telemetry():
            yield
    except errors.GatedRepoError as error:
        raise ModelNotFoundError(
            f"{repo_id} is gated on the hub: ask for access on its page, then log in with `hf auth login`"
        ) from error
    except errors.LocalEntryNotFoundError as error:  # the library's word for "neither on disk nor reachable"
        raise DownloadError(f"the hub did not deliver {repo_id} ({_first_line(error)})") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise ModelNotFoundError(f"the hub does not offer {repo_id} to you ({_first_line(error)})") from error
    except errors.HFValidationError as error:
        raise ModelNotFoundError(f"{repo_id!r} is not a name that the hub could know ({_first_line(error)})") from error
    except (errors.HfHubHTTPError, transport.HTTPError) as error:
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
