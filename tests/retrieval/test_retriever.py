from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safe_retrieval.audit.corpus import CorpusIndex
from safe_retrieval.errors import EncoderMismatchError, InputError
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.folder import SearchableIndex, load_index
from safe_retrieval.retrieval.arms import ArmLoader
from safe_retrieval.retrieval.guard import RefusalGate
from safe_retrieval.retrieval.lexical import LexicalIndex
from safe_retrieval.retrieval.retriever import Arm, SafeRetriever
from safe_retrieval.types import GateAction, QueryEncoding, Retriever
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

QUERIES = ["violin 6", "forbidden violin 6"]
FLAG = RefusalGate(GateAction.FLAG)
EMPTY = RefusalGate(GateAction.EMPTY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("retriever") / "index"
    build_index(small_corpus(20), HashEncoder(), path)
    return path


@pytest.fixture
def index(folder: Path) -> Iterator[SearchableIndex]:
    with load_index(folder) as opened:
        yield opened


def test_hits_are_those_of_the_index_and_lead_to_documents(index: SearchableIndex) -> None:
    encoder = HashEncoder()
    retriever = SafeRetriever(index, encoder, name="input")
    assert isinstance(retriever, Retriever)
    (retrieval,) = retriever.retrieve(["violin 6"], k=3)
    assert list(retrieval.hits) == index.search(encoder.encode_queries(["violin 6"]), 3)[0]
    assert retrieval.refusal is None
    assert not retrieval.flagged
    documents = retriever.documents(retrieval)
    assert [document.id for document in documents] == [hit.id for hit in retrieval.hits]
    assert documents[0].id == "d6"


def test_no_queries_give_no_retrievals(index: SearchableIndex) -> None:
    assert SafeRetriever(index, HashEncoder()).retrieve([]) == []


class ShortSighted(HashEncoder):
    """Judges the first two words of a text and embeds all of it, as MiniLM would read on where a backbone stops."""

    def __init__(self) -> None:
        super().__init__(refused=["forbidden"])

    def as_read(self, texts: Sequence[str]) -> list[str]:
        return [" ".join(text.split()[:2]) for text in texts]

    def _refusal(self, texts: Sequence[str]) -> Any:
        return super()._refusal(self.as_read(texts))


@pytest.mark.parametrize("lexical", [False, True])
def test_behind_a_gate_only_what_was_judged_is_searched_with(index: SearchableIndex, lexical: bool) -> None:
    words = LexicalIndex(index.documents()) if lexical else None
    query, judged = "violin 6 forbidden trumpet 3", "violin 6"
    gated = SafeRetriever(index, ShortSighted(), gate=EMPTY, lexical=words)
    (found,) = gated.retrieve([query], k=5)
    assert not found.flagged  # nobody saw the word
    assert found.hits == gated.retrieve([judged], k=5)[0].hits
    open_to_all = SafeRetriever(index, ShortSighted(), lexical=words)
    assert open_to_all.retrieve([query], k=5)[0].hits != found.hits
    beside = SafeRetriever(index, HashEncoder(), gate=EMPTY, lexical=words, refusal_encoder=ShortSighted())
    assert beside.retrieve([query], k=5)[0].hits == found.hits
    alone = SafeRetriever(
        index, None, gate=EMPTY, lexical=LexicalIndex(index.documents()), refusal_encoder=ShortSighted()
    )
    assert alone.retrieve([query], k=5)[0].hits == alone.retrieve([judged], k=5)[0].hits


def test_refusal_is_reported_without_a_gate(index: SearchableIndex) -> None:
    retrievals = SafeRetriever(index, HashEncoder(refused=["forbidden"])).retrieve(QUERIES)
    assert [round(r.refusal or 0, 3) for r in retrievals] == [0.1, 0.96]
    assert not any(r.flagged for r in retrievals)


def test_gate_flags_or_empties_only_what_would_be_refused(index: SearchableIndex) -> None:
    encoder = HashEncoder(refused=["forbidden"])
    free = SafeRetriever(index, encoder).retrieve(QUERIES)
    flagged = SafeRetriever(index, encoder, gate=FLAG).retrieve(QUERIES)
    assert [r.flagged for r in flagged] == [False, True]
    assert [r.hits for r in flagged] == [r.hits for r in free]
    emptied = SafeRetriever(index, encoder, gate=EMPTY).retrieve(QUERIES)
    assert emptied[0] == free[0]
    assert (emptied[1].hits, emptied[1].flagged) == ((), True)


def test_verdict_comes_from_a_second_encoder_where_the_first_has_none(index: SearchableIndex) -> None:
    judge = HashEncoder(refused=["forbidden"])
    arguments: dict[str, Any]
    for arguments in ({"encoder": HashEncoder()}, {"encoder": None, "lexical": LexicalIndex(index.documents())}):
        retriever = SafeRetriever(index, gate=EMPTY, refusal_encoder=judge, **arguments)
        assert [r.flagged for r in retriever.retrieve(QUERIES)] == [False, True]


def test_one_forward_pass_serves_several_retrievers(index: SearchableIndex) -> None:
    encoder = HashEncoder(refused=["forbidden"])
    encoding = encoder.encode(QUERIES)
    calls = encoder.query_calls
    open_door = SafeRetriever(index, encoder).retrieve_encoded(encoding, k=2)
    gated = SafeRetriever(index, encoder, gate=EMPTY).retrieve_encoded(encoding, k=2)
    assert encoder.query_calls == calls
    assert open_door[0] == gated[0]
    assert [len(r.hits) for r in open_door] == [2, 2]
    assert [len(r.hits) for r in gated] == [2, 0]


def test_hybrid_fuses_both_rankings(index: SearchableIndex) -> None:
    lexical = LexicalIndex(index.documents())
    hybrid = SafeRetriever(index, HashEncoder(), lexical=lexical)
    (retrieval,) = hybrid.retrieve(["violin 6"], k=5)
    assert retrieval.hits[0].id == "d6"
    assert retrieval.hits[0].score == pytest.approx(2 / 61)  # first in both
    assert len(retrieval.hits) == 5


def test_bm25_needs_no_encoder(index: SearchableIndex) -> None:
    lexical = LexicalIndex(index.documents())
    retriever = SafeRetriever(index, None, lexical=lexical)
    retrievals = retriever.retrieve(["violin", "unheard-of"], k=3)
    assert list(retrievals[0].hits) == lexical.search(["violin"], 3)[0]
    assert retrievals[1].hits == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: SafeRetriever(index, None), "neither"),
        (
            lambda index: SafeRetriever(index, None, lexical=LexicalIndex(small_corpus(2)), gate=EMPTY),
            "refusal_encoder",
        ),
        (lambda index: SafeRetriever(index, HashEncoder(), gate=EMPTY).retrieve(["a"]), "refusal_encoder"),
        (lambda index: SafeRetriever(index, HashEncoder()).retrieve("a query"), "one str"),
        (lambda index: SafeRetriever(index, HashEncoder()).retrieve(["a"], k=0), "at least 1"),
        (lambda index: SafeRetriever(index, HashEncoder()).retrieve(["a"], k=1.5), "whole number of hits, got 1.5"),
        (lambda index: SafeRetriever(index, HashEncoder()).retrieve_diverse(["a"], k=1.5), "whole number of hits"),
        (lambda index: SafeRetriever.open(index.path, arm="sideways"), "input, output, blend"),
        (lambda index: SafeRetriever.open(index.path, gate="shut"), "allow, flag, empty"),
    ],
)
def test_wrong_arguments_say_what_was_expected(index: SearchableIndex, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(index)


def test_encoded_parts_must_fit(index: SearchableIndex) -> None:
    vectors = HashEncoder().encode_queries(["a", "b"])
    with pytest.raises(InputError, match="each of 2 queries"):
        SafeRetriever(index, HashEncoder()).retrieve_encoded(QueryEncoding(vectors, np.zeros(3, np.float32)))
    with pytest.raises(InputError, match="as texts"):
        SafeRetriever(index, None, lexical=LexicalIndex(small_corpus(3))).retrieve_encoded(QueryEncoding(vectors, None))


def test_encoder_of_another_space_is_refused_by_name(index: SearchableIndex) -> None:
    with pytest.raises(EncoderMismatchError, match=r"hash-encoder.*stranger"):
        SafeRetriever(index, HashEncoder("stranger", space="elsewhere"))


@pytest.mark.parametrize("arm", list(Arm))
@pytest.mark.parametrize("gate", list(GateAction))
def test_open_loads_what_the_arm_needs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arm: Arm, gate: GateAction
) -> None:
    loaded: list[str] = []

    def load(kind: str, verdict: bool) -> Any:
        def make(self: ArmLoader, *_: Any) -> HashEncoder:
            loaded.append(kind)
            return HashEncoder(refused=["forbidden"] if verdict else None)

        return make

    monkeypatch.setattr(ArmLoader, "_input", load("input", False))
    monkeypatch.setattr(ArmLoader, "_response", load("response", True))
    monkeypatch.setattr("safe_retrieval.encoder.hyde.HydeEncoder.load", lambda *_, **__: load("hyde", True)(None))
    monkeypatch.setattr("safe_retrieval.encoder.blend.BlendEncoder", lambda response, _: response)
    retriever = SafeRetriever.open(folder, arm=arm.value, gate=gate.value)
    assert retriever.name == arm.value
    expected = {
        Arm.INPUT: ["input"],
        Arm.OUTPUT: ["response"],
        Arm.BLEND: ["response", "input"],
        Arm.HYDE: ["hyde"],
        Arm.BM25: [],
    }[arm]
    if gate is not GateAction.ALLOW and arm in {Arm.INPUT, Arm.BM25}:
        expected = [*expected, "response"]
    assert loaded == expected
    retrievals = retriever.retrieve(QUERIES, k=3)
    assert [r.flagged for r in retrievals] == [False, gate is not GateAction.ALLOW]
    assert [bool(r.hits) for r in retrievals] == [True, gate is not GateAction.EMPTY]


