from __future__ import annotations

import copy
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumpd, dumps, loads
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableBranch, RunnableLambda, RunnablePassthrough

from langchain_safe_retrieval import (
    OnRefusal,
    RefusalGate,
    SafeRetrievalEmbeddings,
    SafeRetrievalVectorStore,
    SafeRetriever,
)
from langchain_safe_retrieval.retriever import VERDICT_EVENT
from safe_retrieval.errors import EncoderMismatchError, InputError
from safe_retrieval.index.folder import load_index
from safe_retrieval.types import Document as IndexDocument
from tests.integrations.stand_ins import HARMLESS, REFUSED
from tests.support.encoders import HashEncoder

HELP = [Document("Talk to someone you trust.", metadata={"kind": "help"})]


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


def test_documents_with_scores_and_the_gates_verdict(folder: Path) -> None:
    retriever = SafeRetriever.open(folder, k=2, on_refusal="flag")
    found = retriever.invoke(HARMLESS)
    assert (len(found), found[0].id) == (2, "v")
    assert found[0].page_content == "the violin is old"
    score = found[0].metadata.pop("score")
    assert found[0].metadata == {"title": "Violin", "year": 1700, "refusal": pytest.approx(0.1), "flagged": False}
    assert 1 >= score >= found[1].metadata["score"]
    (first, _) = retriever.invoke(REFUSED)
    assert (first.id, first.metadata["flagged"]) == ("f", True)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"on_refusal": "allow"}, [("f", False)]),
        ({"on_refusal": "flag"}, [("f", True)]),
        ({"on_refusal": "empty"}, []),
        ({"on_refusal": "redirect", "redirect_to": HELP}, [(None, True)]),
        ({"on_refusal": "redirect", "redirect_to": RunnableLambda(lambda query: HELP)}, [(None, True)]),
        ({"on_refusal": "empty", "refusal_threshold": 0.97}, [("f", False)]),
    ],
)
async def test_what_happens_on_refusal(folder: Path, settings: dict[str, Any], expected: list[Any]) -> None:
    retriever = SafeRetriever.open(folder, k=1, **settings)
    for found in (retriever.invoke(REFUSED), await retriever.ainvoke(REFUSED)):
        assert [(document.id, document.metadata["flagged"]) for document in found] == expected
    for found in (retriever.invoke(HARMLESS), await retriever.ainvoke(HARMLESS)):
        assert [(document.id, document.metadata["flagged"]) for document in found] == [("v", False)]
    assert HELP[0].metadata == {"kind": "help"}


def test_an_ordinary_arm_has_a_gate_too(folder: Path) -> None:
    assert SafeRetriever.open(folder, arm="input", on_refusal="empty").invoke(REFUSED) == []
    (first, *_) = SafeRetriever.open(folder, arm="input").invoke(REFUSED)
    assert first.metadata["refusal"] is None


def test_k_filter_and_threshold_for_all_queries_and_for_one(folder: Path) -> None:
    retriever = SafeRetriever.open(folder, k=1, filter={"year": None})
    assert ids(retriever.invoke(HARMLESS)) != ["v"]
    assert ids(retriever.invoke(HARMLESS, filter={"year": 1700})) == ["v"]
    assert len(retriever.invoke(HARMLESS, k=2)) == 2
    everything = SafeRetriever.open(folder, k=3)
    scores = [document.metadata["score"] for document in everything.invoke(HARMLESS)]
    least = (scores[0] + scores[1]) / 2
    assert len(everything.invoke(HARMLESS, score_threshold=least)) == 1
    assert len(SafeRetriever.open(folder, score_threshold=least).invoke(HARMLESS)) == 1
    with pytest.raises(InputError, match="at least 1"):
        retriever.invoke(HARMLESS, k=0)


def test_words_and_vectors_together(folder: Path) -> None:
    retriever = SafeRetriever.open(folder, hybrid=True, on_refusal="empty", k=2)
    assert retriever.invoke("copper")[0].id == "c"
    assert retriever.invoke(REFUSED) == []
    assert ids(retriever.invoke("copper", filter={"year": 1700})) == ["v"]
    with load_index(folder) as index:
        index.upsert([IndexDocument("n", "zebra")], HashEncoder("stores").encode_documents(["zebra"]))
    assert retriever.invoke("zebra")[0].id != "n"  # an opened index is one state of it
    assert SafeRetriever.open(folder, hybrid=True).invoke("zebra")[0].id == "n"
    with pytest.raises(InputError, match="made of ranks"):
        retriever.invoke("copper", score_threshold=0.5)


