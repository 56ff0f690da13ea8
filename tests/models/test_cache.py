from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from safe_retrieval.errors import ChecksumError, DiskFullError, DownloadError, ModelError, ModelNotFoundError
from safe_retrieval.models.cache import (
    MANIFEST_NAME,
    Fault,
    Manifest,
    Slot,
    checked_manifest,
    digests,
    disk_full_clears,
    fault_clears,
    faults,
    need_room,
    tidy,
)
from safe_retrieval.models.digest import FileDigest
from safe_retrieval.models.progress import Reporter
from safe_retrieval.models.record import ModelKind


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "sub").mkdir(parents=True)
    (made / "a.json").write_bytes(b"abc")
    (made / "sub" / "b.txt").write_bytes(b"b")
    manifest = Manifest("m", ModelKind.LANGUAGE_MODEL, "sha256:" + "1" * 64, "test", {"lib": "1"}, digests(made))
    manifest.write(made)
    return made


def test_the_format_is_pinned(folder: Path) -> None:
    assert json.loads((folder / MANIFEST_NAME).read_text()) == {
        "format_version": 1,
        "name": "m",
        "kind": "language-model",
        "fingerprint": "sha256:" + "1" * 64,
        "source": "test",
        "created_with": {"lib": "1"},
        "files": {
            "a.json": {"size": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
            "sub/b.txt": {"size": 1, "sha256": "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"},
        },
    }


def test_a_round_trip(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert manifest.kind is ModelKind.LANGUAGE_MODEL
    assert manifest.files == digests(folder)
    assert checked_manifest(folder) == manifest
    unknown = Manifest("m", None, "sha256:x", "test", {}, {"a.json": FileDigest(3, "s")})
    unknown.write(folder)
    assert Manifest.read(folder) == unknown


def test_every_fault_is_named(folder: Path) -> None:
    manifest = Manifest.read(folder)
    (folder / "a.json").write_bytes(b"abC")
    (folder / "sub" / "b.txt").unlink()
    assert list(faults(folder, manifest, thorough=False)) == [
        Fault("a.json", "has other bytes than were installed: its SHA-256 differs"),
        Fault("sub/b.txt", "is missing"),
    ]
    with pytest.raises(ChecksumError, match=r"a\.json has other bytes"):
        checked_manifest(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format_version": 1}', '{"format_version": 1, "kind": "?"}'])
def test_a_broken_manifest_names_itself(folder: Path, text: str) -> None:
    (folder / MANIFEST_NAME).write_text(text)
    with pytest.raises(ModelError, match=r"safe-retrieval\.json cannot be read"):
        Manifest.read(folder)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_clears_the_area(tmp_path: Path, number: int) -> None:
    area = tmp_path / "area"
    area.mkdir()
    (area / "half").touch()
    with pytest.raises(DiskFullError, match="Free some room"), disk_full_clears(area):
        raise OSError(number, "no room")
    assert not area.exists()


@pytest.mark.parametrize(
    ("error", "left"), [(ModelNotFoundError, False), (ChecksumError, False), (ModelError, False), (DownloadError, True)]
)
def test_only_a_cut_leaves_what_had_come(tmp_path: Path, error: type[ModelError], left: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(error), fault_clears(tmp_path / "folder", tmp_path / "file", tmp_path / "missing"):
        raise error("why")
    assert [path.exists() for path in (tmp_path / "folder", tmp_path / "file")] == [left, left]


def test_tidy_keeps_and_counts_what_is_of_use(tmp_path: Path) -> None:
    sizes = {"files/a": 10, "hub/b": 7, "hub/deep/c": 100, "artifact": 50, "scratch-1/wheel": 30}
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "hub" / "link").symlink_to(tmp_path / "files")
    assert tidy(tmp_path, {"files/a": 10, "hub/b": 8, "artifact": 49}) == 17
    left = (path for path in tmp_path.rglob("*") if not path.is_dir())
    assert sorted(path.name for path in left) == ["a", "b"]  # what is longer than it can be is not of use


def test_an_empty_area_goes_and_one_with_bytes_stays(home: Path) -> None:
    report = Reporter(enabled=False)
    with Slot("key").filling(report) as area:
        (area / "files").mkdir()
    assert list((home / "partial").iterdir()) == []
    begun = Slot("key").area / "begun"
    with Slot("key").filling(report):
        begun.write_bytes(b"x")
    assert begun.exists()


def test_another_system_error_passes(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), disk_full_clears(tmp_path):
        raise PermissionError(errno.EACCES, "no")
    assert tmp_path.exists()


def test_room(tmp_path: Path) -> None:
    need_room(tmp_path, 1, "it")
    with pytest.raises(DiskFullError, match=r"it needs [\d,]+ MB under"):
        need_room(tmp_path, 1 << 60, "it")


def test_publish_replaces_in_one_rename(home: Path) -> None:
    slot = Slot("key")
    for text in ("first", "second"):
        (slot.area / "files").mkdir(parents=True)
        (slot.area / "files" / "f").write_text(text)
        slot.publish(slot.area / "files", digests(slot.area / "files"))
        assert (slot.folder / "f").read_text() == text
        assert not slot.area.exists()
    assert slot.folder == home / "models" / "key"
