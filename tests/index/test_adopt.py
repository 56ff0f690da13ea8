"""FAISS files of others: whatever kind they are, they end as an index that answers as the exact one does."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safe_retrieval.errors import DataError, EncoderMismatchError, IndexFolderError, IndexFormatError
from safe_retrieval.index.adopt import adopt_index
from safe_retrieval.index.exact import ExactIndex
from safe_retrieval.index.folder import load_index, verify_index
from safe_retrieval.types import Document
from tests.index.test_exchange import Stranger
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

faiss: Any = importlib.import_module("faiss")
ENCODER = HashEncoder()
DOCUMENTS = small_corpus(600)
VECTORS = ENCODER.encode_documents([document.content for document in DOCUMENTS])
QUERIES = ENCODER.encode_queries(["violin 6", "the copper harbour", ""])


def written(path: Path, kind: str, *, inner_product: bool = True, vectors: Any = VECTORS, ids: Any = None) -> Path:
    metric = faiss.METRIC_INNER_PRODUCT if inner_product else faiss.METRIC_L2
    index = faiss.index_factory(32, kind, metric)
    index.train(vectors)
    if ids is None:
        index.add(vectors)
    else:
        index.add_with_ids(vectors, ids)
    faiss.write_index(index, str(path))
    return path


def exact_hits(documents: list[Document]) -> Any:
    exact = ExactIndex(32)
    exact.add([document.id for document in documents], ENCODER.encode_documents([d.content for d in documents]))
    return exact.search(QUERIES, 5)


@pytest.mark.parametrize(
    ("kind", "inner_product", "factory"),
    [
        ("Flat", True, "Flat"),
        ("Flat", False, "Flat"),
        ("HNSW16", True, "HNSW16"),
        ("HNSW16", False, "Flat"),
        ("IVF8,Flat", True, "IVF8,Flat"),
        ("IVF8,Flat", False, "Flat"),
        ("SQ8", True, "Flat"),
        ("IVF8,SQ8", False, "Flat"),
        ("PCA32,Flat", True, "Flat"),
        ("Flat,RFlat", True, "Flat"),
    ],
)
def test_kinds(tmp_path: Path, kind: str, inner_product: bool, factory: str) -> None:
    path = written(tmp_path / "their.faiss", kind, inner_product=inner_product)
    adopted = adopt_index(path, iter(DOCUMENTS), ENCODER, tmp_path / "index")
    assert adopted.manifest.factory == factory
    assert adopted.agreement is not None
    assert adopted.agreement.sample == 64
    assert adopted.agreement.least > 0.999
    with load_index(tmp_path / "index") as index:
        index.check_encoder(HashEncoder("a response encoder of the same space"))
        assert list(index.documents()) == DOCUMENTS
        found = index.search(QUERIES, 5)
        if factory == "Flat" and "SQ8" not in kind and "PCA" not in kind:
            assert found == exact_hits(DOCUMENTS)
        for ours, reference in zip(found, exact_hits(DOCUMENTS), strict=True):
            assert ours[0].score == pytest.approx(reference[0].score, abs=0.02)
    assert verify_index(tmp_path / "index") == []
    if factory != "Flat" or (kind == "Flat" and inner_product):  # taken as it was, byte for byte
        (segment,) = adopted.manifest.segments
        assert (tmp_path / "index" / segment.vectors.name).read_bytes() == path.read_bytes()


def test_lists_in_a_file_of_their_own_are_taken_out_of_it(tmp_path: Path) -> None:
    path = written(tmp_path / "their.faiss", "IVF8,Flat")
    index = faiss.read_index(str(path))
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(tmp_path / "lists.ivfdata"))
    held = faiss.InvertedListsPtrVector()
    held.push_back(index.invlists)
    lists.merge_from_multiple(held.data(), held.size())
    index.replace_invlists(lists)
    faiss.write_index(index, str(path))
    adopted = adopt_index(path, iter(DOCUMENTS), ENCODER, tmp_path / "index")
    assert adopted.manifest.factory == "Flat"
    (tmp_path / "lists.ivfdata").unlink()
    assert verify_index(tmp_path / "index") == []
    with load_index(tmp_path / "index") as mine:
        assert mine.search(QUERIES, 5) == exact_hits(DOCUMENTS)


@pytest.mark.parametrize("kind", ["IDMap,Flat", "IDMap2,HNSW8", "IVF8,Flat", "IDMap,IVF8,Flat"])
def test_numbers_of_their_own(tmp_path: Path, kind: str) -> None:
    numbers = np.random.default_rng(0).permutation(2_000)[:600].astype(np.int64)
    path = written(tmp_path / "their.faiss", kind, ids=numbers)
    documents = [
        Document(str(number), document.text, document.title)
        for number, document in zip(numbers, DOCUMENTS, strict=True)
    ]
    documents.reverse()  # their order does not matter then
    adopt_index(path, documents, ENCODER, tmp_path / "index", factory="Flat")
    with load_index(tmp_path / "index") as index:
        assert index.search(QUERIES, 5) == exact_hits(documents)
    with pytest.raises(DataError, match=r"knows its vectors by numbers of its own, and none by 'd0'"):
        adopt_index(path, DOCUMENTS, ENCODER, tmp_path / "x")


def test_an_index_may_grow_and_change_afterwards(tmp_path: Path) -> None:
    path = written(tmp_path / "their.faiss", "IVF8,Flat")
    adopt_index(path, DOCUMENTS, ENCODER, tmp_path / "index")
    path.unlink()
    with load_index(tmp_path / "index") as index:
        index.add([Document("new", "a new violin")], ENCODER.encode_documents(["a new violin"]))
        index.delete(["d6"])
        index.compact(factory="Flat")
        left = [document for document in [*DOCUMENTS, Document("new", "a new violin")] if document.id != "d6"]
        assert index.search(QUERIES, 5) == exact_hits(left)


def test_other_lengths_are_scaled_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "their.faiss", "Flat", vectors=VECTORS * 7)
    adopted = adopt_index(path, DOCUMENTS, ENCODER, tmp_path / "index")
    assert adopted.scaled == 600
    with load_index(tmp_path / "index") as index:
        found = index.search(QUERIES, 5)
    assert [hit.id for hit in found[0]] == [hit.id for hit in exact_hits(DOCUMENTS)[0]]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"documents": DOCUMENTS[:-1]}, DataError, "expected 600 documents, one for each vector, got 599"),
        ({"documents": [*DOCUMENTS, Document("x", "y")]}, DataError, "expected 600 documents.*got more"),
        ({"documents": DOCUMENTS[::-1]}, EncoderMismatchError, "in the same order"),
        ({"encoder": Stranger("stranger")}, EncoderMismatchError, "not those of stranger"),
        (
            {"encoder": HashEncoder(dimension=16)},
            EncoderMismatchError,
            "length 32, hash-encoder makes them of length 16",
        ),
        ({"documents": [Document(d.id, d.text) for d in DOCUMENTS]}, EncoderMismatchError, "not those of"),
    ],
)
def test_what_does_not_belong_together(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    path = written(tmp_path / "their.faiss", "Flat")
    with pytest.raises(error, match=message):
        adopt_index(path, change.get("documents", DOCUMENTS), change.get("encoder", ENCODER), tmp_path / "index")
    with pytest.raises(IndexFolderError):
        load_index(tmp_path / "index")


def test_files_that_are_no_such_index(tmp_path: Path) -> None:
    path = written(tmp_path / "their.faiss", "Flat")
    whole = path.read_bytes()
    for damaged in (whole[:-7], b"", b"none"):
        path.write_bytes(damaged)
        with pytest.raises(IndexFormatError, match=r"their\.faiss"):
            adopt_index(path, DOCUMENTS, ENCODER, tmp_path / "index")
    faiss.write_index(faiss.IndexFlat(32, faiss.METRIC_L1), str(path))
    with pytest.raises(IndexFormatError, match="expected an index by inner product or L2"):
        adopt_index(path, DOCUMENTS, ENCODER, tmp_path / "index")
    path.write_bytes(whole)
    adopt_index(path, DOCUMENTS, ENCODER, tmp_path / "index")
    with pytest.raises(IndexFolderError, match="already"):
        adopt_index(path, DOCUMENTS, ENCODER, tmp_path / "index")
    written(path, "LSH", inner_product=False)
    with pytest.raises((DataError, EncoderMismatchError, IndexFormatError)):
        adopt_index(path, DOCUMENTS, ENCODER, tmp_path / "other")


def test_codes_that_keep_too_little_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "their.faiss", "PQ4x4")
    with pytest.raises(EncoderMismatchError, match="cosine of"):
        adopt_index(path, DOCUMENTS, ENCODER, tmp_path / "index")
