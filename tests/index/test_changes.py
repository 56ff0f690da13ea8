"""An index that is changed while it lives: against a dictionary, with faulty input, beside writers and readers."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from safe_retrieval.errors import (
    DataError,
    EncoderMismatchError,
    IndexFolderError,
    IndexFormatError,
    IndexLockedError,
    InputError,
)
from safe_retrieval.index import advisor, changes, factories, publish, searchable
from safe_retrieval.index import manifest as manifest_module
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.exact import ExactIndex
from safe_retrieval.index.folder import SearchableIndex, create_index, load_index, verify_index
from safe_retrieval.index.manifest import IndexManifest, read_manifest
from safe_retrieval.index.snapshots import Snapshot
from safe_retrieval.index.steps import plan_build
from safe_retrieval.types import Document, FloatMatrix
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

ENCODER = HashEncoder()
vectors_of = ENCODER.of
DOCUMENTS = small_corpus(30)
QUERIES = ENCODER.encode_queries(["violin 6", "the copper harbour"])


def same_as(index: SearchableIndex, documents: list[Document]) -> None:
    """The index answers as if it had been built from these documents, in this order."""
    exact = ExactIndex(ENCODER.dimension)
    if documents:
        exact.add([document.id for document in documents], vectors_of(documents))
    assert list(index.documents()) == documents
    assert len(index) == len(documents)
    for k in (1, 7, 100):
        assert index.search(QUERIES, k) == exact.search(QUERIES, k)


def changed_document(identifier: str, text: str = "quite another text") -> Document:
    return Document(identifier, text, metadata={"changed": True})


def test_add_upsert_delete_get(folder: Path) -> None:
    expected = DOCUMENTS[:20]
    with load_index(folder) as index:
        index.add(DOCUMENTS[20:23], vectors_of(DOCUMENTS[20:23]))
        expected = [*expected, *DOCUMENTS[20:23]]
        same_as(index, expected)

        new = [changed_document("d3"), changed_document("d21"), changed_document("new")]
        assert index.upsert(new, vectors_of(new)) == 2
        expected = [*(document for document in expected if document.id not in {"d3", "d21"}), *new]
        same_as(index, expected)

        assert index.delete(["d0", "d22", "absent", "d0"]) == 2
        expected = [document for document in expected if document.id not in {"d0", "d22"}]
        same_as(index, expected)

        assert index.get(["d3", "d0", "absent", ""]) == {"d3": new[0]}
        assert "d3" in index
        assert "d0" not in index
        with pytest.raises(InputError, match="no document with the id 'd0'"):
            index.get_documents(["d1", "d0"])
        assert np.array_equal(index.get_vectors(["new", "d1"]), vectors_of([new[2], DOCUMENTS[1]]))
        with pytest.raises(InputError, match="wrap it in a list"):
            index.get_vectors("d1")
        with pytest.raises(InputError, match="0 or more, got -1"):
            index.sample_vectors(-1)
        for k in (float("nan"), 2.5, "3"):
            with pytest.raises(InputError, match="expected a whole number as k"):
                index.search(vectors_of(new[:1]), k)  # type: ignore[arg-type]
    assert verify_index(folder) == []
    with load_index(folder) as index:
        same_as(index, expected)
        index.compact()
        same_as(index, expected)
        assert len(index.manifest.segments) == 1
        assert index.manifest.segments[0].deleted is None
        manifest = index.manifest
        index.compact()
        assert index.manifest == manifest
    assert verify_index(folder) == []
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "manifest.json",
        *(record.name for record in manifest.files()),
    }


def test_an_index_may_be_empty(tmp_path: Path) -> None:
    with create_index(tmp_path / "index", ENCODER) as index:
        same_as(index, [])
        index.add(DOCUMENTS[:2], vectors_of(DOCUMENTS[:2]))
        same_as(index, DOCUMENTS[:2])
        assert index.delete(["d0", "d1"]) == 2
        same_as(index, [])
        index.add([], np.empty((0, 32), np.float32))
        assert index.delete([]) == 0
        index.compact()
        assert index.manifest.segments == ()
    assert verify_index(tmp_path / "index") == []
    with pytest.raises(IndexFolderError, match="already"):
        create_index(tmp_path / "index", ENCODER)
    with load_index(tmp_path / "index") as index:
        same_as(index, [])


def test_a_change_costs_what_it_brings(folder: Path) -> None:
    untouched = {path.name: path.stat().st_ino for path in folder.iterdir() if path.suffix in {".faiss", ".sqlite"}}
    with load_index(folder) as index:
        for document in DOCUMENTS[20:24]:
            index.add([document], vectors_of([document]))
        index.delete(["d1", "d20"])
    assert untouched.items() <= {path.name: path.stat().st_ino for path in folder.iterdir()}.items()


def test_many_small_additions_make_few_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = small_corpus(40)
    with create_index(tmp_path / "index", ENCODER) as index:
        for document in documents:
            index.add([document], vectors_of([document]))
        assert len(index.manifest.segments) <= 6
        same_as(index, documents)
        monkeypatch.setattr(changes, "LARGEST_MERGE", 10)
        index.compact()
        for document in small_corpus(44)[40:]:
            index.add([document], vectors_of([document]))
        assert index.manifest.segments[0].count == 40


BAD = vectors_of(DOCUMENTS[20:22])


def broken(value: float) -> FloatMatrix:
    vectors = BAD.copy()
    vectors[1] = value
    return vectors


@pytest.mark.parametrize(
    ("documents", "vectors", "message"),
    [
        ([DOCUMENTS[20], DOCUMENTS[20]], BAD, "'d20' comes twice"),
        ([DOCUMENTS[20], "text"], BAD, "document 1: expected a Document, got str"),
        ([DOCUMENTS[20], Document("", "x")], BAD, "id 1"),
        ([DOCUMENTS[20]], BAD, "1 documents and 2"),
        (DOCUMENTS[20:22], BAD.astype(np.float64), "float64"),
        (DOCUMENTS[20:22], BAD[:, :5], r"shape \(n, 32\)"),
        (DOCUMENTS[20:22], broken(np.nan), "vector 1 holds NaN"),
        (DOCUMENTS[20:22], broken(0), "vector 1 is all zeros"),
        (DOCUMENTS[20:22], BAD * 2, "length one"),
        ([DOCUMENTS[20], Document("x", "y", metadata={"z": object()})], BAD, "metadata is not JSON"),
    ],
)
def test_faulty_input_changes_nothing(folder: Path, documents: Any, vectors: Any, message: str) -> None:
    before = read_manifest(folder)
    names = {path.name for path in folder.iterdir()}
    with load_index(folder) as index:
        for change in (index.add, index.upsert):
            with pytest.raises((InputError, DataError), match=message):
                change(documents, vectors)
        with pytest.raises(InputError, match=r"id 'd\d' is already in"):
            index.add([DOCUMENTS[20], DOCUMENTS[1]], BAD)
        with pytest.raises(InputError, match="one str"):
            index.delete("d1")
        same_as(index, DOCUMENTS[:20])
    assert read_manifest(folder) == before
    assert {path.name for path in folder.iterdir()} == names


def test_read_only_frozen_and_closed(folder: Path) -> None:
    with load_index(folder, read_only=True) as index:
        for change in (index.compact, lambda: index.delete(["d1"]), lambda: index.add([], BAD[:0])):
            with pytest.raises(InputError, match="read-only"):
                change()
    with load_index(folder) as index:
        view = index.frozen()
        index.delete(["d1"])
        same_as(view, DOCUMENTS[:20])
        assert len(index) == 19
        with pytest.raises(InputError, match="read-only"):
            view.delete(["d1"])
        view.close()
        assert len(index.get_documents(["d2"])) == 1
    with pytest.raises(IndexFolderError, match="was closed"):
        index.search(QUERIES)


def test_two_writers_see_each_other(folder: Path) -> None:
    with load_index(folder) as one, load_index(folder) as two:
        one.add(DOCUMENTS[20:21], vectors_of(DOCUMENTS[20:21]))
        assert len(two) == 20
        with pytest.raises(InputError, match="'d20' is already"):
            two.add(DOCUMENTS[20:21], vectors_of(DOCUMENTS[20:21]))
        two.delete(["d20", "d0"])
        assert len(one) == 21
        assert one.refresh()
        assert not one.refresh()
        same_as(one, DOCUMENTS[1:20])


def test_a_slow_refresh_does_not_go_back_behind_a_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load_index(folder) as index, load_index(folder) as other:
        other.add(DOCUMENTS[20:21], vectors_of(DOCUMENTS[20:21]))
        open_newest, waiting = Snapshot.open_newest, [True]

        def slowly(*given: Any, **named: Any) -> Snapshot:
            opened = open_newest(*given, **named)
            if waiting and waiting.pop():  # what another thread does while this one opens files
                index.add(DOCUMENTS[21:22], vectors_of(DOCUMENTS[21:22]))
                index.compact()
            return opened

        monkeypatch.setattr(Snapshot, "open_newest", slowly)
        index.refresh()
        same_as(index, DOCUMENTS[:22])


def test_another_process_that_writes_is_waited_for_and_then_named(folder: Path) -> None:
    with load_index(folder, lock_seconds=0.05) as index, FileLock(folder / publish.LOCK_NAME):
        with pytest.raises(IndexLockedError, match="another process"):
            index.delete(["d1"])
        assert len(index.search(QUERIES)) == 2


def test_an_index_that_was_built_anew(folder: Path) -> None:
    with load_index(folder) as index:
        build_index(DOCUMENTS[:5], ENCODER, folder)
        index.add(DOCUMENTS[20:21], vectors_of(DOCUMENTS[20:21]))
        same_as(index, [*DOCUMENTS[:5], DOCUMENTS[20]])
        build_index(DOCUMENTS[:5], HashEncoder("other", space="elsewhere"), folder)
        with pytest.raises(EncoderMismatchError, match="built anew by other"):
            index.delete(["d1"])
        same_as(index, [*DOCUMENTS[:5], DOCUMENTS[20]])


class StoppedError(Exception):
    """Stands for a process that ends here."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (changes, "write_segment"),
        (changes, "place"),
        (publish, "sync_folder"),
        (IndexManifest, "write"),
        (Path, "unlink"),
    ],
)
def test_stopped_at_any_step_the_old_state_or_the_new_one_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str, after: bool
) -> None:
    new = [changed_document("d3"), *DOCUMENTS[20:30]]
    real = getattr(owner, step)

    def stop(*arguments: Any, **named: Any) -> None:
        if after:
            real(*arguments, **named)
        raise StoppedError

    with load_index(folder) as index, monkeypatch.context() as patch:
        index.delete(["d5"])
        patch.setattr(owner, step, stop)
        with pytest.raises(StoppedError):
            index.upsert(new, vectors_of(new))
    old = [document for document in DOCUMENTS[:20] if document.id != "d5"]
    upserted = [*(document for document in old if document.id != "d3"), *new]
    with load_index(folder) as index:
        same_as(index, upserted if "d20" in index else old)
        index.upsert(new, vectors_of(new))
        same_as(index, upserted)
    assert verify_index(folder) == []
    names = {".lock", "manifest.json", *(record.name for record in read_manifest(folder).files())}
    assert {path.name for path in folder.iterdir()} == names


