"""Merging, exporting and importing: what goes in comes out, and what cannot be taken is said."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from safe_retrieval.errors import DataError, EncoderMismatchError, IndexFolderError, IndexFormatError, InputError
from safe_retrieval.index import assemble, export, faiss_files, segments
from safe_retrieval.index import parquet as parquet_module
from safe_retrieval.index.assemble import Duplicates, assemble_index, merge_indexes
from safe_retrieval.index.builder import build_index, encoder_record
from safe_retrieval.index.corpus import Fields, read_corpus
from safe_retrieval.index.documents import DocumentStore
from safe_retrieval.index.export import export_beir, export_parquet
from safe_retrieval.index.folder import create_index, load_index, verify_index
from safe_retrieval.index.manifest import EncoderRecord
from safe_retrieval.index.parquet import import_parquet
from safe_retrieval.index.recheck import reencoding_faults
from safe_retrieval.index.segments import Block
from safe_retrieval.index.settings import SearchSettings
from safe_retrieval.types import Document, FloatMatrix
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

ENCODER = HashEncoder()


class Stranger(HashEncoder):
    """Another encoder of the same dimension."""

    def encode_documents(self, texts: Sequence[str], **options: Any) -> FloatMatrix:
        return super().encode_documents([text[::-1] for text in texts], **options)


DOCUMENTS = [
    *small_corpus(40),
    Document("\u00fc #1", "half \ufffd text\n", "", {"tags": ["a", {"b": None}], "raw": "\ud83d", "n": 1.5}),
]


def changed_index(folder: Path, documents: list[Document] = DOCUMENTS) -> Path:
    """Several segments and deletions; holds ``documents`` without those whose position ends in 3."""
    build_index(documents[:25], ENCODER, folder)
    with load_index(folder) as index:
        rest = documents[25:]
        index.add(rest, ENCODER.encode_documents([document.content for document in rest]))
        index.delete([document.id for document in documents[3::10]])
    return folder


LEFT = [document for number, document in enumerate(DOCUMENTS) if number % 10 != 3]


def contents(folder: Path) -> tuple[list[Document], Any]:
    with load_index(folder, read_only=True) as index:
        documents = list(index.documents())
        return documents, index.get_vectors([document.id for document in documents])


def test_blocks_are_documents_with_their_vectors(tmp_path: Path) -> None:
    with load_index(changed_index(tmp_path / "index")) as index:
        blocks = list(index.blocks())
        assert [document for block in blocks for document in block.documents] == LEFT
        vectors = np.concatenate([block.vectors for block in blocks])
        assert np.array_equal(vectors, index.get_vectors([document.id for document in LEFT]))


def test_parquet_round_trip_bit_for_bit(tmp_path: Path) -> None:
    source = changed_index(tmp_path / "index")
    with load_index(source) as index:
        assert export_parquet(index, tmp_path / "deep" / "out.parquet") == len(LEFT)
        record = index.manifest.encoder
    imported = import_parquet(tmp_path / "deep" / "out.parquet", tmp_path / "again")
    assert (imported.manifest.encoder, imported.scaled, imported.agreement) == (record, 0, None)
    before, after = contents(source), contents(tmp_path / "again")
    assert after[0] == before[0] == LEFT
    assert np.array_equal(after[1], before[1])
    assert verify_index(tmp_path / "again") == []
    checked = import_parquet(tmp_path / "deep" / "out.parquet", tmp_path / "checked", encoder=ENCODER, factory="HNSW8")
    assert checked.manifest.factory == "HNSW8"
    assert checked.agreement is not None
    assert (checked.agreement.sample, checked.agreement.least) == (len(LEFT), pytest.approx(1))
    with pytest.raises(EncoderMismatchError, match="speaks another space"):
        import_parquet(tmp_path / "deep" / "out.parquet", tmp_path / "x", encoder=HashEncoder(space="elsewhere"))


def test_parquet_of_many_row_groups_holds_every_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = changed_index(tmp_path / "index")
    monkeypatch.setattr(segments, "_BLOCK_DOCUMENTS", 3)
    monkeypatch.setattr(export, "_GROUP_BLOCKS", 2)
    with load_index(source) as index:
        assert export_parquet(index, tmp_path / "out.parquet") == len(LEFT)
    assert parquet.read_metadata(tmp_path / "out.parquet").num_row_groups > 5
    import_parquet(tmp_path / "out.parquet", tmp_path / "again")
    assert contents(tmp_path / "again")[0] == LEFT


def test_parquet_without_vectors_is_a_corpus(tmp_path: Path) -> None:
    with load_index(changed_index(tmp_path / "index")) as index:
        export_parquet(index, tmp_path / "out.parquet", vectors=False)
    documents = list(read_corpus(tmp_path / "out.parquet"))
    assert [(d.id, d.title, d.text) for d in documents] == [(d.id, d.title, d.text) for d in LEFT]
    assert [json.loads(d.metadata["metadata"]) for d in documents] == [d.metadata for d in LEFT]
    with pytest.raises(DataError, match="expected a column 'vector'"):
        import_parquet(tmp_path / "out.parquet", tmp_path / "again")


def test_beir_round_trip(tmp_path: Path) -> None:
    with load_index(changed_index(tmp_path / "index")) as index:
        assert export_beir(index, tmp_path / "set") == len(LEFT)
    assert list(read_corpus(tmp_path / "set")) == LEFT
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["corpus.jsonl"]


@pytest.mark.parametrize("field", ["_id", "title", "text"])
def test_beir_refuses_what_would_not_come_back(tmp_path: Path, field: str) -> None:
    build_index([*DOCUMENTS, Document("odd", "x", metadata={field: 1})], ENCODER, tmp_path / "index")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "corpus.jsonl").write_text("old")
    with load_index(tmp_path / "index") as index:
        with pytest.raises(DataError, match=f"'odd' has a metadata field '{field}'"):
            export_beir(index, tmp_path / "set")
        assert (tmp_path / "set" / "corpus.jsonl").read_text() == "old"
        assert len(list((tmp_path / "set").iterdir())) == 1
        (tmp_path / "set" / "corpus.jsonl.zst").write_text("")
        with pytest.raises(DataError, match=r"corpus\.jsonl\.zst already"):
            export_beir(index, tmp_path / "set")
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match="cannot be written"):
            export_parquet(index, tmp_path / "file" / "out.parquet")


def foreign_parquet(path: Path, vectors: Any, **columns: Any) -> Path:
    rows = [
        {"id": d.id, "text": d.text, "title": d.title, **d.metadata, "embedding": vector}
        for d, vector in zip(small_corpus(len(vectors)), vectors, strict=True)
    ]
    table = pyarrow.Table.from_pylist(rows)
    for name, column in columns.items():
        table = table.append_column(name, column)
    parquet.write_table(table, path)
    return path


def test_vectors_of_others_are_scaled_counted_and_checked(tmp_path: Path) -> None:
    documents = small_corpus(20)
    vectors = ENCODER.encode_documents([document.content for document in documents]).astype(np.float64)
    vectors[5:8] *= 3
    path = foreign_parquet(tmp_path / "c.parquet", vectors.tolist())
    options: dict[str, Any] = {"encoder": ENCODER, "vector_field": "embedding"}
    imported = import_parquet(path, tmp_path / "index", **options, sample=7)
    assert imported.scaled == 3
    assert imported.agreement is not None
    assert imported.agreement.sample == 7
    assert imported.agreement.least > 0.9999
    found, kept = contents(tmp_path / "index")
    assert found == documents
    assert np.allclose(kept, ENCODER.encode_documents([d.content for d in documents]), atol=1e-6)
    with pytest.raises(InputError, match="does not say who made its vectors"):
        import_parquet(path, tmp_path / "x", vector_field="embedding")
    with pytest.raises(EncoderMismatchError, match=r"not those of stranger.*cosine of"):
        import_parquet(path, tmp_path / "x", encoder=Stranger("stranger"), vector_field="embedding")
    assert not (tmp_path / "x" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda v: v[3].__setitem__(0, float("nan")), InputError, "vector 3 is zero or not finite"),
        (lambda v: v.__setitem__(4, [0.0] * 32), InputError, "vector 4 is zero"),
        (lambda v: v.__setitem__(5, v[5][:-1]), DataError, "row 6: expected a vector of length 32, got 31"),
        (lambda v: v.__setitem__(6, None), DataError, "row 7: expected a vector of length 32, got none"),
    ],
)
def test_faulty_vectors_write_nothing(tmp_path: Path, spoil: Any, error: type[Exception], message: str) -> None:
    vectors = ENCODER.encode_documents([document.content for document in small_corpus(9)]).tolist()
    spoil(vectors)
    path = foreign_parquet(tmp_path / "c.parquet", vectors)
    with pytest.raises(error, match=message):
        import_parquet(path, tmp_path / "index", encoder=ENCODER, vector_field="embedding")
    assert {entry.name for entry in (tmp_path / "index").iterdir()} <= {".lock"}
    with pytest.raises(DataError, match="expected lists of floats in 'text'"):
        import_parquet(path, tmp_path / "index", encoder=ENCODER, vector_field="text")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="not readable as Parquet"):
        import_parquet(path, tmp_path / "index", encoder=ENCODER)


def test_vectors_of_the_text_alone_are_told_apart(tmp_path: Path) -> None:
    vectors = ENCODER.encode_documents([document.text for document in small_corpus(9)])
    path = foreign_parquet(tmp_path / "c.parquet", vectors.tolist())
    with pytest.raises(EncoderMismatchError, match="of the texts alone"):
        import_parquet(path, tmp_path / "index", encoder=ENCODER, vector_field="embedding")
    fields = Fields(title="none")
    import_parquet(path, tmp_path / "index", encoder=ENCODER, vector_field="embedding", fields=fields)


def test_merge(tmp_path: Path) -> None:
    one, two = changed_index(tmp_path / "one"), tmp_path / "two"
    others = [Document(f"other {n}", f"another stone {n}") for n in range(7)]
    build_index(others, ENCODER, two)
    manifest = merge_indexes([one, two], tmp_path / "both")
    documents, vectors = contents(tmp_path / "both")
    assert documents == [*LEFT, *others]
    assert np.array_equal(vectors, np.concatenate([contents(one)[1], contents(two)[1]]))
    assert (manifest.count, len(manifest.segments)) == (len(documents), 1)
    assert verify_index(tmp_path / "both") == []
    assert contents(one)[0] == LEFT


def test_merge_within_some_memory(tmp_path: Path) -> None:
    for name, numbers in (("one", range(300)), ("two", range(300, 600))):
        documents = [Document(f"d{n}", f"stone {n} of the wall {n % 7}") for n in numbers]
        build_index(documents, ENCODER, tmp_path / name)
    made = {
        memory: merge_indexes(
            [tmp_path / "one", tmp_path / "two"], tmp_path / f"{memory}", factory="IVF4,Flat", **bound
        )
        for memory, bound in (("all", {}), ("little", {"memory": 400_000}))
    }
    assert made["all"].segments[0].vectors == made["little"].segments[0].vectors
    with pytest.raises(InputError, match="more than the"):
        merge_indexes([tmp_path / "one", tmp_path / "two"], tmp_path / "none", factory="IVF4,Flat", memory=1_000)


def test_a_merged_index_is_searched_as_the_first_was_tuned(tmp_path: Path) -> None:
    tuned = SearchSettings(probes=3)
    for name, numbers in (("one", range(300)), ("two", range(300, 600))):
        documents = [Document(f"d{n}", f"stone {n} of the wall {n % 7}") for n in numbers]
        build_index(documents, ENCODER, tmp_path / name, factory="IVF4,Flat")
    with load_index(tmp_path / "one") as index:
        index.tune("IVF4,Flat", tuned)
    folders = [tmp_path / "one", tmp_path / "two"]
    assert merge_indexes(folders, tmp_path / "both").search == tuned
    assert merge_indexes(folders[::-1], tmp_path / "backwards").search is None
    assert merge_indexes(folders, tmp_path / "flat", factory="Flat").search is None  # it has no clusters to probe
    assert verify_index(tmp_path / "both") == []


def test_merge_with_ids_in_both(tmp_path: Path) -> None:
    first, second, third = (
        [Document(f"d{n}", f"text {n} of {name}") for n in numbers]
        for name, numbers in (("a", range(5)), ("b", range(3, 8)), ("c", [0, 7, 9]))
    )
    folders = [tmp_path / name for name in "abc"]
    for folder, documents in zip(folders, (first, second, third), strict=True):
        build_index(documents, ENCODER, folder)
    with pytest.raises(InputError, match=r"the id 'd3' is in .*a and in .*b"):
        merge_indexes(folders, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    for duplicates, wanted in (
        (Duplicates.FIRST, {**dict.fromkeys(range(5), "a"), **dict.fromkeys(range(5, 8), "b"), 9: "c"}),
        (Duplicates.LAST, {1: "a", 2: "a", **dict.fromkeys(range(3, 7), "b"), 0: "c", 7: "c", 9: "c"}),
    ):
        merge_indexes(folders, tmp_path / duplicates, duplicates=duplicates)
        found = {document.id: document.text for document in contents(tmp_path / duplicates)[0]}
        assert found == {f"d{n}": f"text {n} of {name}" for n, name in wanted.items()}


def test_what_cannot_be_merged(tmp_path: Path) -> None:
    one = changed_index(tmp_path / "one")
    build_index(small_corpus(3), HashEncoder("stranger", space="elsewhere"), tmp_path / "stranger")
    create_index(tmp_path / "empty", ENCODER).close()
    with pytest.raises(EncoderMismatchError, match=r"hash-encoder.*stranger"):
        merge_indexes([one, tmp_path / "stranger"], tmp_path / "out")
    with pytest.raises(InputError, match="at least two"):
        merge_indexes([one], tmp_path / "out")
    with pytest.raises(InputError, match="refuse, first, last"):
        merge_indexes([one, one], tmp_path / "out", duplicates="both")
    with pytest.raises(IndexFolderError, match=r"an index at .* already"):
        merge_indexes([one, tmp_path / "empty"], one)
    with pytest.raises(DataError, match="at least one document"):
        merge_indexes([tmp_path / "empty", tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(IndexFolderError, match="no index"):
        merge_indexes([one, tmp_path / "nowhere"], tmp_path / "out")
    assert contents(one)[0] == LEFT
    merge_indexes([tmp_path / "empty", one], tmp_path / "out")
    assert contents(tmp_path / "out")[0] == LEFT


def test_a_full_disk_leaves_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = changed_index(tmp_path / "one")

    def full(*_: object, **__: object) -> Any:
        raise OSError(28, "No space left on device")

    def full_at_the_end(dimension: int, count: int) -> bytes:
        return full() if count else begun(dimension, count)

    begun = faiss_files._flat_head
    faults = [
        (faiss_files, "write_rows", full),
        (faiss_files, "_flat_head", full_at_the_end),
        (assemble, "place", full),
        (assemble, "publish", full),
    ]
    for module, name, fault in faults:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fault)
            with pytest.raises(IndexFolderError, match="No space left"):
                merge_indexes([one, one], tmp_path / "out", duplicates="first")
        with pytest.raises(IndexFolderError):
            load_index(tmp_path / "out")
    merge_indexes([one, one], tmp_path / "out", duplicates="first")
    assert contents(tmp_path / "out")[0] == LEFT


def test_an_unfinished_build_keeps_its_shards(tmp_path: Path) -> None:
    shards = tmp_path / "out" / ".building" / "shards"
    shards.mkdir(parents=True)
    (shards / "000000.npy").write_bytes(b"work")
    block = Block(small_corpus(3), ENCODER.encode_documents([d.content for d in small_corpus(3)]))
    assemble_index([block], encoder_record(ENCODER), 32, tmp_path / "out")
    assert (shards / "000000.npy").read_bytes() == b"work"
    assert contents(tmp_path / "out")[0] == small_corpus(3)
    with pytest.raises(InputError, match="one vector a document, got 3 for 2"):
        assemble_index([Block(block.documents[:2], block.vectors)], encoder_record(ENCODER), 32, tmp_path / "x")


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
PARTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
"""Of metadata; NULs are replaced when they are stored."""
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | PARTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PARTS, inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.lists(TEXTS.filter(bool), min_size=1, max_size=5, unique=True))
def test_whatever_is_stored_survives_every_format(
    tmp_path_factory: pytest.TempPathFactory, data: Any, ids: list[str]
) -> None:
    tmp_path = tmp_path_factory.mktemp("formats")
    names = PARTS.filter(lambda name: name not in {"_id", "title", "text"})
    documents = [
        Document(i, data.draw(TEXTS), data.draw(TEXTS), data.draw(st.dictionaries(names, VALUES, max_size=3)))
        for i in ids
    ]
    build_index(documents, ENCODER, tmp_path / "index")
    with load_index(tmp_path / "index") as index:
        export_parquet(index, tmp_path / "out.parquet")
        export_beir(index, tmp_path / "set")
    import_parquet(tmp_path / "out.parquet", tmp_path / "again")
    stored = contents(tmp_path / "index")
    assert contents(tmp_path / "again")[0] == stored[0] == documents
    assert np.array_equal(contents(tmp_path / "again")[1], stored[1])
    assert list(read_corpus(tmp_path / "set")) == documents


def test_a_damaged_source_is_noticed(tmp_path: Path) -> None:
    one = changed_index(tmp_path / "one")
    with load_index(one) as index:
        name = index.manifest.segments[0].documents.name
    (one / name).write_bytes((one / name).read_bytes()[:-1])
    with pytest.raises(IndexFormatError, match=name):
        merge_indexes([one, one], tmp_path / "out")


def test_a_flipped_byte_in_an_exported_file_is_never_a_wrong_vector(tmp_path: Path) -> None:
    with load_index(changed_index(tmp_path / "index")) as index:
        export_parquet(index, tmp_path / "out.parquet")
    expected = contents(tmp_path / "index")
    whole = (tmp_path / "out.parquet").read_bytes()
    rng = random.Random(0)
    noticed = 0
    for number in range(40):
        place = rng.randrange(len(whole))
        flipped = bytes([whole[place] ^ (1 << rng.randrange(8))])
        (tmp_path / "c.parquet").write_bytes(whole[:place] + flipped + whole[place + 1 :])
        try:
            import_parquet(tmp_path / "c.parquet", tmp_path / f"again {number}")
        except (DataError, InputError):
            noticed += 1
            continue
        found = contents(tmp_path / f"again {number}")  # it was a statistic, or a remark on who wrote the file
        assert found[0] == expected[0]
        assert np.array_equal(found[1], expected[1])
    assert noticed > 10


def test_what_a_killed_run_left_is_dropped(tmp_path: Path) -> None:
    left = tmp_path / "out" / ".building" / "assembled"
    left.mkdir(parents=True)
    (left / "documents.sqlite").write_bytes(b"half")
    (left / "spool.faiss").write_bytes(b"half")
    one = changed_index(tmp_path / "one")
    merge_indexes([one, one], tmp_path / "out", duplicates="last")
    assert contents(tmp_path / "out")[0] == LEFT
    assert not (tmp_path / "out" / ".building").exists()


def test_reading_writes_nothing(tmp_path: Path) -> None:
    folder = changed_index(tmp_path / "index")
    (folder / ".lock").unlink()

    def state() -> dict[str, tuple[int, int]]:
        return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}

    before = state()
    with load_index(folder, read_only=True) as index:
        index.search(ENCODER.encode_queries(["violin"]), 5, where={"$words": "lies"})
        export_parquet(index, tmp_path / "out.parquet")
        assert reencoding_faults(index, ENCODER) == []
        for change in (
            lambda: index.add([], ENCODER.encode_documents([])),
            lambda: index.upsert([], ENCODER.encode_documents([])),
            lambda: index.delete(["d1"]),
            index.compact,
        ):
            with pytest.raises(InputError, match="read-only"):
                change()
    merge_indexes([folder, folder], tmp_path / "out", duplicates="first")
    assert verify_index(folder) == []
    assert state() == before


def test_documents_encoded_again(tmp_path: Path) -> None:
    folder = changed_index(tmp_path / "index")
    with load_index(folder) as index:
        assert reencoding_faults(index, ENCODER, sample=10) == []
        moved = DOCUMENTS[0]
        index.upsert([moved], ENCODER.encode_documents(["the vector of another text"]))
        (fault,) = reencoding_faults(index, ENCODER)
        assert "'d0' encoded again has a cosine of" in fault
        with pytest.raises(EncoderMismatchError):
            reencoding_faults(index, HashEncoder(space="elsewhere"))
        with pytest.raises(InputError, match="0 documents or more"):
            reencoding_faults(index, ENCODER, sample=-1)
    with create_index(tmp_path / "empty", ENCODER) as empty:
        assert reencoding_faults(empty, ENCODER) == []


def test_an_id_that_does_not_lead_back_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_index(DOCUMENTS, ENCODER, tmp_path / "index")
    honest = DocumentStore.positions_of
    monkeypatch.setattr(DocumentStore, "positions_of", lambda self, ids: {**honest(self, ids), "d7": 8})
    (fault,) = verify_index(tmp_path / "index")
    assert "the id of document 7 does not lead back" in fault


def test_a_large_row_group_of_vectors_is_not_held_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, dimension = 20_000, 256
    rows = np.random.default_rng(0).standard_normal((count, dimension)).astype(np.float32)
    vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), dimension)
    table = pyarrow.table({"id": [str(n) for n in range(count)], "text": ["x"] * count, "vector": lists})
    parquet.write_table(table, tmp_path / "c.parquet", row_group_size=count, compression="none")
    del table, lists
    monkeypatch.setattr(parquet_module, "_BATCH_ROWS", 500)
    before, peak, seen = pyarrow.total_allocated_bytes(), 0, 0
    source = parquet_module._Rows(tmp_path / "c.parquet", Fields("id"), "vector", ours=False)
    for block in source.blocks(dimension):
        peak = max(peak, pyarrow.total_allocated_bytes() - before)
        seen += len(block.documents)
    assert seen == count
    assert peak < 10_000_000  # the row group has 20 MB


def test_a_kind_that_does_not_fit_the_dimension_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    blocks: Iterator[Block] = iter([])
    with pytest.raises(InputError, match="take a number that divides 32"):
        assemble_index(blocks, EncoderRecord("x", "y"), 32, tmp_path / "out", factory="IVF4,PQ5")
    assert not (tmp_path / "out").exists()
