from __future__ import annotations

import asyncio
import copy
import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, aindex, index

from langchain_safe_retrieval import SafeRetrievalEmbeddings, SafeRetrievalVectorStore
from safe_retrieval.errors import DataError, EncoderMismatchError, IndexFolderError, IndexFormatError, InputError
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.folder import load_index
from safe_retrieval.types import Document as IndexDocument
from tests.integrations.stand_ins import HARMLESS
from tests.support.encoders import HashEncoder

FAKE = DeterministicFakeEmbedding(size=8)
YEARS = [Document(id=f"d{year}", page_content=f"text of {year}", metadata={"year": year}) for year in range(1990, 2010)]


@pytest.fixture
def store(tmp_path: Path) -> SafeRetrievalVectorStore:
    return SafeRetrievalVectorStore.from_documents(YEARS, FAKE, path=tmp_path / "years")


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


def test_a_folder_that_our_command_line_built(folder: Path) -> None:
    store = SafeRetrievalVectorStore.load_local(folder, SafeRetrievalEmbeddings())
    (found,) = store.similarity_search(HARMLESS, k=1)
    assert found == Document(id="v", page_content="the violin is old", metadata={"title": "Violin", "year": 1700})
    assert store.similarity_search(HARMLESS, k=3, filter={"title": "Violin"}) == [found]
    assert store.get_by_ids(["f", "nobody", "v", "f"]) == [
        Document(id="f", page_content="the forbidden lantern"),
        found,
    ]


def test_filters_are_pushed_down(store: SafeRetrievalVectorStore) -> None:
    nearest = store.similarity_search("text of 1990", k=20)
    last = nearest[-1].metadata["year"]
    assert ids(store.similarity_search("text of 1990", k=3, filter={"year": last})) == [f"d{last}"]
    late: dict[str, Any] = {"year": {"$gte": 2005}}
    expected = [document.id for document in nearest if document.metadata["year"] >= 2005]
    assert ids(store.similarity_search("text of 1990", k=10, filter=late)) == expected
    assert len(store.max_marginal_relevance_search("text of 1990", k=10, filter=late)) == 5
    retriever = store.as_retriever(search_kwargs={"k": 2, "filter": late})
    assert ids(retriever.invoke("text of 1990")) == expected[:2]


def test_a_misspelt_filter_is_no_search_without_one(store: SafeRetrievalVectorStore) -> None:
    with pytest.raises(InputError, match="unknown arguments: where"):
        store.similarity_search("text", where={"year": 1990})
    with pytest.raises(InputError, match="expected a filter"):
        store.similarity_search("text", filter=lambda document: True)  # type: ignore[arg-type]


def test_scores_are_cosines_and_relevance_is_between_nought_and_one(store: SafeRetrievalVectorStore) -> None:
    query = np.asarray(FAKE.embed_query("text of 1994"))
    for document, score in store.similarity_search_with_score("text of 1994", k=20):
        vector = np.asarray(FAKE.embed_documents([document.page_content])[0])
        cosine = float(query @ vector / np.linalg.norm(query) / np.linalg.norm(vector))
        assert score == pytest.approx(cosine, abs=1e-6)
    found = store.similarity_search_with_relevance_scores("text of 1994", k=20)
    assert found[0][1] == pytest.approx(1)
    assert all(0 <= relevance <= 1 for _, relevance in found)
    least = (found[4][1] + found[5][1]) / 2
    by_threshold = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"k": 20, "score_threshold": least}
    )
    assert ids(by_threshold.invoke("text of 1994")) == ids([document for document, _ in found[:5]])


def test_diversity_goes_from_the_nearest_to_the_farthest(store: SafeRetrievalVectorStore) -> None:
    nearest = ids(store.similarity_search("text of 1990", k=5))
    assert ids(store.max_marginal_relevance_search("text of 1990", k=5, lambda_mult=1)) == nearest
    diverse = ids(store.max_marginal_relevance_search("text of 1990", k=5, fetch_k=20, lambda_mult=0))
    assert diverse[0] == nearest[0]
    assert diverse != nearest
    with pytest.raises(InputError, match="balance"):
        store.max_marginal_relevance_search("text", lambda_mult=2)


async def test_the_asynchronous_methods_say_the_same(store: SafeRetrievalVectorStore) -> None:
    query, late = "text of 1999", {"year": {"$gte": 1995}}
    vector = FAKE.embed_query(query)
    assert await store.asimilarity_search(query, 3, filter=late) == store.similarity_search(query, 3, filter=late)
    assert await store.asimilarity_search_with_score(query) == store.similarity_search_with_score(query)
    assert await store.asimilarity_search_by_vector(vector) == store.similarity_search_by_vector(vector)
    assert await store.amax_marginal_relevance_search(query) == store.max_marginal_relevance_search(query)
    assert await store.aget_by_ids(["d1990"]) == store.get_by_ids(["d1990"])
    relevant = await store.asimilarity_search_with_relevance_scores(query)
    assert relevant == store.similarity_search_with_relevance_scores(query)
    again = await SafeRetrievalVectorStore.afrom_texts(["one"], FAKE, ids=["1"])
    assert await again.aadd_documents([Document("two")], ids=["2"]) == ["2"]
    await again.adelete(["1"])
    assert again.index.ids() == ["2"]


