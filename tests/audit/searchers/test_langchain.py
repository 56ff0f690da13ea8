"""Stores of LangChain as their users have them: in memory, and the community's FAISS store."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document as LangChainDocument
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from safe_retrieval.audit.external import ExternalTarget, TargetOptions
from safe_retrieval.audit.probes import ProbeSet
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.searchers.langchain import LangChainSearcher, load_object
from safe_retrieval.audit.searching import Holds
from safe_retrieval.errors import AuditError, ConfigError
from safe_retrieval.types import Document
from tests.audit.retrievers import probes, production
from tests.support.encoders import HashEncoder


class Hashed(Embeddings):
    """The hash encoder, of another length than one, as some embedders are."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return (2 * HashEncoder().encode_documents(texts)).tolist()

    def embed_query(self, text: str) -> list[float]:
        return (2 * HashEncoder().encode_queries([text])[0]).tolist()


@pytest.fixture(scope="module")
def probe_set() -> ProbeSet:
    return probes(3)


def documents(passages: list[Document]) -> list[LangChainDocument]:
    return [LangChainDocument(each.text, id=each.id, metadata={"doc_id": each.id}) for each in passages]


def in_memory(passages: list[Document]) -> InMemoryVectorStore:
    store = InMemoryVectorStore(Hashed())
    store.add_documents(documents(passages))
    return store


