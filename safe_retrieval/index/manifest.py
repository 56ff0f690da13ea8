"""``manifest.json``: what an index folder holds, who may ask it, and the hashes that prove it is whole.

The manifest is the last file that a build or a change writes, and it is replaced atomically: the files it names are the
index, and whatever else lies in the folder is not. It is stored in one canonical form with a checksum of its own, so a
change of any byte of it shows.

An index is a sequence of *segments*: files that are written once and never changed. A build makes one segment; what is
added later comes in segments of its own, and what is deleted is named in a file of positions beside the segment.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol

import xxhash

from safe_retrieval.errors import IndexFolderError, IndexFormatError
from safe_retrieval.index.settings import SearchSettings
from safe_retrieval.models.digest import sha256_of

MANIFEST_NAME = "manifest.json"
PARTIAL_MANIFEST = f".{MANIFEST_NAME}.partial"
"""The manifest, and what it is called until it is written whole and moved into place."""

BUILD_FOLDER = ".building"
"""Where an unfinished build lies, inside the index folder: there, moving a file into place is always one step."""

FORMAT = "safe-retrieval index"
"""By which a manifest is known as one of ours."""

FORMAT_VERSION = 4
"""Older ones are read as well: 1 had exactly one segment and no deletions, 2 no settings of the search, 3 no XXH3."""

_BLOCK_BYTES = 1 << 18
"""Read at once; a larger block leaves the processor's cache between being read and being hashed."""
_MEND = "restore it from a copy, or build the index again"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of an index.

    Attributes:
        name: inside the folder.
        size: in bytes.
        sha256: in lower-case hex; names the file, and is what a full verification compares.
        xxh3: XXH3 of 128 bits in lower-case hex, computed several times as fast, which an opening compares; ``None`` in
            folders of a format before 4. Neither hash is a signature: who can alter a file can alter the manifest.
    """

    name: str
    size: int
    sha256: str
    xxh3: str | None = None


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """A run of documents and their vectors.

    Attributes:
        count: documents in its files, deleted ones included; at least 1.
        vectors: the FAISS file.
        documents: the SQLite file.
        factory: FAISS's name for the kind of index in ``vectors``.
        originals: the file of vectors as they were given, where ``vectors`` holds codes.
        deleted: the file of positions that are deleted, or ``None`` if none is.
        deleted_count: how many those are.
    """

    count: int
    vectors: FileRecord
    documents: FileRecord
    factory: str = "Flat"
    originals: FileRecord | None = None
    deleted: FileRecord | None = None
    deleted_count: int = 0

    @property
    def live(self) -> int:
        """Documents that are not deleted."""
        return self.count - self.deleted_count

    def files(self) -> tuple[FileRecord, ...]:
        """The files of this segment."""
        given = (self.vectors, self.documents, self.originals, self.deleted)
        return tuple(record for record in given if record is not None)


@dataclass(frozen=True, slots=True)
class EncoderRecord:
    """The encoder of the documents.

    Attributes:
        name: a name that ``load_document_encoder`` understands, where it is one of those.
        space: fingerprint of the vector space; an encoder with another one is refused.
        prompts: text put before a ``query`` or a ``document``, as far as the encoder has such.
    """

    name: str
    space: str
    prompts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """How the index was made.

    Attributes:
        created: UTC, ISO 8601.
        seconds: wall time of the run that finished the build; of a build in shards, of its last step.
        shards: number of shards that were encoded.
        reused_shards: how many of them an earlier, interrupted run had left.
        shard_size: documents in a shard.
        versions: of Python and of the libraries that wrote files.
    """

    created: str
    seconds: float
    shards: int
    reused_shards: int
    shard_size: int
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class IndexManifest:
    """What an index folder holds.

    Attributes:
        encoder: who made the vectors.
        dimension: length of a vector.
        count: number of documents that can be found; those that were deleted do not count.
        segments: where documents and vectors are, in the order of their positions.
        build: how it was made.
        metric: inner product of unit vectors.
        factory: FAISS's name for the kind of index that a build or a compaction makes.
        format_version: version of this format.
        search: how much of segments of that kind a search looks at; ``None`` leaves it to the kind's own rule.
    """

    encoder: EncoderRecord
    dimension: int
    count: int
    segments: tuple[SegmentRecord, ...]
    build: BuildRecord
    metric: Literal["cosine"] = "cosine"
    factory: str = "Flat"
    format_version: int = FORMAT_VERSION
    search: SearchSettings | None = None

    def to_json(self) -> str:
        """The canonical text, with the checksum over everything else in it."""
        return _signed({"format": FORMAT, **asdict(self)})

    def write(self, folder: Path) -> None:
        """Put the manifest into ``folder``, in the place of the one that is there; readers see one or the other."""
        partial = folder / PARTIAL_MANIFEST
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(self.to_json())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(folder / MANIFEST_NAME)
        sync_folder(folder)

    def files(self) -> tuple[FileRecord, ...]:
        """The files that make up the index, besides the manifest."""
        return tuple(record for segment in self.segments for record in segment.files())


def read_manifest(folder: Path) -> IndexManifest:
    """Read and check the manifest of an index folder.

    Raises:
        IndexFolderError: there is no index at ``folder``.
        IndexFormatError: the manifest is damaged, altered, or of an unknown version.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_bytes().decode("utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IndexFolderError(_why_missing(folder)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise IndexFormatError(f"{path} cannot be read: {error}; {_MEND}") from error
    fields = _parse(text, path)
    try:
        manifest = _from_fields(fields)
        whole = _signed(fields) == text
    except (KeyError, TypeError, ValueError) as error:
        raise IndexFormatError(f"{path} is damaged ({error}); {_MEND}") from error
    if not whole:
        raise IndexFormatError(f"{path} is damaged or was altered; {_MEND}")
    return manifest


def _why_missing(folder: Path) -> str:
    if (folder / BUILD_FOLDER).exists():
        return f"{folder} holds an unfinished build and no index; run the same build again, it goes on where it stopped"
    return f"there is no index at {folder} (no {MANIFEST_NAME}); make one with: safe-retrieval index build CORPUS OUT"


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more digits than Python reads
        raise IndexFormatError(f"{path} is damaged ({error}); {_MEND}") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise IndexFormatError(f"{path}: expected the manifest of a {FORMAT!r}, got something else")
    version = fields.get("format_version")
    if version not in range(1, FORMAT_VERSION + 1):
        raise IndexFormatError(
            f"{path}: expected a format version from 1 to {FORMAT_VERSION}, got {version!r}; open it with the "
            "version of safe-retrieval that wrote it, or build the index again"
        )
    return fields


def _from_fields(fields: dict[str, Any]) -> IndexManifest:
    """The dataclass; types are not checked one by one, since the checksum vouches for what we wrote ourselves."""
    values = {name: value for name, value in fields.items() if name not in {"format", "sha256", "format_version"}}
    if fields["format_version"] == 1:
        files = {role: values.pop(role) for role in ("vectors", "documents")}
        values["segments"] = [{"count": values["count"], **files}]
    values["encoder"] = EncoderRecord(**values["encoder"])
    values["build"] = BuildRecord(**values["build"])
    values["segments"] = tuple(_segment(segment) for segment in values["segments"])
    if values.get("search") is not None:
        values["search"] = SearchSettings(**values["search"])
    manifest = IndexManifest(**values)
    live = sum(segment.live for segment in manifest.segments)
    if live != manifest.count:
        raise ValueError(f"its segments hold {live} documents, it says {manifest.count}")
    return manifest


def _segment(fields: Mapping[str, Any]) -> SegmentRecord:
    files: dict[str, FileRecord | None] = {role: _file(fields[role]) for role in ("vectors", "documents")}
    for role in ("originals", "deleted"):
        files[role] = None if fields.get(role) is None else _file(fields[role])
    return SegmentRecord(**{**fields, **files})


def _file(fields: Mapping[str, Any]) -> FileRecord:
    record = FileRecord(**fields)
    # A manifest from elsewhere must not make us read, or a later build delete, files outside the folder.
    if not _FILE_NAME.fullmatch(record.name):
        raise ValueError(f"{record.name!r} is not the name of a file in the folder")
    return record


def _signed(fields: Mapping[str, Any]) -> str:
    """The canonical text of a manifest, with the checksum over everything else in it."""
    body = {name: value for name, value in fields.items() if name != "sha256"}
    return _canonical({**body, "sha256": hashlib.sha256(_canonical(body).encode()).hexdigest()})


def _canonical(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"


def record_file(path: Path) -> FileRecord:
    """Size and hashes of a file as it is now."""
    sha256, xxh3 = hashlib.sha256(), xxhash.xxh3_128()
    _feed(path, sha256, xxh3)
    return FileRecord(path.name, path.stat().st_size, sha256.hexdigest(), xxh3.hexdigest())


def file_xxh3(path: Path) -> str:
    """XXH3 of 128 bits of a file in lower-case hex."""
    digest = xxhash.xxh3_128()
    _feed(path, digest)
    return digest.hexdigest()


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...


def _feed(path: Path, *hashes: _Hash) -> None:
    """Have hashes take in a file, which is read once."""
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            for each in hashes:
                each.update(block[:count])


class Check(Enum):
    """How closely a file is compared with its record."""

    SIZE = "size"
    """Nothing of it is read."""
    OPENING = "opening"
    """Every byte, by the faster hash: damage shows."""
    FULL = "full"
    """Every byte, by both hashes."""


def check_file(folder: Path, record: FileRecord, check: Check) -> Path:
    """The path of a file that is as its record says.

    Args:
        folder: the index folder.
        record: what is expected; where it has no XXH3, an opening compares SHA-256.
        check: how closely it is compared.

    Raises:
        IndexFormatError: the file is missing, truncated or altered.
    """
    path = folder / record.name
    try:
        size = path.stat().st_size
        if size != record.size:
            raise IndexFormatError(f"{path}: expected {record.size} bytes, got {size}; {_MEND}")
        if check is not Check.SIZE and not _has_bytes_of(record, path, check):
            raise IndexFormatError(f"{path}: its bytes are not those that were written (another hash); {_MEND}")
    except OSError as error:
        raise IndexFormatError(f"{path} is missing or cannot be read ({error.strerror}); {_MEND}") from error
    return path


def _has_bytes_of(record: FileRecord, path: Path, check: Check) -> bool:
    if record.xxh3 is None:
        return sha256_of(path) == record.sha256
    if check is Check.OPENING:
        return file_xxh3(path) == record.xxh3
    found = record_file(path)
    return (found.sha256, found.xxh3) == (record.sha256, record.xxh3)


def sync_file(path: Path) -> None:
    """Make the bytes of a finished file survive a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make names that were just put into ``folder`` survive a power cut, where the system can."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
