"""Kinds of index other than Flat: exact scores, a stated recall, filters, changes, and what they refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from safe_retrieval.errors import IndexFormatError, InputError
from safe_retrieval.index import approximate, factories, one_query
from safe_retrieval.index.advisor import advise
from safe_retrieval.index.approximate import ApproximateIndex
from safe_retrieval.index.base import IdList
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.exact import ExactIndex
from safe_retrieval.index.factories import parse_factory
from safe_retrieval.index.folder import load_index, verify_index
from safe_retrieval.index.manifest import read_manifest
from safe_retrieval.index.vector_files import write_vectors
from safe_retrieval.index.vectors import Selection
from safe_retrieval.types import FloatMatrix
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

DIMENSION = 32
K = 10


def topical(count: int, seed: int) -> FloatMatrix:
    """Unit vectors around 60 directions, as texts lie around topics."""
    rng = np.random.default_rng(seed)
    topics = np.random.default_rng(0).standard_normal((60, DIMENSION))
    rows = topics[rng.integers(0, 60, count)] + 0.7 * rng.standard_normal((count, DIMENSION))
    unit: FloatMatrix = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


VECTORS = topical(10_000, 1)
QUERIES = topical(40, 2)
IDS = [f"d{number}" for number in range(len(VECTORS))]


@pytest.fixture(scope="module")
def exact() -> ExactIndex:
    index = ExactIndex(DIMENSION)
    index.add(IDS, VECTORS)
    return index


def opened(folder: Path, name: str) -> ApproximateIndex:
    factory = parse_factory(name)
    # As a bound on memory allows, a product quantiser is trained on a thousand vectors: all of them take too long.
    memory = 320_000 if factory.slices else None
    files = write_vectors(
        folder, factory, DIMENSION, len(VECTORS), lambda: iter(np.array_split(VECTORS, 7)), memory=memory
    )
    ids = IdList()
    ids.extend(IDS)
    return ApproximateIndex.read(files.vectors, factory, ids=ids, originals=files.originals)


@pytest.mark.parametrize(
    ("name", "recall"),
    [
        ("HNSW16", 0.95),
        ("IVF64,Flat", 0.85),
        ("IVF8,Flat", 1.0),  # as many clusters as are looked at
        ("SQ8", 0.99),
        ("IVF64,SQ8", 0.85),
        ("RaBitQ", 0.6),
        ("IVF8,RaBitQ", 0.6),
        ("IVF8,PQ4", 0.4),
    ],
)
def test_recall_scores_and_filters(
    tmp_path: Path, exact: ExactIndex, name: str, recall: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factories, "_LEAST_TRAINING", 3)
    index = opened(tmp_path, name)
    nearest = exact.rankings(QUERIES, K)
    found = index.rankings(QUERIES, K)
    shared = [len(set(a.positions) & set(b.positions)) for a, b in zip(nearest, found, strict=True)]
    assert np.mean(shared) / K >= recall
    everything = exact.rankings(QUERIES, len(VECTORS))
    for whole, some in zip(everything, found, strict=True):
        scores = dict(zip(whole.positions.tolist(), whole.scores.tolist(), strict=True))
        assert [scores[position] for position in some.positions] == some.scores.tolist()
        assert list(some.scores) == sorted(some.scores, reverse=True)

    rare = Selection(np.arange(len(VECTORS)) % 1_700 == 3)
    assert rare.count < K
    for some, all_of_it in zip(index.rankings(QUERIES, K, within=rare), everything, strict=True):
        assert some.positions.tolist() == all_of_it.positions[rare.mask[all_of_it.positions]].tolist()
    expected = exact.above(QUERIES[0], 0.5, within=rare)
    assert index.above(QUERIES[0], 0.5, within=rare).positions.tolist() == expected.positions.tolist()
    assert np.array_equal(index.vectors_at(np.asarray([7, 3])), VECTORS[[7, 3]])
    with pytest.raises(InputError, match="opened from a folder"):
        index.add(["x"], VECTORS[:1])


@pytest.mark.parametrize("name", ["IVF64,Flat", "IVF8,Flat"])
@pytest.mark.parametrize("threads", [1, 3, 17])
def test_one_query_finds_what_it_finds_in_a_batch(
    tmp_path: Path, name: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = opened(tmp_path, name)
    rare = Selection(np.arange(len(VECTORS)) % 1_700 == 3)
    half = Selection(np.arange(len(VECTORS)) % 2 == 1)
    together = {within: index.rankings(QUERIES, K, within=within) for within in (None, half, rare)}
    monkeypatch.setattr(one_query, "_WORTH_BYTES", 0)
    monkeypatch.setattr(faiss, "omp_get_max_threads", lambda: threads)
    for within, rankings in together.items():
        for query, expected in zip(QUERIES, rankings, strict=True):
            (found,) = index.rankings(query[None], K, within=within)
            assert found.positions.tolist() == expected.positions.tolist()
            assert found.scores.tolist() == expected.scores.tolist()
    (everything,) = index.rankings(QUERIES[:1], len(VECTORS))  # more than the clusters that are looked at hold
    assert len(everything.positions) == len(VECTORS)


def recall_within(index: ApproximateIndex, exact: ExactIndex, within: Selection) -> float:
    pairs = zip(exact.rankings(QUERIES, K, within=within), index.rankings(QUERIES, K, within=within), strict=True)
    return float(np.mean([len(set(a.positions) & set(b.positions)) for a, b in pairs])) / K


@pytest.mark.parametrize(("name", "bound"), [("HNSW16", 0.95), ("IVF64,Flat", 0.9), ("IVF64,SQ8", 0.9)])
def test_recall_with_filters(
    tmp_path: Path, exact: ExactIndex, name: str, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = opened(tmp_path, name)
    chance = np.random.default_rng(3).random(len(VECTORS))
    # Filters that leave documents of other topics than the queries': those farthest from what is asked.
    distance = (VECTORS @ QUERIES.T).max(axis=1)
    filters = [Selection(chance < share) for share in (0.5, 0.1, 0.02)]
    filters += [Selection(distance <= np.quantile(distance, share)) for share in (0.1, 0.02)]
    for few in (approximate._FEW, 0):  # 0: as in an index that is too large for looking at all that is left
        monkeypatch.setattr(approximate, "_FEW", few)
        assert min(recall_within(index, exact, within) for within in filters) >= bound


@pytest.mark.parametrize("name", ["HNSW16", "IVF4,Flat"])
def test_equal_vectors_are_in_order_though_the_cut_runs_through_them(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.concatenate([VECTORS[:300], np.repeat(VECTORS[7:8], 200, axis=0), VECTORS[300:600]])
    monkeypatch.setitem(globals(), "VECTORS", vectors)
    monkeypatch.setitem(globals(), "IDS", [f"d{number}" for number in range(len(vectors))])
    exact = ExactIndex(DIMENSION)
    exact.add(IDS, vectors)
    (found,) = opened(tmp_path, name).rankings(vectors[7:8], K)
    assert found.positions.tolist() == exact.rankings(vectors[7:8], K)[0].positions.tolist()
    assert found.positions.tolist() == [7, *range(300, 309)]


@pytest.mark.parametrize("name", ["HNSW16", "SQ8"])
def test_a_batch_is_scored_together(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index = opened(tmp_path, name)
    alone = [index.rankings(query[None], K)[0] for query in QUERIES]
    calls, vectors_at = [0], index.vectors_at

    def counting(positions: NDArray[np.int64]) -> FloatMatrix:
        calls[0] += 1
        return vectors_at(positions)

    monkeypatch.setattr(index, "vectors_at", counting)
    together = index.rankings(QUERIES, K)
    assert calls[0] < len(QUERIES) / 4
    for one, other in zip(alone, together, strict=True):
        assert one.positions.tolist() == other.positions.tolist()
        assert one.scores.tolist() == other.scores.tolist()


ENCODER = HashEncoder(dimension=DIMENSION)
vectors_of = ENCODER.of
DOCUMENTS = small_corpus(330)


@pytest.mark.parametrize("name", ["HNSW16", "IVF7,Flat", "SQ8", "IVF7,SQ8"])
def test_an_index_of_any_kind_lives(tmp_path: Path, name: str) -> None:
    manifest = build_index(DOCUMENTS[:320], ENCODER, tmp_path / "index", factory=name)
    assert manifest.factory == manifest.segments[0].factory == name
    gone = [f"d{number}" for number in range(0, 330, 9)]
    left = [document for document in DOCUMENTS if document.id not in gone]
    exact = ExactIndex(DIMENSION)
    exact.add([document.id for document in left], vectors_of(left))
    query = ENCODER.encode_queries(["violin 6"])
    with load_index(tmp_path / "index") as index:
        index.add(DOCUMENTS[320:], vectors_of(DOCUMENTS[320:]))
        index.delete(gone)
        assert [segment.factory for segment in index.manifest.segments] == [name, "Flat"]
        assert index.search(query, 5) == exact.search(query, 5)
        if name != "HNSW16":
            index.compact()
            assert [segment.factory for segment in index.manifest.segments] == [name]
        index.compact(factory="Flat")
        assert index.manifest.factory == "Flat"
        assert index.search(query, 500) == exact.search(query, 500)
        assert list(index.documents()) == left
    assert verify_index(tmp_path / "index") == []


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    built = [
        build_index(DOCUMENTS, ENCODER, tmp_path / name, factory="IVF8,SQ8", shard_size=50) for name in ("one", "two")
    ]
    assert built[0].files() == built[1].files()
    assert len(built[0].files()) == 3


def test_a_missing_or_foreign_file_of_vectors(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build_index(DOCUMENTS[:60], ENCODER, folder, factory="SQ8")
    (segment,) = read_manifest(folder).segments
    assert segment.originals is not None
    path = folder / segment.originals.name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IndexFormatError, match=r"originals-.*npy"):
        load_index(folder)
    path.unlink()
    with pytest.raises(IndexFormatError, match=r"originals-.*npy"):
        load_index(folder, verify=False)


def test_too_few_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"IVF8,Flat needs at least 312 vectors to be trained on, got 20"):
        build_index(DOCUMENTS[:20], ENCODER, tmp_path / "index", factory="IVF8,Flat")
    build_index(DOCUMENTS[:20], ENCODER, tmp_path / "index")
    shutil.rmtree(tmp_path / "index" / ".building", ignore_errors=True)
    with load_index(tmp_path / "index") as index:
        with pytest.raises(InputError, match="needs at least"):
            index.compact(factory="IVF8,SQ8")
        index.compact(factory="auto")
        assert index.manifest.factory == "Flat"


def test_compaction_within_a_memory(tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        build_index(DOCUMENTS, ENCODER, tmp_path / name)
    with load_index(tmp_path / "whole") as whole, load_index(tmp_path / "parts") as parts:
        before = parts.manifest
        for factory in ("IVF4,Flat", "HNSW16"):
            with pytest.raises(InputError, match=r"GB while it is made, more than the"):
                parts.compact(factory=factory, memory=1_000)
        assert parts.manifest == before
        whole.compact(factory="IVF4,Flat")
        parts.compact(factory="IVF4,Flat", memory=4 * DIMENSION * 900)
        assert parts.manifest.segments[0].vectors == whole.manifest.segments[0].vectors
        parts.compact(factory="auto", memory=4 * DIMENSION * 200)
        assert parts.manifest.factory == "SQ8"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flat", "expected auto, Flat"),
        ("OPQ16,IVF8,PQ16", "expected auto, Flat"),
        ("IVF8,HNSW32", "expected auto, Flat"),
        ("PQ16", "expected auto, Flat"),
        ("IVF8,PQ0", "at least one slice"),
        ("IVF0,Flat", "at least one cluster"),
        ("HNSW1", "2 to 512 links"),
        ("IVF1048576,PQ48", "at most 1,000,000 clusters"),
    ],
)
def test_unknown_kinds_are_refused_before_anything_is_encoded(tmp_path: Path, name: str, message: str) -> None:
    encoder = HashEncoder()
    with pytest.raises(InputError, match=message):
        build_index(DOCUMENTS, encoder, tmp_path / "index", factory=name)
    assert encoder.document_calls == []


@pytest.mark.parametrize(
    ("count", "memory", "deletes", "name"),
    [
        (1, None, False, "Flat"),
        (100_000, None, False, "Flat"),
        (100_000, 50_000_000, False, "IVF1024,SQ8"),
        (10_000, 5_000_000, False, "SQ8"),
        (1_000_000, None, False, "HNSW32"),
        (1_000_000, None, True, "IVF4096,Flat"),
        (1_000_000, 500_000_000, False, "IVF4096,SQ8"),
        (1_000_000, 100_000_000, False, "IVF4096,RaBitQ"),
        (50_000_000, None, False, "IVF262144,Flat"),
    ],
)
def test_advice(count: int, memory: int | None, deletes: bool, name: str) -> None:
    advice = advise(count, 384, memory=memory, deletes=deletes)
    assert advice.factory.name == name
    assert advice.factory.least_training <= count
    assert f"{count:,} vectors of length 384" in advice.reasons[0]
    assert advice.reasons[-1].startswith(f"{name}: ")


def test_advice_that_cannot_be_given() -> None:
    with pytest.raises(InputError, match="Nothing fits"):
        advise(1_000_000, 384, memory=1_000_000)
    with pytest.raises(InputError, match="at least 1"):
        advise(0, 384)


@pytest.mark.parametrize("count", [20_000, 33_000, 400_000, 1_000_001, 10_000_001, 99_000_000])
def test_what_is_advised_can_be_trained(count: int) -> None:
    for memory in (None, 300 * count, 100 * count):
        assert advise(count, 384, memory=memory, deletes=True).factory.least_training <= count


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is mapped is read from Linux's /proc")
@pytest.mark.parametrize("memory_map", [True, False])
def test_vectors_beside_codes_are_held_where_nothing_is_to_be_mapped(tmp_path: Path, memory_map: bool) -> None:
    build_index(small_corpus(80), HashEncoder(), tmp_path / "index", factory="SQ8")
    originals = read_manifest(tmp_path / "index").segments[0].originals
    assert originals is not None
    with load_index(tmp_path / "index", memory_map=memory_map):
        assert (originals.name in Path("/proc/self/maps").read_text(encoding="utf-8")) == memory_map