EVEN = {"number": {"$in": list(range(0, 20, 2))}}


def test_filters_reach_every_arm(index: SearchableIndex) -> None:
    encoder, lexical = HashEncoder(), LexicalIndex(index.documents())
    even = {f"d{number}" for number in range(0, 20, 2)}
    for retriever in (
        SafeRetriever(index, encoder),
        SafeRetriever(index, None, lexical=lexical),
        SafeRetriever(index, encoder, lexical=lexical),
    ):
        (retrieval,) = retriever.retrieve(["beside the river"], k=10, where=EVEN)
        assert {hit.id for hit in retrieval.hits} == even
        assert retriever.retrieve(["beside the river"], where={"number": -1})[0].hits == ()
    (free,) = lexical.search(["beside the river"], 20)
    assert lexical.search(["beside the river"], 3, within=even) == [[hit for hit in free if hit.id in even][:3]]


def test_range_and_diversity_are_the_indexes(index: SearchableIndex) -> None:
    encoder = HashEncoder(refused=["forbidden"])
    retriever, vectors = SafeRetriever(index, encoder, gate=EMPTY), encoder.encode_queries(QUERIES)
    near = retriever.retrieve_range(QUERIES, 0.2, where=EVEN)
    assert list(near[0].hits) == index.search_range(vectors, 0.2, where=EVEN)[0]
    assert (near[1].hits, near[1].flagged) == ((), True)
    diverse = retriever.retrieve_diverse(QUERIES, k=4, candidates=12, balance=0.3, where=EVEN)
    assert list(diverse[0].hits) == index.search_diverse(vectors, 4, candidates=12, balance=0.3, where=EVEN)[0]
    assert retriever.retrieve_range([], 0.2) == retriever.retrieve_diverse([]) == []
    by_words = SafeRetriever(index, None, lexical=LexicalIndex(index.documents()), name="bm25")
    with pytest.raises(InputError, match="bm25 looks at words"):
        by_words.retrieve_range(["a"], 0.5)


