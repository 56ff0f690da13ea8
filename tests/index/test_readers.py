"""Readers beside writers, and damage that shows only after an index was opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from safe_retrieval.errors import IndexFormatError, IndexLockedError
from safe_retrieval.index import folder as folder_module
from safe_retrieval.index import manifest as manifest_module
from safe_retrieval.index import segments
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.faiss_index import load_faiss, save_faiss
from safe_retrieval.index.folder import SearchableIndex, load_index, verify_index
from safe_retrieval.index.manifest import check_file, read_manifest
from safe_retrieval.types import Document
from tests.index.test_folder import resign
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

ENCODER = HashEncoder()
vectors_of = ENCODER.of
DOCUMENTS = small_corpus(340)


def damage_deletions(folder: Path, positions: list[int]) -> Path:
    """Other positions in the file of deletions, as sound as the right ones but for the hash."""
    deleted = read_manifest(folder).segments[0].deleted
    assert deleted is not None
    path = folder / deleted.name
    size = path.stat().st_size
    np.save(path, np.asarray(positions, dtype=np.int64))
    assert path.stat().st_size == size
    return path


def test_damage_to_deletions_is_noticed_by_whoever_has_the_index_open(folder: Path) -> None:
    with load_index(folder) as reader, load_index(folder) as writer:
        writer.delete(["d3", "d10"])
        path = damage_deletions(folder, [3, 14])
        with pytest.raises(IndexFormatError, match=path.name):
            reader.refresh()
        assert "d3" in reader  # it stays at the state that it has
        with pytest.raises(IndexFormatError, match=path.name):
            reader.delete(["d5"])
        damage_deletions(folder, [3, 10])
        assert reader.refresh()
        assert "d14" in reader
        assert "d10" not in reader
    assert verify_index(folder) == []


def test_without_verification_deletions_are_taken_by_size(folder: Path) -> None:
    with load_index(folder, verify=False) as reader, load_index(folder) as writer:
        writer.delete(["d3", "d10"])
        damage_deletions(folder, [3, 14])
        assert reader.refresh()
        assert "d14" not in reader


class Overtaken:
    """Runs a change of the index each time before the file that a reader wants is looked at."""

    def __init__(self, change: Callable[[], object], times: int) -> None:
        self.left = times
        self._change = change
        self._changing = False

    def check_file(self, *given: Any, **named: Any) -> Path:
        if self.left and not self._changing:  # the writer opens files too
            self.left -= 1
            self._changing = True
            self._change()
            self._changing = False
        return check_file(*given, **named)


@pytest.fixture
def writer(folder: Path) -> Iterator[SearchableIndex]:
    with load_index(folder) as index:
        yield index


def rewriting(writer: SearchableIndex) -> Callable[[], object]:
    """A change that replaces one document in a segment of its own; the large segment stays."""
    document = Document("new", "a new one")
    writer.add([document], vectors_of([document]))
    numbers = iter(range(1_000))

    def change() -> None:
        newer = Document("new", f"a new one, for the time {next(numbers)}")
        writer.upsert([newer], vectors_of([newer]))

    return change


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was hashed, by whichever hash."""
    counts: Counter[str] = Counter()

    def counting(plain: Callable[[Path], Any], path: Path) -> Any:
        counts[path.name] += 1
        return plain(path)

    for name in ("sha256_of", "file_xxh3", "record_file"):
        monkeypatch.setattr(manifest_module, name, partial(counting, getattr(manifest_module, name)))
    return counts


def test_a_reader_that_writers_overtake_hashes_a_segment_once(
    folder: Path, writer: SearchableIndex, hashed: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    overtaken = Overtaken(rewriting(writer), times=12)
    hashed.clear()
    monkeypatch.setattr(segments, "check_file", overtaken.check_file)
    with load_index(folder) as reader:
        assert len(reader) == 21
        assert reader.search(vectors_of(DOCUMENTS[4:5]), 1)[0][0].id == "d4"
    assert overtaken.left == 0
    large = read_manifest(folder).segments[0]
    assert large.count == 20
    assert (hashed[large.vectors.name], hashed[large.documents.name]) == (1, 1)


def test_verification_that_writers_overtake_hashes_a_file_once_and_ends(
    folder: Path, writer: SearchableIndex, hashed: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change = rewriting(writer)
    overtaken = Overtaken(change, times=12)
    hashed.clear()
    monkeypatch.setattr(folder_module, "check_file", overtaken.check_file)
    assert verify_index(folder) == []
    large = read_manifest(folder).segments[0]
    assert (hashed[large.vectors.name], hashed[large.documents.name]) == (1, 1)

    overtaken.left = 1_000_000
    with pytest.raises(IndexLockedError, match=r"is being changed: .* try again"):
        verify_index(folder)


def test_damage_is_told_from_a_writer_that_never_rests(
    folder: Path, writer: SearchableIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = rewriting(writer)
    large = folder / read_manifest(folder).segments[0].vectors.name
    whole = large.read_bytes()
    large.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    overtaken = Overtaken(change, times=1_000_000)
    monkeypatch.setattr(folder_module, "check_file", overtaken.check_file)
    (fault,) = verify_index(folder)
    assert large.name in fault


def test_a_reader_that_never_gets_its_turn_says_so(
    folder: Path, writer: SearchableIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "check_file", Overtaken(rewriting(writer), times=1_000_000).check_file)
    with pytest.raises(IndexLockedError, match=r"is being changed: .* try again"):
        load_index(folder)


@pytest.mark.parametrize("wrong", [0, 7, 320, -1])
def test_positions_astray_in_an_inverted_file_are_a_fault(tmp_path: Path, wrong: int) -> None:
    folder = tmp_path / "index"
    build_index(DOCUMENTS[:320], ENCODER, folder, factory="IVF4,Flat")
    assert verify_index(folder) == []
    path = folder / read_manifest(folder).segments[0].vectors.name
    index = load_faiss(path)
    lists = index.invlists
    number = next(number for number in range(4) if lists.list_size(number))
    ids = faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number))
    ids[1 if ids[0] == wrong else 0] = wrong
    save_faiss(index, path)
    resign(folder)
    (fault,) = verify_index(folder)
    assert path.name in fault
    assert "319" in fault