@pytest.mark.parametrize("arm", ["output", "input"])
def test_behind_a_gate_words_are_those_that_were_judged(
    folder: Path, arm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_words(_: HashEncoder, texts: Sequence[str]) -> list[str]:
        return [" ".join(text.split()[:2]) for text in texts]

    monkeypatch.setattr(HashEncoder, "as_read", first_words, raising=False)
    query = (
        f"{HARMLESS} forbidden lantern"  # it judges and embeds the whole here; the words stop where it stops reading
    )
    for hybrid in (True, False):
        open_to_all = SafeRetriever.open(folder, arm=arm, hybrid=hybrid, k=3)
        gated = SafeRetriever.open(folder, arm=arm, hybrid=hybrid, k=3, on_refusal="empty")
        found, judged = (
            [(each.id, each.metadata["score"]) for each in gated.invoke(text)] for text in (query, HARMLESS)
        )
        assert found == judged
        assert found != [(each.id, each.metadata["score"]) for each in open_to_all.invoke(query)]


def test_words_and_vectors_together_follow_a_store_that_changes(folder: Path) -> None:
    store = SafeRetrievalVectorStore.load_local(folder, SafeRetrievalEmbeddings())
    retriever = store.as_safe_retriever(hybrid=True, k=1)
    store.add_texts(["zebra"], ids=["n"])
    assert ids(retriever.invoke("zebra")) == ["n"]
    store.delete()
    assert retriever.invoke("zebra") == []


@pytest.mark.parametrize("k", [1.5, "2", True])
async def test_hits_are_counted_in_whole_numbers(folder: Path, k: Any) -> None:
    retriever = SafeRetriever.open(folder)
    with pytest.raises(InputError, match="whole number of hits"):
        retriever.invoke(HARMLESS, k=k)
    with pytest.raises(InputError, match="whole number of hits"):
        await retriever.ainvoke(HARMLESS, k=k)


@pytest.mark.parametrize("least", [float("nan"), 1.5, -2])
def test_a_threshold_for_one_query_is_a_cosine_too(folder: Path, least: float) -> None:
    with pytest.raises(InputError, match="a cosine from -1 to 1"):
        SafeRetriever.open(folder).invoke(HARMLESS, score_threshold=least)


async def test_a_redirection_keeps_its_own_scores(folder: Path) -> None:
    scored = SafeRetriever.open(folder, k=1)
    (expected,) = scored.invoke(REFUSED)
    given = [Document("Talk to someone.", metadata={"score": 0.5}), *HELP]
    for target, scores in ((scored, [expected.metadata["score"]]), (given, [0.5, None])):
        retriever = SafeRetriever.open(folder, on_refusal="redirect", redirect_to=target)
        for found in (retriever.invoke(REFUSED), await retriever.ainvoke(REFUSED)):
            assert [document.metadata["score"] for document in found] == scores
            assert all(document.metadata["flagged"] for document in found)


def test_copies_share_index_and_models(folder: Path) -> None:
    retriever = SafeRetriever.open(folder, k=1, hybrid=True, on_refusal="empty", tags=["mine"])
    store = SafeRetrievalVectorStore.load_local(folder, SafeRetrievalEmbeddings())
    for original in (retriever, store.as_safe_retriever(k=1, on_refusal="empty")):
        expected = original.invoke(HARMLESS)
        for copied in (copy.deepcopy(original), original.model_copy(deep=True)):
            assert copied._store is original._store
            assert copied.embeddings.queries_by is original.embeddings.queries_by
            assert copied.invoke(HARMLESS) == expected
            assert copied.invoke(REFUSED) == []
    copied = copy.deepcopy(retriever)
    (copied.tags or []).append("other")
    copied.k = 3
    assert (retriever.tags, retriever.k) == (["mine"], 1)


@pytest.mark.parametrize(("own", "arm"), [("input", "output"), ("output", "output"), ("blend", "blend")])
def test_swapping_in_swaps_the_query_side_of_our_own_embeddings(folder: Path, own: str, arm: str) -> None:
    embeddings = SafeRetrievalEmbeddings(arm=own, policy="concise", batch_size=4)
    store = SafeRetrievalVectorStore.load_local(folder, embeddings)
    for retriever in (SafeRetriever.from_vectorstore(store), store.as_safe_retriever()):
        expected = SafeRetrievalEmbeddings(arm=arm, policy="concise", batch_size=4)
        assert retriever.embeddings == expected
    assert SafeRetriever.from_vectorstore(store, embeddings=embeddings).embeddings == embeddings


def test_settings_that_make_no_sense_are_refused(folder: Path) -> None:
    for settings, message in [
        ({"k": 0}, "greater than or equal"),
        ({"on_refusal": "scold"}, "'redirect'"),
        ({"on_refusal": "redirect"}, "redirect_to together"),
        ({"redirect_to": HELP}, "redirect_to together"),
        ({"hybrid": True, "score_threshold": 0.5}, "made of ranks"),
        ({"refusal_threshold": 1.5}, "less than or equal"),
        ({"threshold": 0.5}, "not permitted"),
    ]:
        with pytest.raises(ValueError, match=message):
            SafeRetriever.open(folder, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="either index_path or vectorstore"):
        SafeRetriever()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("on_refusal", "empty"),
        ("redirect_to", HELP),
        ("hybrid", True),
        ("embeddings", SafeRetrievalEmbeddings(arm="input")),
        ("index_path", "elsewhere"),
        ("vectorstore", None),
    ],
)
def test_what_was_checked_together_does_not_change_afterwards(folder: Path, setting: str, value: Any) -> None:
    retriever = SafeRetriever.open(folder)
    with pytest.raises(ValueError, match="frozen"):
        setattr(retriever, setting, value)
    retriever.k, retriever.score_threshold = 1, 0.1  # what every query looks at anew may
    assert ids(retriever.invoke(HARMLESS)) == ["v"]


