"""Files written in pieces are those that FAISS writes of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from safe_retrieval.errors import IndexFolderError, InputError
from safe_retrieval.index import factories, faiss_files
from safe_retrieval.index.factories import parse_factory
from safe_retrieval.index.faiss_files import (
    Blocks,
    FlatWriter,
    even_sample,
    merge_parts,
    read_flat,
    write_flat,
    write_part,
)
from safe_retrieval.index.vector_files import TRAINED_NAME, check_memory, write_trained, write_vectors
from safe_retrieval.types import FloatMatrix

DIMENSION = 16
FAISS: Any = faiss


def unit(count: int, seed: int = 0) -> FloatMatrix:
    rows = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    scaled: FloatMatrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


VECTORS = unit(1_000)


def by_faiss(path: Path, name: str, vectors: FloatMatrix) -> bytes:
    index = FAISS.index_factory(DIMENSION, name, FAISS.METRIC_INNER_PRODUCT)
    if name == "Flat":
        index = FAISS.IndexFlatIP(DIMENSION)
    if not index.is_trained:
        index.train(even_sample([vectors], len(vectors), parse_factory(name).most_training))
    index.add(vectors)
    FAISS.write_index(index, str(path))
    return path.read_bytes()


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_flat_index_of_unknown_length_is_the_one_of_faiss_and_reads_back(
    tmp_path: Path, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FlatWriter(tmp_path / "flat", DIMENSION) as writer:
        for block in np.array_split(VECTORS, pieces):
            writer.append(block)
        writer.close()
        writer.close()  # as the context manager does once more
    assert len(writer) == len(VECTORS)
    assert (tmp_path / "flat").read_bytes() == by_faiss(tmp_path / "whole", "Flat", VECTORS)
    monkeypatch.setattr(faiss_files, "_AT_ONCE", 300)
    read = list(read_flat(tmp_path / "flat", DIMENSION, len(VECTORS)))
    assert [len(block) for block in read] == [300, 300, 300, 100]
    assert np.array_equal(np.concatenate(read), VECTORS)


@pytest.mark.parametrize("name", ["Flat", "IVF16,Flat", "IVF16,SQ8", "IVF16,RaBitQ", "IVF4,PQ1", "SQ8", "HNSW8"])
def test_the_bytes_are_those_of_faiss_in_however_many_parts(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factories, "_LEAST_TRAINING", 3)  # training a product quantiser properly takes too long here
    vectors = VECTORS
    expected = by_faiss(tmp_path / "whole", name, vectors)
    factory = parse_factory(name)

    def write(pieces: int, memory: int | None) -> bytes:
        def blocks() -> list[FloatMatrix]:
            return np.array_split(vectors, pieces)

        files = write_vectors(tmp_path, factory, DIMENSION, len(vectors), blocks, memory=memory)
        if files.originals is not None:
            assert np.array_equal(np.load(files.originals), vectors)
        assert {path.name for path in tmp_path.iterdir()} <= {"whole", "vectors.faiss", "originals.npy"}
        return files.vectors.read_bytes()

    assert write(1, None) == expected
    assert write(7, None) == expected
    if factory.lists:
        # Room for the whole sample, and for a few parts.
        needed = int(4 * DIMENSION * min(factory.most_training, len(vectors)) / 0.4) + 1
        assert write(40, needed) == expected


@pytest.mark.parametrize("filled", [16, 5])
def test_parts_are_joined_list_by_list_also_where_most_are_empty(tmp_path: Path, filled: int) -> None:
    trained = tmp_path / TRAINED_NAME
    write_trained(trained, parse_factory("IVF16,Flat"), DIMENSION, len(VECTORS), lambda: [VECTORS])
    index = FAISS.read_index(str(trained))
    near = index.quantizer.search(VECTORS, 1)[1][:, 0] < filled
    chosen = VECTORS[near]
    parts = [tmp_path / "a", tmp_path / "b"]
    write_part(parts[0], trained, Blocks(0, [chosen[:30]]))
    write_part(parts[1], trained, Blocks(30, [chosen[30:50], chosen[50:]]))
    merge_parts(tmp_path / "out", trained, parts)
    index.add(chosen)
    FAISS.write_index(index, str(tmp_path / "whole"))
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()

    whole = parts[1].read_bytes()
    for damaged in (whole[:-9], whole[:40], b"", whole[:30] + b"\x01" + whole[31:]):
        parts[1].write_bytes(damaged)
        with pytest.raises(IndexFolderError, match="delete it and run the same again"):
            merge_parts(tmp_path / "out", trained, parts)


def test_more_parts_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = tmp_path / TRAINED_NAME
    write_trained(trained, parse_factory("IVF16,Flat"), DIMENSION, len(VECTORS), lambda: [VECTORS])
    (tmp_path / "parts").mkdir()
    parts = [tmp_path / "parts" / str(number) for number in range(11)]
    for number, part in enumerate(parts):
        write_part(part, trained, Blocks(20 * number, [VECTORS[20 * number : 20 * (number + 1)]]))
    merge_parts(tmp_path / "at once", trained, parts)
    monkeypatch.setattr(faiss_files, "_MOST_OPEN", 3)
    merge_parts(tmp_path / "in groups", trained, parts)
    assert (tmp_path / "in groups").read_bytes() == (tmp_path / "at once").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {TRAINED_NAME, "parts", "at once", "in groups"}


def test_a_wrong_number_of_vectors_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IndexFolderError, match="expected 1001 vectors, got 1000"):
        write_flat(tmp_path / "flat", DIMENSION, 1_001, [VECTORS])


def test_the_sample_is_even() -> None:
    numbered = np.arange(1_000, dtype=np.float32)[:, None]
    sample = even_sample(np.array_split(numbered, 9), 1_000, 11)[:, 0]
    assert sample[0] == 0
    assert sample[-1] == 999
    assert set(np.diff(sample)) <= {99, 100}
    assert even_sample([numbered], 1_000, 5_000).shape == (1_000, 1)


def test_what_does_not_fit_is_refused_before_it_is_tried(tmp_path: Path) -> None:
    for name, count, memory in (("HNSW32", 1_000_000, 10**9), ("IVF65536,Flat", 10**7, 10**9)):
        with pytest.raises(InputError, match="while it is made"):
            check_memory(parse_factory(name), 384, count, memory)
    for name in ("Flat", "IVF4096,Flat", "IVF4096,PQ48", "SQ8"):
        check_memory(parse_factory(name), 384, 1_000_000, 10**9)
    with pytest.raises(InputError, match="take a number that divides 16"):
        write_trained(tmp_path / "t", parse_factory("IVF4,PQ5"), DIMENSION, 9_984, lambda: [VECTORS])
