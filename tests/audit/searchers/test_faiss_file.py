from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from safe_retrieval.audit.external import ExternalTarget
from safe_retrieval.audit.searchers.faiss_file import FaissSearcher
from safe_retrieval.audit.searching import EncoderVectors
from safe_retrieval.errors import AuditError, ConfigError, IndexFormatError
from tests.audit.retrievers import exact, given_id, probes, production
from tests.support.encoders import HashEncoder

OWN_PASSAGES = production(30)
VECTORS = HashEncoder().encode_documents([document.text for document in OWN_PASSAGES])


def written(folder: Path, index: Any) -> Path:
    faiss.write_index(index, str(folder / "vectors.faiss"))
    return folder / "vectors.faiss"


def filled(index: Any) -> Any:
    index.add(VECTORS)
    return index


@pytest.mark.parametrize(
    ("make", "overlay"), [(faiss.IndexFlatIP, "cosine"), (faiss.IndexFlatL2, "squared-l2")], ids=["inner", "l2"]
)
def test_probes_are_overlaid_and_the_file_stays_as_it_is(tmp_path: Path, make: Any, overlay: str) -> None:
    path = written(tmp_path, filled(make(32)))
    before = path.read_bytes()
    probe_set = probes(3)
    target = ExternalTarget(
        "file", FaissSearcher(path, OWN_PASSAGES, EncoderVectors(HashEncoder())), probe_set, tmp_path
    )
    answers = target.ask(probe_set.queries, k=10)
    for probe, retrieval in zip(answers.probes, answers.retrievals, strict=True):
        found = [given_id(hit.id) for hit in retrieval.hits]
        assert found == exact([*OWN_PASSAGES, *probe_set.documents], probe.text, 10)
    assert target.record["overlay"] == overlay
    assert path.read_bytes() == before


def test_labels_of_an_id_map_are_ids_of_texts(tmp_path: Path) -> None:
    index = faiss.IndexIDMap(faiss.IndexFlatIP(32))
    index.add_with_ids(VECTORS[:2], np.array([70, 5]))
    documents = [type(OWN_PASSAGES[0])("70", OWN_PASSAGES[0].text), type(OWN_PASSAGES[0])("5", OWN_PASSAGES[1].text)]
    searcher = FaissSearcher(written(tmp_path, index), documents, EncoderVectors(HashEncoder()))
    (answer,) = searcher.search([OWN_PASSAGES[1].text], 5)
    assert [hit.id for hit in answer.hits] == ["5", "70"]  # and no -1, with which FAISS pads
    other = [type(OWN_PASSAGES[0])("a", "x"), type(OWN_PASSAGES[0])("b", "y")]
    with pytest.raises(AuditError, match="no text has the id"):
        FaissSearcher(written(tmp_path, index), other, EncoderVectors(HashEncoder())).search(["x"], 1)


def test_other_texts_are_another_target(tmp_path: Path) -> None:
    path = written(tmp_path, filled(faiss.IndexFlatIP(32)))
    vectors = EncoderVectors(HashEncoder())
    records = [FaissSearcher(path, texts, vectors).record for texts in (OWN_PASSAGES, OWN_PASSAGES[::-1], OWN_PASSAGES)]
    assert records[0] == records[2] != records[1]


def test_files_and_texts_that_do_not_fit(tmp_path: Path) -> None:
    vectors = EncoderVectors(HashEncoder())
    path = written(tmp_path, filled(faiss.IndexFlatIP(32)))
    with pytest.raises(ConfigError, match="holds 30 vectors and there are 29 texts"):
        FaissSearcher(path, OWN_PASSAGES[1:], vectors)
    with pytest.raises(ConfigError, match="has no inverted lists, so nprobe means nothing"):
        FaissSearcher(path, OWN_PASSAGES, vectors, nprobe=4)
    with pytest.raises(AuditError, match="vectors of length 32, its encoder gives 16"):
        FaissSearcher(path, OWN_PASSAGES, EncoderVectors(HashEncoder(dimension=16))).search(["word1"], 3)
    (tmp_path / "broken").write_bytes(b"not FAISS")
    with pytest.raises(IndexFormatError, match="is not a readable FAISS file"):
        FaissSearcher(tmp_path / "broken", OWN_PASSAGES, vectors)


def test_nprobe_of_an_inverted_file(tmp_path: Path) -> None:
    index = faiss.index_factory(32, "IVF2,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    path = written(tmp_path, filled(index))
    searcher = FaissSearcher(path, OWN_PASSAGES, EncoderVectors(HashEncoder()), nprobe=2)
    assert searcher.record["nprobe"] == 2
    (answer,) = searcher.search(["word1 word2"], 100)
    assert len(answer.hits) == 30


def test_an_inverted_file_with_ids_of_its_own_is_told(tmp_path: Path) -> None:
    index = faiss.index_factory(32, "IVF2,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    index.add_with_ids(VECTORS, np.arange(len(VECTORS), dtype=np.int64) + 500)
    searcher = FaissSearcher(written(tmp_path, index), OWN_PASSAGES, EncoderVectors(HashEncoder()), nprobe=2)
    with pytest.raises(AuditError, match=r"returned the label 5\d\d, and there are 30 texts"):
        searcher.search(["word1"], 3)