def test_an_index_of_another_model_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "safe_retrieval.encoder.input.InputEncoder.load", lambda *_, **__: HashEncoder("other", space="other")
    )
    with pytest.raises(EncoderMismatchError):
        SafeRetriever.open(folder)


class Heard(BaseCallbackHandler):
    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def on_retriever_start(
        self, serialized: Any, query: str, *, tags: Any = None, metadata: Any = None, **_: Any
    ) -> None:
        self.events.append(("start", query, tags, metadata))

    def on_retriever_end(self, documents: Any, **_: Any) -> None:
        self.events.append(("end", len(documents)))

    def on_retriever_error(self, error: BaseException, **_: Any) -> None:
        self.events.append(("error", type(error)))

    def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        self.events.append((name, data))


class HeardLater(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    async def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **_: Any) -> None:
        self.events.append((name, data))


async def test_callbacks_see_the_retrieval_and_the_verdict(folder: Path) -> None:
    retriever = SafeRetriever.open(folder, on_refusal="empty", tags=["mine"])
    heard = Heard()
    retriever.invoke(REFUSED, {"callbacks": [heard]})
    start, verdict, end = heard.events
    assert start[:3] == ("start", REFUSED, ["mine"])
    assert start[3]["ls_vector_store_provider"] == "SafeRetrievalVectorStore"
    assert start[3]["ls_retriever_name"] == "safe"
    seen = (VERDICT_EVENT, {"refusal": pytest.approx(0.96), "flagged": True, "on_refusal": "empty"})
    assert verdict == seen
    assert end == ("end", 0)
    later = HeardLater()
    await retriever.ainvoke(REFUSED, {"callbacks": [later]})
    assert later.events == [seen]
    with pytest.raises(InputError):
        retriever.invoke(HARMLESS, {"callbacks": [heard]}, k=-1)
    assert heard.events[-1] == ("error", InputError)


async def test_events_of_a_chain_hold_the_redirection_inside_the_retrieval(folder: Path) -> None:
    elsewhere = SafeRetriever.open(folder, k=1)
    retriever = SafeRetriever.open(folder, on_refusal="redirect", redirect_to=elsewhere)
    events = [event async for event in retriever.astream_events(REFUSED, version="v2")]
    names = [event["event"] for event in events]
    assert names[0] == names[2] == "on_retriever_start"
    assert names[1] == "on_custom_event"
    assert names[-1] == "on_retriever_end"
    assert events[2]["parent_ids"] == [events[0]["run_id"]]


def test_a_retriever_over_a_folder_serialises(folder: Path) -> None:
    retriever = SafeRetriever.open(folder, arm="blend", k=2, on_refusal="redirect", redirect_to=HELP)
    text = dumps(retriever)
    allowed: list[Any] = [SafeRetriever, SafeRetrievalEmbeddings, Document]
    again = loads(text, allowed_objects=allowed, valid_namespaces=["langchain_safe_retrieval"])
    assert again.on_refusal is OnRefusal.REDIRECT
    assert dumpd(again) == dumpd(retriever)
    assert again.invoke(HARMLESS) == retriever.invoke(HARMLESS)
    assert again.invoke(REFUSED) == retriever.invoke(REFUSED)
    gate = RefusalGate(threshold=0.8)
    allowed.append(RefusalGate)
    assert loads(dumps(gate), allowed_objects=allowed, valid_namespaces=["langchain_safe_retrieval"]) == gate


def test_a_whole_chain_hands_the_model_what_passed_the_gate(folder: Path) -> None:
    seen: list[str] = []

    def shown(prompt: Any) -> Any:
        seen.append(prompt.to_string())
        return prompt

    prompt = ChatPromptTemplate.from_template("Passages: {passages}\nQuestion: {question}")
    answer = RunnableLambda(shown) | FakeListChatModel(responses=["an answer"]) | StrOutputParser()
    retriever = SafeRetriever.open(folder, k=1, on_refusal="empty")
    joined = retriever | (lambda documents: "; ".join(each.page_content for each in documents))
    chain = {"passages": joined, "question": RunnablePassthrough()} | prompt | answer
    assert chain.batch([HARMLESS, REFUSED]) == ["an answer", "an answer"]
    assert sorted(text.split("\n")[0] for text in seen) == ["Human: Passages: ", "Human: Passages: the violin is old"]

    gate = RefusalGate()
    branched = gate | RunnableBranch((itemgetter("flagged"), lambda verdict: "no"), itemgetter("query") | chain)
    assert branched.batch([HARMLESS, REFUSED]) == ["an answer", "no"]
