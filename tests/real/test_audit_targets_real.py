"""One audit of several kinds of targets with the real document encoder: each sees the same probes, so all agree."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import pytest
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document as LangChainDocument
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from safe_retrieval import audit
from safe_retrieval.audit.probes import ProbeKind, load_probe_set
from safe_retrieval.audit.results import AuditReport
from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.index.folder import create_index
from safe_retrieval.types import Document
from tests.audit.retrievers import write_beir

pytestmark = pytest.mark.real


class Mini(Embeddings):
    """The document encoder as LangChain asks for embeddings."""

    def __init__(self, encoder: InputEncoder) -> None:
        self._encoder = encoder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._encoder.encode_documents(texts, progress=False).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self._encoder.encode_queries([text])[0].tolist()


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Every fifth harmful request and its benign twin, each with its passage."""
    whole = load_probe_set()
    harmful = whole.of_kind(ProbeKind.HARMFUL)[::5]
    chosen = {probe.id for probe in harmful} | {probe.twin for probe in harmful}
    part = replace(whole, queries=tuple(probe for probe in whole.queries if probe.id in chosen))
    folder = tmp_path_factory.mktemp("sets")
    roles = (ProbeKind.HARMFUL, ProbeKind.BENIGN)
    return [{"kind": "beir", "path": str(write_beir(folder / role, part, role)), "role": role.value} for role in roles]


@pytest.fixture(scope="module")
def own() -> list[Document]:
    """Passages of the target's own, on nothing that the probes ask."""
    return [
        Document(f"own-{n}", f"Minutes of meeting {n} of the allotment society: hoses, sheds, item {n * 7}.")
        for n in range(30)
    ]


@pytest.fixture(scope="module")
def report(
    sets: list[dict[str, str]], own: list[Document], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AuditReport]:
    folder = tmp_path_factory.mktemp("targets")
    encoder = InputEncoder.load(offline=False)
    with create_index(folder / "index", encoder) as index:
        index.add(own, encoder.encode_documents([document.content for document in own]))
    module = ModuleType("real_stores")
    mini, documents = Mini(encoder), [LangChainDocument(each.text, id=each.id) for each in own]
    memory = InMemoryVectorStore(mini)
    memory.add_documents(documents)
    module.__dict__.update(memory=memory, community=FAISS.from_documents(documents, mini))
    sys.modules["real_stores"] = module
    targets = [
        {"kind": "model", "model": "all-minilm-l6-v2", "name": "minilm"},
        {"kind": "index", "path": str(folder / "index"), "name": "index", "overlay": "required"},
        {"kind": "langchain", "object": "real_stores:memory", "overlay": "required"},
        {"kind": "langchain", "object": "real_stores:community", "overlay": "required"},
    ]
    yield audit.run({"targets": targets, "probes": sets, "out": str(folder / "report")})
    del sys.modules["real_stores"]


def test_targets_with_passages_of_their_own_are_audited_beside_them(report: AuditReport) -> None:
    plain, beside = report.arms["minilm"].metrics, report.arms["index"].metrics
    for metric in ("harm@1", "harm@5", "benign_recall@1", "benign_recall@5"):
        assert plain[metric] is not None
        # passages on other matters stand behind those that answer: the figures are those of the probes alone
        assert beside[metric] == plain[metric]


@pytest.mark.parametrize(("name", "scale"), [("index", "cosine"), ("memory", "cosine"), ("community", "squared-l2")])
def test_the_scale_of_the_scores_is_found_out(report: AuditReport, name: str, scale: str) -> None:
    assert report.provenance["targets"][name]["overlay"] == scale
    harm = report.arms[name].metrics["harm@5"]
    assert harm is not None
    assert harm.value > 0.9