def test_a_full_disk_says_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with load_index(folder) as index:
        with monkeypatch.context() as patch:
            patch.setattr(changes, "write_segment", full)
            with pytest.raises(IndexFolderError, match=r"No space left.*make the same change again"):
                index.add(DOCUMENTS[20:21], BAD[:1])
        same_as(index, DOCUMENTS[:20])


def test_deletions_that_do_not_fit(folder: Path) -> None:
    with load_index(folder) as index:
        index.delete(["d1", "d2"])
    (segment,) = read_manifest(folder).segments
    assert segment.deleted is not None
    path = folder / segment.deleted.name
    for positions in ([2, 1], [1, 20], [-1, 2], [1.0, 2.0], [[1, 2]], [1]):
        np.save(path, np.asarray(positions))
        with pytest.raises(IndexFormatError, match=r"deleted-.*npy"):
            load_index(folder)
        with pytest.raises(IndexFormatError, match=r"deleted-.*npy"):
            load_index(folder, verify=False)


def test_threads_search_while_one_writes(folder: Path) -> None:
    """Every answer is one of some state that was there: each upsert replaces a pair of documents at once."""
    done = threading.Event()
    wrong: list[Any] = []
    query = ENCODER.encode_queries(["pair"])

    def pair(turn: int) -> list[Document]:
        return [Document(name, f"pair {turn}", metadata={"turn": turn}) for name in ("left", "right")]

    def read(index: SearchableIndex) -> int:
        asked = 0
        while not done.is_set():
            view = index.frozen()
            hits = [hit.id for hit in view.search(query, 2)[0]]
            turns = {document.metadata["turn"] for document in view.get_documents(["left", "right"])}
            if sorted(hits) != ["left", "right"] or len(turns) != 1:
                wrong.append((hits, turns))
            asked += 1
        return asked

    with load_index(folder) as index:
        index.upsert(pair(0), vectors_of(pair(0)))
        with ThreadPoolExecutor(8) as pool:
            readers = [pool.submit(read, index) for _ in range(8)]
            try:
                for turn in range(1, 25):
                    index.upsert(pair(turn), vectors_of(pair(turn)))
                    if turn % 8 == 0:
                        index.compact()
            finally:
                done.set()
            assert all(reader.result() for reader in readers)
        assert wrong == []
        same_as(index, [*DOCUMENTS[:20], *pair(24)])