async def test_texts_are_all_stored_or_refused(tmp_path: Path) -> None:
    texts = ["aa", "bbb", "cccc"]
    for wrong in ({"ids": ["1", "2"]}, {"metadatas": [{}]}):
        with pytest.raises(InputError, match=r"expected (one id|as many metadatas)"):
            SafeRetrievalVectorStore.from_texts(texts, FAKE, **wrong, path=tmp_path / "out")  # type: ignore[arg-type]
    store = SafeRetrievalVectorStore.from_texts([], FAKE)
    assert len(store.add_texts(text for text in texts)) == 3
    assert len(await store.aadd_texts(iter(texts), [{"n": number} for number in range(3)])) == 3
    assert len(store.index) == 6
    assert store.add_texts(iter(["d"]), [{"n": 7}], ids=["7"]) == ["7"]
    assert store.get_by_ids(["7"])[0].metadata == {"n": 7}
    with pytest.raises(InputError, match="wrap it in a list"):
        store.add_texts("one text")


def test_saved_and_loaded(store: SafeRetrievalVectorStore, tmp_path: Path) -> None:
    store.delete(["d1990"])
    store.save_local(tmp_path / "copy")
    store.save_local(tmp_path / "copy")
    store.save_local(store.index.path)
    again = SafeRetrievalVectorStore.load_local(tmp_path / "copy", FAKE)
    assert again.similarity_search_with_score("text of 1999") == store.similarity_search_with_score("text of 1999")
    assert [path.suffix for path in again.index.path.rglob("*.pkl")] == []
    again.add_texts(["more"], ids=["more"])
    assert "more" not in store.index
    assert len(again.index) == 20


def test_a_copy_onto_something_else_or_of_a_file_that_is_gone_is_refused(
    store: SafeRetrievalVectorStore, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear all")
    with pytest.raises(IndexFolderError, match="holds other files"):
        store.save_local(tmp_path / "other")
    with load_index(store.index.path) as other:
        other.compact()
        other.delete(["d1990"])
        other.compact()
    with pytest.raises(IndexFolderError, match="refresh it"):
        store.save_local(tmp_path / "copy")


def test_an_altered_file_is_not_read(store: SafeRetrievalVectorStore) -> None:
    (vectors,) = store.index.path.glob("vectors-*.faiss")
    vectors.write_bytes(vectors.read_bytes()[:-1] + b"\x00")
    with pytest.raises(IndexFormatError):
        SafeRetrievalVectorStore.load_local(store.index.path, FAKE)


def test_a_store_without_a_path_leaves_nothing_behind() -> None:
    store = SafeRetrievalVectorStore.from_texts(["one", "two"], FAKE, [{"n": 1}, {"n": 2}])
    path = store.index.path
    assert len(store.similarity_search("one", k=5)) == 2
    del store
    gc.collect()
    assert not path.exists()


def test_another_models_index_is_refused(folder: Path, store: SafeRetrievalVectorStore) -> None:
    with pytest.raises(EncoderMismatchError, match=r"median cosine of 0\.00"):
        SafeRetrievalVectorStore.load_local(folder, FAKE)
    with pytest.raises(EncoderMismatchError):
        SafeRetrievalVectorStore.load_local(store.index.path, SafeRetrievalEmbeddings())


def test_the_same_model_under_another_class_is_not(known: None, tmp_path: Path) -> None:
    class Stores(DeterministicFakeEmbedding):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            rows: list[list[float]] = (2 * HashEncoder("stores").encode_documents(texts)).tolist()
            return rows

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    built = SafeRetrievalVectorStore.from_texts(["the violin is old"], Stores(size=32), path=tmp_path / "index")
    again = SafeRetrievalVectorStore.load_local(built.index.path, SafeRetrievalEmbeddings())
    assert again.similarity_search_with_score("the violin is old")[0][1] == pytest.approx(1)
    empty = SafeRetrievalVectorStore.create(tmp_path / "empty", Stores(size=32))
    with pytest.raises(EncoderMismatchError):
        SafeRetrievalVectorStore.load_local(empty.index.path, SafeRetrievalEmbeddings())


def test_what_cannot_be_stored_is_refused_whole(store: SafeRetrievalVectorStore) -> None:
    with pytest.raises(InputError, match="comes twice"):
        store.add_documents([Document("a"), Document("b")], ids=["x", "x"])
    with pytest.raises(InputError, match="one id for each"):
        store.add_documents([Document("a")], ids=["x", "y"])
    with pytest.raises(DataError, match="JSON"):
        store.add_documents([Document("a"), Document("b", metadata={"when": object()})], ids=["x", "y"])
    assert "x" not in store.index
    assert store.add_documents([]) == []


def test_deleting_everything_and_being_read_only(store: SafeRetrievalVectorStore) -> None:
    only = SafeRetrievalVectorStore.load_local(store.index.path, FAKE, read_only=True)
    with pytest.raises(InputError, match="read-only"):
        only.add_texts(["more"])
    assert store.delete()
    assert store.similarity_search("text") == []


@pytest.mark.parametrize("unknown", [{"filter": {"year": 1990}}, {"filter": None}, {"where": {"year": 1990}}])
async def test_a_filter_that_delete_does_not_know_deletes_nothing(
    store: SafeRetrievalVectorStore, unknown: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="delete takes ids alone"):
        store.delete(**unknown)
    with pytest.raises(InputError, match="delete takes ids alone"):
        await store.adelete(["d1990"], **unknown)
    assert len(store.index) == 20
    assert store.delete([])
    assert len(store.index) == 20


def test_copies_share_the_index() -> None:
    store = SafeRetrievalVectorStore.from_texts(["one"], FAKE, ids=["1"])
    path, copied = store.index.path, copy.deepcopy(store)
    store.add_texts(["two"], ids=["2"])
    del store
    gc.collect()
    assert len(copied.similarity_search("one", k=5)) == 2
    copied.add_texts(["three"])  # the folder lives as long as the copy
    del copied
    gc.collect()
    assert not path.exists()


def test_many_threads_write_and_read(store: SafeRetrievalVectorStore) -> None:
    def work(number: int) -> None:
        for turn in range(5):
            store.add_texts([f"thread {number} turn {turn}"], ids=[f"t{number}-{turn}"])
            store.similarity_search("thread", k=3)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.index) == 40


