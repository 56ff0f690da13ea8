"""What the cache holds: listing it, verifying it to the byte, and making room."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from filelock import FileLock, Timeout

from safe_retrieval.errors import ModelError, ModelNotFoundError
from safe_retrieval.models import catalog
from safe_retrieval.models.cache import MANIFEST_NAME, Fault, Manifest, Slot, cache_home, faults, memory_of
from safe_retrieval.models.digest import FileDigest, size_under
from safe_retrieval.models.fetch import slot_of
from safe_retrieval.models.record import ModelRecord


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model in the cache.

    Attributes:
        name: catalog name, hub id, or name of the GGUF file.
        slot: its place in the cache.
        size_bytes: room its folder takes.
        manifest: ``None`` where it cannot be read.
    """

    name: str
    slot: Slot
    size_bytes: int
    manifest: Manifest | None


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of hashing a model's files; it is sound when ``faults`` is empty."""

    name: str
    folder: Path
    files: int
    faults: tuple[Fault, ...]


class PrunedKind(StrEnum):
    """What was removed."""

    PARTIAL = "partial"
    """An unfinished download."""
    MODEL = "model"
    """A finished model."""
    IN_USE = "in use"
    """Nothing: another process is filling the slot."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """One thing that :func:`prune` looked at, and the bytes it freed."""

    key: str
    kind: PrunedKind
    freed_bytes: int


def installed() -> tuple[InstalledModel, ...]:
    """The models in the cache, sound or not, by name."""
    folders = (path for path in (cache_home() / "models").glob("*") if path.is_dir())
    return tuple(sorted(map(_look, folders), key=lambda model: model.name))


def _look(folder: Path) -> InstalledModel:
    try:
        manifest = Manifest.read(folder)
    except ModelError:
        manifest = None
    return InstalledModel(manifest.name if manifest else folder.name, Slot(folder.name), size_under(folder), manifest)


def verify(name: str) -> Verification:
    """Hash every file of an installed model.

    Args:
        name: catalog name, hub id, key of a slot, or a folder that this package installed.

    Raises:
        ModelNotFoundError: the cache holds no such model.
    """
    record = catalog.find(name)
    folder = _installed_folder(name)
    try:
        manifest = Manifest.read(folder)
    except ModelError as error:
        return Verification(name, folder, 0, (Fault(MANIFEST_NAME, f"cannot be used: {error}"),))
    found = tuple(faults(folder, manifest, thorough=True))
    if record is not None:
        found += tuple(_off_the_catalog(record, manifest))
    return Verification(manifest.name, folder, len(manifest.files), found)


def _off_the_catalog(record: ModelRecord, manifest: Manifest) -> Iterator[Fault]:
    """Where manifest and files agree with each other but not with the catalog."""
    if manifest.fingerprint != record.fingerprint:
        yield Fault(MANIFEST_NAME, f"names {manifest.fingerprint}, and the catalog {record.fingerprint}")
    if record.is_gguf:
        return  # what was unpacked depends on library versions: the manifest alone knows its hashes
    for file in record.files:
        if manifest.files.get(file.path) != FileDigest(file.size, file.sha256):
            yield Fault(file.path, f"is not the file the catalog names, SHA-256 {file.sha256}")


def _installed_folder(name: str) -> Path:
    candidates = (slot_of(name).folder, Slot(name).folder if "/" not in name else None, Path(name).expanduser())
    for folder in candidates:
        if folder is not None and (folder / MANIFEST_NAME).is_file():
            return folder
    if (folder := slot_of(name).folder).is_dir():
        return folder
    raise ModelNotFoundError(
        f"{name} is not in the cache ({cache_home()}); pull it first: safe-retrieval models pull {name}"
    )


def prune(names: Iterable[str] = (), *, everything: bool = False) -> tuple[Pruned, ...]:
    """Make room: remove unfinished downloads, the models ``names``, and with ``everything`` all models.

    A slot that another process is filling is left alone.

    Raises:
        ModelNotFoundError: the cache holds no model of one of the names; nothing has been removed.
    """
    wanted = {_installed_folder(name) for name in names}
    outside = [str(folder) for folder in wanted if folder.parent != cache_home() / "models"]
    if outside:
        raise ModelNotFoundError(f"{outside[0]} lies outside the cache, and only models in the cache are pruned")
    models = cache_home() / "models"
    keys = {folder.name for folder in (cache_home() / "partial").glob("*")} | {folder.name for folder in wanted}
    if everything:
        keys |= {folder.name for folder in models.glob("*")}
        shutil.rmtree(cache_home() / "fingerprints", ignore_errors=True)
    removable = {key for key in keys if everything or models / key in wanted}
    return tuple(pruned for key in sorted(keys) for pruned in _prune_slot(Slot(key), model=key in removable))


def _prune_slot(slot: Slot, *, model: bool) -> Iterator[Pruned]:
    lock = FileLock(slot.lock_path)
    try:
        slot.lock_path.parent.mkdir(parents=True, exist_ok=True)
        with lock.acquire(timeout=0):
            if slot.area.is_dir():
                yield Pruned(slot.key, PrunedKind.PARTIAL, _remove(slot.area))
            if model and slot.folder.is_dir():
                memory_of(slot.folder).unlink(missing_ok=True)
                yield Pruned(slot.key, PrunedKind.MODEL, _remove(slot.folder))
    except Timeout:
        yield Pruned(slot.key, PrunedKind.IN_USE, 0)


def _remove(folder: Path) -> int:
    size = size_under(folder)
    shutil.rmtree(folder)
    return size
