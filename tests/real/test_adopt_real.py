"""An index that somebody made with sentence-transformers and FAISS, adopted, and asked through a response encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import pytest
from sentence_transformers import SentenceTransformer

from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.errors import EncoderMismatchError
from safe_retrieval.index.adopt import adopt_index
from safe_retrieval.index.folder import load_index
from safe_retrieval.index.recheck import reencoding_faults
from safe_retrieval.models.fetch import resolve
from safe_retrieval.retrieval.retriever import SafeRetriever
from tests.real.test_index_real import DOCUMENTS, QUESTIONS

pytestmark = pytest.mark.real

SMALL_BACKBONE = "qwen2.5-coder-0.5b-instruct"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As such scripts are written everywhere: encode, add, write."""
    path = tmp_path_factory.mktemp("theirs") / "mine.faiss"
    model = SentenceTransformer(str(resolve("all-minilm-l6-v2").path), model_kwargs={"use_safetensors": True})
    vectors: Any = model.encode([document.content for document in DOCUMENTS])
    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, str(path))
    return path


def test_adopted_and_asked_through_the_response_encoder(theirs: Path, tmp_path: Path) -> None:
    encoder = InputEncoder.load()
    adopted = adopt_index(theirs, DOCUMENTS, encoder, tmp_path / "index")
    assert adopted.agreement is not None
    assert adopted.agreement.least > 0.9999
    (segment,) = adopted.manifest.segments
    assert (tmp_path / "index" / segment.vectors.name).read_bytes() == theirs.read_bytes()
    with load_index(tmp_path / "index") as index:
        assert reencoding_faults(index, encoder, sample=8) == []
    retriever = SafeRetriever.open(tmp_path / "index", arm="output", backbone=SMALL_BACKBONE)
    asked = dict(list(QUESTIONS.items())[:6])
    retrievals = retriever.retrieve(list(asked), k=5)
    found = [
        wanted in {hit.id for hit in retrieval.hits}
        for retrieval, wanted in zip(retrievals, asked.values(), strict=True)
    ]
    assert sum(found) >= 3  # of six questions over sixty passages; by chance it would be one half
    assert all(retrieval.refusal is not None for retrieval in retrievals)


def test_texts_in_another_order_are_noticed(theirs: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderMismatchError, match="in the same order"):
        adopt_index(theirs, DOCUMENTS[1:] + DOCUMENTS[:1], InputEncoder.load(), tmp_path / "index")