def pages(*texts: str, source: str = "book") -> list[Document]:
    return [Document(text, metadata={"source": source}) for text in texts]


def texts_of(store: SafeRetrievalVectorStore) -> list[str]:
    return sorted(document.text for document in store.index.documents())


def test_langchains_indexing_keeps_the_store_up_to_date() -> None:
    store = SafeRetrievalVectorStore.from_texts([], FAKE)
    manager = InMemoryRecordManager("test")
    manager.create_schema()

    def run(documents: list[Document], cleanup: Any, **settings: Any) -> tuple[int, ...]:
        found = index(
            documents, manager, store, cleanup=cleanup, source_id_key="source", key_encoder="sha256", **settings
        )
        return found["num_added"], found["num_updated"], found["num_skipped"], found["num_deleted"]

    assert run(pages("one", "two", "two"), "incremental") == (2, 0, 1, 0)
    assert run(pages("one", "two"), "incremental") == (0, 0, 2, 0)
    assert run(pages("one", "three"), "incremental") == (1, 0, 1, 1)
    assert texts_of(store) == ["one", "three"]
    assert run(pages("other", source="letter"), "incremental") == (1, 0, 0, 0)
    assert run(pages("one"), "scoped_full") == (0, 0, 1, 1)
    assert texts_of(store) == ["one", "other"]
    assert run(pages("four"), "full") == (1, 0, 0, 2)
    assert run(pages("four"), None, force_update=True) == (0, 1, 0, 0)
    assert texts_of(store) == ["four"]
    assert run([], "full") == (0, 0, 0, 1)
    assert texts_of(store) == []


def test_langchains_indexing_asynchronously() -> None:
    store = SafeRetrievalVectorStore.from_texts([], FAKE)
    manager = InMemoryRecordManager("test")
    manager.create_schema()
    for documents in (pages("one", "two"), pages("two")):
        asyncio.run(aindex(documents, manager, store, cleanup="full", source_id_key="source", key_encoder="sha256"))
    assert texts_of(store) == ["two"]


def test_an_index_of_another_kind_is_opened_and_copied(known: None, tmp_path: Path) -> None:
    documents = [IndexDocument(f"d{number}", f"text {number}") for number in range(60)]
    build_index(documents, HashEncoder("stores"), tmp_path / "index", progress=False, factory="HNSW32")
    store = SafeRetrievalVectorStore.load_local(tmp_path / "index", SafeRetrievalEmbeddings(arm="input"))
    assert ids(store.similarity_search("text 7", k=1)) == ["d7"]
    store.save_local(tmp_path / "copy")
    assert load_index(tmp_path / "copy").manifest.factory == "HNSW32"


def test_texts_that_cannot_be_stored_leave_no_index_behind(tmp_path: Path) -> None:
    path = tmp_path / "new"
    bad: list[dict[str, Any]] = [{"n": 1}, {"n": object()}]
    with pytest.raises(DataError):
        SafeRetrievalVectorStore.from_texts(["one", "two"], FAKE, bad, path=path)
    assert not path.exists()
    SafeRetrievalVectorStore.from_texts(["one", "two"], FAKE, [{"n": 1}, {"n": 2}], path=path)
    with pytest.raises(IndexFolderError):
        SafeRetrievalVectorStore.from_texts(["one"], FAKE, path=path)
    assert len(SafeRetrievalVectorStore.load_local(path, FAKE).index) == 2  # what was there stays
