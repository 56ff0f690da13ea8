"""An index over real vectors, asked with real queries: MiniLM from the cache or wherever it can be had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.exact import ExactIndex
from safe_retrieval.index.folder import SearchableIndex, load_index, verify_index
from safe_retrieval.retrieval.arms import Arm
from safe_retrieval.retrieval.retriever import SafeRetriever
from safe_retrieval.types import Document

pytestmark = pytest.mark.real

# The shipped adapters and every index of this encoder store this string.
SPACE = "sha256:ae294030d7386b4b4533ee2a54678d510d978ad2bdfac02d904747570a651c67"

FACTS = {
    "france": ("Paris", "Paris is the capital and the largest city of France."),
    "boiling": ("Water", "At sea level, water boils at one hundred degrees Celsius."),
    "iliad": ("Iliad", "The Iliad is an ancient Greek epic that is attributed to Homer."),
    "photosynthesis": ("Plants", "Plants turn sunlight, water and carbon dioxide into sugar and oxygen."),
    "everest": ("Mountains", "Mount Everest, in the Himalayas, is the highest mountain above sea level."),
    "penicillin": ("Medicine", "Alexander Fleming discovered penicillin in 1928 in a mould."),
    "heart": ("Anatomy", "The heart pumps blood through the arteries and veins of the body."),
    "moon": ("Apollo 11", "Neil Armstrong was the first person to walk on the Moon, in July 1969."),
    "bread": ("Baking", "Yeast makes dough rise by giving off carbon dioxide."),
    "chess": ("Chess", "In chess the bishop moves any number of squares diagonally."),
}
QUESTIONS = {
    "which city is the French seat of government?": "france",
    "how hot must water be to boil?": "boiling",
    "who wrote the story of the Trojan war?": "iliad",
    "how do leaves feed on light?": "photosynthesis",
    "what is the tallest peak on Earth?": "everest",
    "who found the first antibiotic?": "penicillin",
    "which organ moves blood around?": "heart",
    "first astronaut on the lunar surface": "moon",
    "why does a loaf get bigger before it is baked?": "bread",
    "how may a bishop move?": "chess",
}
FILLER = [
    Document(f"filler-{number}", f"Notice {number}: the {thing} in room {number} will be {fate} on day {number}.")
    for number, (thing, fate) in enumerate(
        (thing, fate)
        for thing in (
            "lamp",
            "carpet",
            "window",
            "printer",
            "radiator",
            "cupboard",
            "telephone",
            "blackboard",
            "door",
            "sink",
        )
        for fate in ("painted", "repaired", "replaced", "cleaned", "removed")
    )
]
DOCUMENTS = [Document(identifier, text, title) for identifier, (title, text) in FACTS.items()] + FILLER


@pytest.fixture(scope="module")
def encoder() -> InputEncoder:
    return InputEncoder.load()


@pytest.fixture(scope="module")
def folder(encoder: InputEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("real") / "index"
    build_index(DOCUMENTS, encoder, path, shard_size=16)
    return path


@pytest.fixture
def index(folder: Path) -> Iterator[SearchableIndex]:
    with load_index(folder) as opened:
        yield opened


def test_the_model_is_what_it_should_be(encoder: InputEncoder, index: SearchableIndex) -> None:
    assert (encoder.name, encoder.dimension) == ("all-minilm-l6-v2", 384)
    assert encoder.space == SPACE
    assert index.manifest.encoder.space == SPACE
    assert index.manifest.encoder.name == "all-minilm-l6-v2"


def test_questions_find_their_answers(encoder: InputEncoder, index: SearchableIndex) -> None:
    hits = index.search(encoder.encode_queries(list(QUESTIONS)), k=3)
    assert [found[0].id for found in hits] == list(QUESTIONS.values())
    (document,) = index.get_documents(["moon"])
    assert document.title == "Apollo 11"


def test_the_exact_index_says_the_same(encoder: InputEncoder, index: SearchableIndex) -> None:
    exact = ExactIndex(encoder.dimension)
    exact.add([d.id for d in DOCUMENTS], encoder.encode_documents([d.content for d in DOCUMENTS]))
    queries = encoder.encode_queries(list(QUESTIONS))
    for ours, reference in zip(index.search(queries, 20), exact.search(queries, 20), strict=True):
        # Not the very same vectors: the build encoded them in other batches.
        assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in reference], abs=1e-5)
        assert ours[0].id == reference[0].id


def test_vectors_do_not_depend_on_the_batch_and_long_text_is_fast(encoder: InputEncoder) -> None:
    texts = [*QUESTIONS, "", "  ", "word " * 20_000, "\ud83d\0", "[SEP] [CLS]"]
    together = encoder.encode_queries(texts)
    alone = np.concatenate([encoder.encode_queries([text]) for text in texts])
    assert np.einsum("nd,nd->n", together, alone).min() > 0.99999
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("arm", [Arm.INPUT, Arm.BM25])
def test_a_retriever_over_the_folder(folder: Path, arm: Arm) -> None:
    retriever = SafeRetriever.open(folder, arm=arm)
    (retrieval,) = retriever.retrieve(["Who discovered penicillin?"], k=3)
    assert retriever.documents(retrieval)[0].id == "penicillin"
    assert retrieval.refusal is None


def test_the_folder_is_sound(folder: Path) -> None:
    assert verify_index(folder) == []
