from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import xxhash

from safe_retrieval.errors import IndexFolderError, IndexFormatError
from safe_retrieval.index.manifest import (
    BuildRecord,
    Check,
    EncoderRecord,
    FileRecord,
    IndexManifest,
    SegmentRecord,
    check_file,
    read_manifest,
    record_file,
)

MANIFEST = IndexManifest(
    encoder=EncoderRecord("some-encoder", "sha256:5", {"query": "query: ", "document": "passage: ü"}),
    dimension=384,
    count=3,
    segments=(
        SegmentRecord(
            2,
            FileRecord("vectors-0.faiss", 10, "ab" * 32, "12" * 16),
            FileRecord("documents-0.sqlite", 20, "cd" * 32, "34" * 16),
        ),
        SegmentRecord(
            2,
            FileRecord("vectors-1.faiss", 10, "ab" * 32),
            FileRecord("documents-1.sqlite", 20, "cd" * 32),
            deleted=FileRecord("deleted-1.npy", 136, "ef" * 32),
            deleted_count=1,
        ),
    ),
    build=BuildRecord("2026-11-25T00:00:00+00:00", 1.5, 1, 0, 2_048, {"python": "3.11.7"}),
)
# Pinned: indexes that people have must stay readable.
PINNED_SHA256 = "587814203119dcc0efd6eca1b66cc5600f25c46249e4b7c621116193850774fb"
PINNED_SHA256_OF_VERSION_3 = "d353025ea7fb56f4a2c6510221bd4ef13b3bf044408a12d79f129051abdeb87a"


FILE = {"name": "data", "size": 1, "sha256": ""}
SEGMENT = {"count": 3, "vectors": FILE, "documents": FILE}


def signed(fields: dict[str, Any]) -> str:
    """A manifest as its writer would sign it, whatever it says."""

    def canonical(value: dict[str, Any]) -> str:
        return json.dumps(value, indent=2, sort_keys=True) + "\n"

    body = {name: value for name, value in fields.items() if name != "sha256"}
    return canonical({**body, "sha256": hashlib.sha256(canonical(body).encode()).hexdigest()})


def test_round_trip_and_pinned_form(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    assert read_manifest(tmp_path) == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    text = (tmp_path / "manifest.json").read_text()
    assert json.loads(text)["format"] == "safe-retrieval index"
    assert signed(json.loads(text)) == text
    assert hashlib.sha256(text.encode()).hexdigest() == PINNED_SHA256


def test_writing_replaces(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    replace(MANIFEST, dimension=3).write(tmp_path)
    assert read_manifest(tmp_path).dimension == 3


def test_flipped_bits_and_cuts_are_noticed_everywhere(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    damaged = [whole[:n] for n in range(0, len(whole), 11)]
    damaged += [whole[:n] + bytes([whole[n] ^ (1 << n % 8)]) + whole[n + 1 :] for n in range(0, len(whole), 3)]
    damaged += [whole + b" ", b"", b"null", b"[]", b"[" * 100_000, b"\xff\xfe"]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(IndexFormatError, match=r"manifest\.json"):
            read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 5}, "expected a format version from 1 to 4, got 5"),
        ({"format": "something else"}, "something else"),
        ({"surprise": 1}, "surprise"),
        ({"segments": [{**SEGMENT, "vectors": {**FILE, "name": "../outside.faiss"}}]}, "not the name of a file"),
        ({"segments": [{**SEGMENT, "documents": {**FILE, "name": ".hidden"}}]}, "not the name of a file"),
        ({"segments": [{**SEGMENT, "deleted": {**FILE, "name": "a/b"}}]}, "not the name of a file"),
        ({"count": 7}, "hold 3 documents, it says 7"),
        ({"encoder": "a name"}, "damaged"),
    ],
)
def test_a_well_signed_manifest_must_still_make_sense(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "manifest.json").write_text(signed({**json.loads(MANIFEST.to_json()), **change}))
    with pytest.raises(IndexFormatError, match=message):
        read_manifest(tmp_path)


def test_version_1_is_read(tmp_path: Path) -> None:
    fields = {**json.loads(MANIFEST.to_json()), "format_version": 1, "count": 2, "factory": "Flat"}
    (first, _) = fields.pop("segments")
    fields.update({role: first[role] for role in ("vectors", "documents")})
    (tmp_path / "manifest.json").write_text(signed(fields))
    assert read_manifest(tmp_path) == replace(MANIFEST, count=2, segments=MANIFEST.segments[:1])
    (tmp_path / "manifest.json").write_text(signed(fields).replace('"count": 2', '"count": 3'))
    with pytest.raises(IndexFormatError, match="altered"):
        read_manifest(tmp_path)


def test_version_3_had_no_xxh3(tmp_path: Path) -> None:
    fields = {**json.loads(MANIFEST.to_json()), "format_version": 3}
    for segment in fields["segments"]:
        for file in filter(None, (segment[role] for role in ("vectors", "documents", "originals", "deleted"))):
            del file["xxh3"]
    text = signed(fields)
    assert hashlib.sha256(text.encode()).hexdigest() == PINNED_SHA256_OF_VERSION_3
    (tmp_path / "manifest.json").write_text(text)
    read = read_manifest(tmp_path)
    assert {record.xxh3 for record in read.files()} == {None}
    assert [record.sha256 for record in read.files()] == [record.sha256 for record in MANIFEST.files()]


def test_no_index(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(IndexFolderError, match="there is no index"):
            read_manifest(path)
    (tmp_path / ".building").mkdir()
    with pytest.raises(IndexFolderError, match="unfinished build"):
        read_manifest(tmp_path)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"abc")
    record = record_file(path)
    assert record == FileRecord("data", 3, hashlib.sha256(b"abc").hexdigest(), xxhash.xxh3_128(b"abc").hexdigest())
    older = replace(record, xxh3=None)
    for check in Check:
        assert check_file(tmp_path, record, check) == check_file(tmp_path, older, check) == path
    path.write_bytes(b"abd")
    assert check_file(tmp_path, record, Check.SIZE) == path
    for check, given in product((Check.OPENING, Check.FULL), (record, older)):
        with pytest.raises(IndexFormatError, match=r"data: its bytes are not those that were written"):
            check_file(tmp_path, given, check)
    path.write_bytes(b"abcd")
    with pytest.raises(IndexFormatError, match="expected 3 bytes, got 4"):
        check_file(tmp_path, record, Check.SIZE)
    path.unlink()
    with pytest.raises(IndexFormatError, match="is missing"):
        check_file(tmp_path, record, Check.OPENING)


def test_an_opening_compares_the_faster_hash_and_a_verification_both(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"abc" * 300_000)  # several blocks
    record = record_file(path)
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert check_file(tmp_path, replace(record, sha256="0" * 64), Check.OPENING) == path
    for altered, check in (
        (replace(record, sha256="0" * 64), Check.FULL),
        (replace(record, xxh3="0" * 32), Check.FULL),
        (replace(record, xxh3="0" * 32), Check.OPENING),
    ):
        with pytest.raises(IndexFormatError, match="another hash"):
            check_file(tmp_path, altered, check)