def test_a_vector_may_ask(index: SearchableIndex) -> None:
    (vector,) = index.get_vectors(["d4"])
    hits = index.search_by_vector(vector, 3, where=EVEN)
    assert hits[0].id == "d4"
    assert SafeRetriever(index, HashEncoder()).search_by_vector(vector, k=3, where=EVEN).hits == tuple(hits)
    with pytest.raises(InputError, match="refusal"):
        SafeRetriever(index, HashEncoder(), gate=EMPTY).search_by_vector(vector)
    with pytest.raises(InputError, match=r"one vector.*got shape \(1, 32\)"):
        index.search_by_vector(vector[None])


def test_an_index_without_filters_says_so() -> None:
    documents = small_corpus(3)
    encoder = HashEncoder()
    plain = CorpusIndex(documents, encoder.encode_documents([d.content for d in documents]), encoder)
    retriever = SafeRetriever(plain, encoder)
    assert len(retriever.retrieve(["violin"], k=2)[0].hits) == 2
    with pytest.raises(InputError, match="CorpusIndex has no filters"):
        retriever.retrieve(["violin"], where=EVEN)


def test_a_copy_asks_the_same_index_and_models(index: SearchableIndex) -> None:
    encoder = HashEncoder(refused=["forbidden"])
    retriever = SafeRetriever(index, encoder, gate=EMPTY, lexical=LexicalIndex(index.documents()), name="hybrid")
    copied = copy.deepcopy({"held": retriever})["held"]
    assert copied is not retriever
    assert (copied.index, copied.name) == (retriever.index, "hybrid")
    assert copied.retrieve(QUERIES, k=3) == retriever.retrieve(QUERIES, k=3)