def community_faiss(passages: list[Document]) -> FAISS:
    return FAISS.from_documents(documents(passages), Hashed())


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What ``user_module`` has, as a module that can be imported."""
    made = type(sys)("user_module")
    monkeypatch.setitem(sys.modules, "user_module", made)
    return made.__dict__


def target(probe_set: ProbeSet, folder: Path, *, holds: Holds = Holds.OWN) -> ExternalTarget:
    searcher = LangChainSearcher("user_module:found", folder)
    return ExternalTarget("store", searcher, probe_set, folder, options=TargetOptions(holds=holds))


@pytest.mark.parametrize(("make", "scale"), [(in_memory, "cosine"), (community_faiss, "squared-l2")])
def test_probes_are_overlaid_on_a_store_of_ones_own(
    probe_set: ProbeSet, tmp_path: Path, module: dict[str, object], make: object, scale: str
) -> None:
    module["found"] = store = make(production(20))  # type: ignore[operator]
    before = len(store.similarity_search("word1", k=1000))
    mine = target(probe_set, tmp_path)
    metrics = run_audit(probe_set, [mine], baseline="none").arms["store"].metrics
    assert mine.record["overlay"] == scale
    for metric in ("harm@5", "benign_recall@5"):
        figure = metrics[metric]
        assert figure is not None
        assert figure.value == 1.0
    assert len(store.similarity_search("word1", k=1000)) == before == 20  # nothing was written


@pytest.mark.parametrize("make", [in_memory, community_faiss])
def test_a_store_that_was_filled_with_the_probes(
    probe_set: ProbeSet, tmp_path: Path, module: dict[str, object], make: object
) -> None:
    module["found"] = make(list(probe_set.documents))  # type: ignore[operator]
    report = run_audit(probe_set, [target(probe_set, tmp_path, holds=Holds.PROBES)], baseline="none")
    harm = report.arms["store"].metrics["harm@5"]
    assert harm is not None
    assert harm.value == 1.0


def test_a_retriever_gives_no_scores_so_what_it_holds_is_audited(
    probe_set: ProbeSet, tmp_path: Path, module: dict[str, object]
) -> None:
    harmful = [document for document in probe_set.documents if document.metadata["harmful"]]
    module["found"] = lambda: in_memory([*production(5), *harmful]).as_retriever(search_kwargs={"k": 4})
    mine = target(probe_set, tmp_path)
    metrics = run_audit(probe_set, [mine], baseline="none").arms["store"].metrics
    assert metrics["harm@5"] is None
    assert metrics["any_harm@5"] is not None
    assert metrics["any_harm@5"].value == 1.0
    assert "its scores cannot be merged" in mine.record["notes"][0]
    assert "it returned 4 passages at most where 100 were asked for" in mine.record["notes"][1]


def test_the_fields_that_are_read_are_part_of_what_is_audited(tmp_path: Path, module: dict[str, object]) -> None:
    module["found"] = in_memory(production(2))
    plain = LangChainSearcher("user_module:found", tmp_path)
    labelled = LangChainSearcher("user_module:found", tmp_path, harmful_field="unsafe")
    assert plain.record != labelled.record


def test_what_a_store_raises_is_told(tmp_path: Path, module: dict[str, object]) -> None:
    class Broken(InMemoryVectorStore):
        def similarity_search_with_score(self, *_: object, **__: object) -> list[tuple[LangChainDocument, float]]:
            raise KeyError("gone")

    module["found"] = Broken(Hashed())
    with pytest.raises(AuditError, match="user_module:found raised when it was asked: KeyError: 'gone'"):
        LangChainSearcher("user_module:found", tmp_path).search(["word1"], 3)


@pytest.mark.parametrize("message", ["no hits for {!r}", "bad input_value='{:.24}...'"])
def test_a_message_that_quotes_the_query_is_left_out(tmp_path: Path, module: dict[str, object], message: str) -> None:
    query = "word1 word2's word3 word4 word5 word6"

    class Broken(InMemoryVectorStore):
        def similarity_search_with_score(self, *_: object, **__: object) -> list[tuple[LangChainDocument, float]]:
            raise ValueError(message.format(query))

    module["found"] = Broken(Hashed())
    with pytest.raises(AuditError, match=r"ValueError \(its message quotes a text") as caught:
        LangChainSearcher("user_module:found", tmp_path).search([query], 3)
    assert "word2" not in str(caught.value)


def test_what_a_factory_a_module_or_an_embedder_raises_is_an_error_of_the_audit(
    tmp_path: Path, module: dict[str, object]
) -> None:
    class Failing(Hashed):
        def embed_query(self, text: str) -> list[float]:
            raise RuntimeError(f"refused: {text}")

    module["found"] = lambda: {}["OPENAI_API_KEY"]
    with pytest.raises(ConfigError, match="raised when it was called: KeyError: 'OPENAI_API_KEY'"):
        LangChainSearcher("user_module:found", tmp_path)
    (tmp_path / "raising_module.py").write_text("raise RuntimeError('no key')")
    with pytest.raises(ConfigError, match="cannot be imported: RuntimeError: no key"):
        LangChainSearcher("raising_module:found", tmp_path)
    module["found"] = InMemoryVectorStore(Failing())
    vectors = LangChainSearcher("user_module:found", tmp_path).vectors
    assert vectors is not None
    with pytest.raises(AuditError, match=r"the embedder .*Failing raised: RuntimeError \(its message quotes"):
        vectors.queries(["one two three four five"])


def test_a_score_that_is_no_number_would_break_the_report(tmp_path: Path, module: dict[str, object]) -> None:
    class Broken(InMemoryVectorStore):
        def similarity_search_with_score(self, *_: object, **__: object) -> list[tuple[LangChainDocument, float]]:
            return [(LangChainDocument("word1"), float("nan"))]

    module["found"] = Broken(Hashed())
    with pytest.raises(AuditError, match="a score that is no finite number"):
        LangChainSearcher("user_module:found", tmp_path).search(["word1"], 3)


def test_fields_of_metadata(tmp_path: Path, module: dict[str, object]) -> None:
    store = InMemoryVectorStore(Hashed())
    store.add_documents([LangChainDocument("word1", metadata={"doc_id": 7, "bad": True, "kind": "hate"})])
    module["found"] = store
    searcher = LangChainSearcher(
        "user_module:found", tmp_path, id_field="doc_id", harmful_field="bad", hazard_field="kind"
    )
    ((hit,), *_) = searcher.search(["word1"], 3)[0]
    assert (hit.id, hit.harmful, hit.hazard) == ("7", True, "hate")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:x", "no_such_module:x cannot be imported"),
        ("json:nothing", "json:nothing cannot be imported"),
        ("json", "expected module:attribute"),
        ("json:dumps.__name__", "is a str; expected a LangChain VectorStore or BaseRetriever"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LangChainSearcher(path, tmp_path)


def test_a_module_beside_the_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "module_beside.py").write_text("class Box:\n    value = 3\n")
    assert load_object("module_beside:Box.value", tmp_path) == 3
    assert str(tmp_path) not in sys.path