class AgainstADictionary(RuleBasedStateMachine):
    """Any sequence of changes leaves what the same changes of a dictionary leave."""

    folder: Path

    @initialize(count=st.integers(0, 8))
    def start(self, count: int) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.model: dict[str, Document] = {}
        self.index = create_index(self.folder, ENCODER)
        self.put([(number, 0) for number in range(count)])

    names = st.integers(0, 15)

    @staticmethod
    def document(name: int, text: int) -> Document:
        return Document(f"n{name}", f"text {text}", metadata={"text": text})

    @rule(new=st.lists(st.tuples(names, st.integers(0, 4)), max_size=5, unique_by=lambda pair: pair[0]))
    def put(self, new: list[tuple[int, int]]) -> None:
        documents = [self.document(name, text) for name, text in new]
        replaced = self.index.upsert(documents, vectors_of(documents))
        assert replaced == sum(document.id in self.model for document in documents)
        for document in documents:
            self.model.pop(document.id, None)
            self.model[document.id] = document

    @rule(name=names)
    def add(self, name: int) -> None:
        document = Document(f"n{name}", "added")
        if document.id in self.model:
            with pytest.raises(InputError, match="is already in"):
                self.index.add([document], vectors_of([document]))
        else:
            self.index.add([document], vectors_of([document]))
            self.model[document.id] = document

    @rule(gone=st.lists(names, max_size=5))
    def delete(self, gone: list[int]) -> None:
        ids = {f"n{name}" for name in gone}
        assert self.index.delete(sorted(ids)) == len(ids & self.model.keys())
        for identifier in ids:
            self.model.pop(identifier, None)

    @rule()
    def compact(self) -> None:
        self.index.compact()

    @precondition(lambda self: hasattr(self, "index"))
    @rule()
    def reopen(self) -> None:
        self.index.close()
        assert verify_index(self.folder) == []
        self.index = load_index(self.folder)

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "index"):
            same_as(self.index, list(self.model.values()))


