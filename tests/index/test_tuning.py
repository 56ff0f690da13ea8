from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from safe_retrieval.errors import InputError
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.factories import parse_factory
from safe_retrieval.index.folder import load_index
from safe_retrieval.index.manifest import read_manifest
from safe_retrieval.index.settings import SearchSettings, usual_settings
from safe_retrieval.index.tuning import (
    Measured,
    choose,
    for_the_whole,
    frontier,
    measure,
    sensible_factories,
    sensible_settings,
)
from safe_retrieval.types import FloatMatrix
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder


def unit(count: int) -> FloatMatrix:
    rows = np.random.default_rng(0).standard_normal((count, 16)).astype(np.float32)
    scaled: FloatMatrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def measured(name: str, recall: float, milliseconds: float, size: float, probes: int = 0) -> Measured:
    return Measured(parse_factory(name), SearchSettings(probes), recall, milliseconds, size)


FLAT = measured("Flat", 1.0, 10, 1_500)
FAST = measured("IVF64,Flat", 0.96, 1, 1_516, probes=4)
SMALL = measured("IVF64,SQ8", 0.95, 2, 400, probes=8)
WORSE = measured("IVF64,Flat", 0.95, 3, 1_516, probes=6)
ALL = [FLAT, FAST, SMALL, WORSE]


def test_the_frontier_and_the_choice() -> None:
    assert frontier(ALL) == [FLAT, FAST, SMALL]
    assert choose(ALL, recall=0.9) == FAST
    assert choose(ALL, recall=0.99) == FLAT
    assert choose(ALL, recall=0.9, bytes_per_vector=500) == SMALL
    assert choose(ALL, recall=0.99, bytes_per_vector=1_520) == FLAT
    assert choose([FAST, SMALL], recall=0.99) == FAST
    with pytest.raises(InputError, match="at least 400 bytes a vector, got 100"):
        choose(ALL, recall=0.9, bytes_per_vector=100)


def test_the_share_of_clusters_is_carried_over() -> None:
    factory, settings = for_the_whole(FAST, 1_000_000)
    assert (factory.name, settings.probes) == ("IVF4096,Flat", 256)
    assert for_the_whole(FLAT, 10**6)[0] == FLAT.factory
    assert for_the_whole(SMALL, 1_000) == (SMALL.factory, SMALL.settings)


def test_kinds_and_settings() -> None:
    names = [factory.name for factory in sensible_factories(100_000, 384)]
    assert names == [
        *("Flat", "HNSW32", "SQ8", "RaBitQ"),
        *("IVF1024,Flat", "IVF1024,SQ8", "IVF1024,PQ48", "IVF1024,RaBitQ"),
    ]
    assert [factory.name for factory in sensible_factories(30, 384)] == ["Flat", "HNSW32", "SQ8", "RaBitQ"]
    assert sensible_settings(parse_factory("Flat")) == [SearchSettings()]
    assert len(sensible_settings(parse_factory("IVF8,PQ4"))) == 4 * 3
    assert usual_settings(parse_factory("IVF1024,SQ8")) == SearchSettings(probes=64, refine=4)
    for name in ("IVF8,Flat", "HNSW8", "SQ8"):
        with pytest.raises(InputError, match="of at least 1, got 0"):
            SearchSettings().check(parse_factory(name))


def test_measuring() -> None:
    vectors = unit(260)
    told: list[str] = []
    found = measure(
        vectors[:250], vectors[250:], factories=[parse_factory("Flat"), parse_factory("IVF4,SQ8")], report=told.append
    )
    assert told == ["Flat", "IVF4,SQ8"]
    assert len(found) == 1 + 3 * 3
    assert found[0].recall == 1.0
    assert max(one.recall for one in found[1:]) > 0.95
    assert found[1].recall < found[-1].recall
    assert 64 <= found[0].bytes_per_vector < 65
    assert all(one.milliseconds > 0 for one in found)
    with pytest.raises(InputError, match="more than 10 vectors"):
        measure(vectors[:10], vectors[10:])


def test_settings_are_kept_with_the_index(tmp_path: Path) -> None:
    encoder, documents = HashEncoder(), small_corpus(200)
    build_index(documents, encoder, tmp_path / "index")
    query = encoder.encode_queries(["violin 6"])
    with load_index(tmp_path / "index") as index:
        index.tune("IVF4,Flat", SearchSettings(probes=1))
        assert read_manifest(tmp_path / "index").search == SearchSettings(probes=1)
        few = index.search(query, 5)
        index.tune("IVF4,Flat", SearchSettings(probes=4))
        assert index.search(query, 5)[0][0].score >= few[0][0].score
        assert index.sample_vectors(7, seed=1).shape == (7, 32)
        with pytest.raises(InputError, match="needs refine"):
            index.tune("SQ8", SearchSettings())
        index.compact(factory="Flat")
        assert index.manifest.search is None
    with load_index(tmp_path / "index", memory_map=False) as index:
        assert len(index) == 200


def test_tuning_reaches_what_was_added_since(tmp_path: Path) -> None:
    encoder = HashEncoder()
    build_index(small_corpus(200), encoder, tmp_path / "index", factory="IVF4,Flat")
    with load_index(tmp_path / "index") as index:
        more = [replace(document, id=f"more-{document.id}") for document in small_corpus(50)]
        index.add(more, encoder.of(more))
        assert len(index.manifest.segments) == 2
        index.tune("IVF4,Flat", SearchSettings(probes=2))
        assert [segment.factory for segment in index.manifest.segments] == ["IVF4,Flat"]
        assert index.manifest.search == SearchSettings(probes=2)