def test_any_sequence_of_changes_agrees_with_a_dictionary(tmp_path: Path) -> None:
    AgainstADictionary.folder = tmp_path / "index"
    run_state_machine_as_test(
        AgainstADictionary,
        settings=settings(
            max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize("folders_kept", [0, 1])
def test_a_disk_that_fails_behind_the_manifest_does_not_say_that_nothing_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, folders_kept: int
) -> None:
    """The second folder to be synced is that of the new manifest, which is in its place by then."""

    def failing(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    names = {path.name for path in folder.iterdir()}
    with load_index(folder) as index:
        with monkeypatch.context() as patch:
            patch.setattr(publish if not folders_kept else manifest_module, "sync_folder", failing)
            if folders_kept:
                index.upsert(DOCUMENTS[19:21], vectors_of(DOCUMENTS[19:21]))
            else:
                with pytest.raises(IndexFolderError, match="the index is as it was before"):
                    index.upsert(DOCUMENTS[19:21], vectors_of(DOCUMENTS[19:21]))
        same_as(index, DOCUMENTS[: 20 + folders_kept])
        assert ("the disk did not confirm it" in caplog.text) == bool(folders_kept)
        assert names <= {path.name for path in folder.iterdir()}  # or a power cut could bring back what is gone
        index.add(DOCUMENTS[21:22], vectors_of(DOCUMENTS[21:22]))
        same_as(index, [*DOCUMENTS[: 20 + folders_kept], DOCUMENTS[21]])
    assert verify_index(folder) == []


def test_old_files_that_cannot_be_removed_are_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    with load_index(folder) as index:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", failing)
            index.delete(["d1"])
            index.compact()
        same_as(index, [DOCUMENTS[0], *DOCUMENTS[2:20]])
        index.delete(["d0"])
        names = {".lock", "manifest.json", *(record.name for record in index.manifest.files())}
        assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize(("deletes", "kind"), [(False, "HNSW32"), (True, "SQ8")])
def test_the_advisor_knows_of_deletions(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deletes: bool, kind: str
) -> None:
    """A graph cannot delete; what is marked as deleted in it goes on costing time."""
    monkeypatch.setattr(advisor, "_MOST_FLAT", 10)
    with load_index(folder) as index:
        index.delete(["d1"] if deletes else [])
        index.compact(factory="auto")
        assert index.manifest.factory == kind
    assert build_index(DOCUMENTS, ENCODER, tmp_path / "one", factory="auto", deletes=deletes).factory == kind
    plan = plan_build(DOCUMENTS, ENCODER, tmp_path / "two", shards=2, factory="auto", deletes=deletes)
    assert plan.factory == kind


class AKindAgainstADictionary(AgainstADictionary):
    """The same for kinds that have no deletion of their own, with tombstones, and Flat segments beside them.

    Texts are all distinct: of equal scores FAISS keeps whichever it likes.
    """

    kind: str

    @initialize(count=st.integers(8, 14))
    def start(self, count: int) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        documents = [self.document(name, 0) for name in range(count)]
        build_index(documents, ENCODER, self.folder, factory=self.kind)
        self.model = {document.id: document for document in documents}
        self.index = load_index(self.folder)

    @rule(name=AgainstADictionary.names)
    def add(self, name: int) -> None:
        if f"n{name}" not in self.model:
            self.put([(name, 5)])

    @rule()
    def compact(self) -> None:
        self.index.compact(factory=self.kind if len(self.model) >= 8 else "Flat")

    @staticmethod
    def document(name: int, text: int) -> Document:
        return Document(f"n{name}", f"text {text} of {name}", metadata={"text": text})


@pytest.mark.parametrize("kind", ["HNSW8", "IVF2,SQ8"])
def test_any_sequence_of_changes_of_other_kinds_agrees_with_a_dictionary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(factories, "_LEAST_TRAINING", 4)
    AKindAgainstADictionary.folder = tmp_path / "index"
    AKindAgainstADictionary.kind = kind
    run_state_machine_as_test(
        AKindAgainstADictionary,
        settings=settings(
            max_examples=5, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_a_change_that_was_published_when_its_object_was_closed_is_no_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, plain = load_index(folder), searchable.changed

    def published_and_closed(*given: Any, **named: Any) -> Any:
        manifest = plain(*given, **named)
        index.close()
        return manifest

    monkeypatch.setattr(searchable, "changed", published_and_closed)
    assert index.delete(["d1"]) == 1
    with pytest.raises(IndexFolderError, match="was closed"):
        index.ids()
    with load_index(folder) as again:
        assert "d1" not in again
