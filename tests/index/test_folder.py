from __future__ import annotations

import os
import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safe_retrieval.errors import EncoderMismatchError, IndexFolderError, IndexFormatError, InputError
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.exact import ExactIndex
from safe_retrieval.index.faiss_files import write_flat
from safe_retrieval.index.faiss_index import FaissIndex, read_faiss
from safe_retrieval.index.folder import load_index, verify_index
from safe_retrieval.index.manifest import check_file, read_manifest, record_file
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

DOCUMENTS = small_corpus(40)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folder") / "index"
    build_index(DOCUMENTS, HashEncoder(), path, shard_size=7)
    return path


def test_answers_as_the_exact_index_does(sound: Path) -> None:
    encoder = HashEncoder()
    exact = ExactIndex(encoder.dimension)
    exact.add([d.id for d in DOCUMENTS], encoder.encode_documents([d.content for d in DOCUMENTS]))
    queries = encoder.encode_queries(["violin 6", "the copper harbour", ""])
    with load_index(sound) as index:
        assert len(index) == 40
        assert index.dimension == 32
        assert index.search(queries, 5) == exact.search(queries, 5)
        assert index.search(queries, 100) == exact.search(queries, 100)
        assert index.get_documents(["d3", "d1"]) == [DOCUMENTS[3], DOCUMENTS[1]]
        assert list(index.documents()) == DOCUMENTS
        with pytest.raises(InputError, match="'nobody'"):
            index.get_documents(["nobody"])
    assert verify_index(sound) == []


def test_who_may_ask(sound: Path) -> None:
    with load_index(sound) as index:
        index.check_encoder(HashEncoder("another name, the same space"))
        with pytest.raises(EncoderMismatchError, match=r"hash-encoder.*stranger"):
            index.check_encoder(HashEncoder("stranger", space="elsewhere"))
        with pytest.raises(EncoderMismatchError, match=r"32 dimensions.*16 dimensions"):
            index.check_encoder(HashEncoder(dimension=16, space="hash:32"))


def files_of(folder: Path) -> list[str]:
    manifest = read_manifest(folder)
    return ["manifest.json", *(record.name for record in manifest.files())]


def test_any_flipped_byte_or_cut_in_any_file_is_noticed(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    shutil.copytree(sound, folder)
    rng = random.Random(0)
    for name in files_of(folder):
        path = folder / name
        whole = path.read_bytes()
        places = [0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(60))]
        damaged = [whole[:n] + bytes([whole[n] ^ (1 << rng.randrange(8))]) + whole[n + 1 :] for n in places]
        damaged += [whole[:n] for n in places] + [whole + b"\0"]
        for data in damaged:
            path.write_bytes(data)
            with pytest.raises(IndexFormatError, match=name):
                load_index(folder)
            (fault,) = verify_index(folder)
            assert name in fault
        path.unlink()
        with pytest.raises(IndexFolderError, match=name):
            load_index(folder)
        path.write_bytes(whole)
    assert verify_index(folder) == []


def test_without_hashing_sizes_still_count(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    shutil.copytree(sound, folder)
    load_index(folder, verify=False).close()
    path = folder / read_manifest(folder).segments[0].vectors.name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IndexFormatError, match=path.name):
        load_index(folder, verify=False)


def resign(folder: Path, **changes: object) -> None:
    """Let the manifest vouch for what lies in the folder now."""
    manifest = read_manifest(folder)
    (segment,) = manifest.segments
    vectors, documents = (record_file(folder / record.name) for record in (segment.vectors, segment.documents))
    segment = replace(segment, vectors=vectors, documents=documents, **changes)  # type: ignore[arg-type]
    replace(manifest, segments=(segment,), count=segment.live).write(folder)


def test_files_that_do_not_belong_together(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    shutil.copytree(sound, folder)
    path = folder / read_manifest(folder).segments[0].vectors.name
    vectors = HashEncoder().encode_documents([d.content for d in DOCUMENTS])

    write_flat(path, 32, 39, [vectors[:39]])
    resign(folder)
    with pytest.raises(IndexFormatError, match="expected 40 vectors, one for each document, got 39"):
        load_index(folder)

    write_flat(path, 16, len(DOCUMENTS), [HashEncoder(dimension=16).encode_documents([d.content for d in DOCUMENTS])])
    resign(folder)
    with pytest.raises(IndexFormatError, match="length 32, got 16"):
        load_index(folder)

    write_flat(path, 32, len(vectors), [vectors])
    resign(folder, count=41)
    with pytest.raises(IndexFormatError, match="expected 41 documents, got 40"):
        load_index(folder)
    assert "expected 41 documents" in verify_index(folder)[0]

    vectors[17] = np.nan
    write_flat(path, 32, len(vectors), [vectors])
    resign(folder, count=40)
    assert "vector 17 holds NaN" in verify_index(folder)[0]


def test_faiss_files_are_read_with_limits(tmp_path: Path) -> None:
    import faiss

    path = tmp_path / "v.faiss"
    write_flat(path, 4, 4, [np.eye(4, dtype=np.float32)])
    limits = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    assert read_faiss(path, "IndexFlatIP").ntotal == 4
    data = bytearray(path.read_bytes())
    data[-72:-64] = (2**40).to_bytes(8, "little")  # the number of floats that follow: a terabyte of them
    path.write_bytes(data)
    with pytest.raises(IndexFormatError, match=r"v\.faiss is not a readable FAISS file"):
        read_faiss(path, "IndexFlatIP")
    assert (faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()) == limits

    faiss.write_index(faiss.IndexFlatL2(4), str(path))
    with pytest.raises(IndexFormatError, match="expected an inner-product IndexFlatIP, got IndexFlatL2"):
        read_faiss(path, "IndexFlatIP")
    with pytest.raises(IndexFormatError, match=r"absent is not a readable"):
        FaissIndex.read(tmp_path / "absent", ids=[])  # type: ignore[arg-type]


def test_an_index_may_be_moved(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "copy")
    (tmp_path / "copy").rename(tmp_path / "a name with spaces, ? and #")
    with load_index(tmp_path / "a name with spaces, ? and #") as index:
        assert len(index) == 40


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs permissions that bind")
def test_a_read_only_folder_can_be_opened(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    shutil.copytree(sound, folder)
    folder.chmod(0o555)
    with load_index(folder) as index:
        assert len(index) == 40
    folder.chmod(0o755)


def test_readers_see_the_old_or_the_new_index_while_it_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    encoder = HashEncoder()
    query = encoder.encode_queries(["violin"])
    build_index(DOCUMENTS[:10], encoder, folder)
    done = threading.Event()

    def read() -> set[int]:
        counts = set()
        while not done.is_set():
            with load_index(folder) as index:
                counts.add(len(index))
                assert len(index.search(query, 100)[0]) == len(index)
        return counts

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            for turn in range(12):
                manifest = build_index(DOCUMENTS[: 10 + turn % 2], encoder, folder)
        finally:
            done.set()
        assert set().union(*(reader.result() for reader in readers)) <= {10, 11}
    assert read_manifest(folder) == manifest


def test_an_index_that_changes_while_it_is_verified_is_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, encoder = tmp_path / "index", HashEncoder()
    build_index(DOCUMENTS[:10], encoder, index)
    waiting = [True]

    def late(*given: Any, **named: Any) -> Path:
        if waiting and waiting.pop():
            build_index(DOCUMENTS[:11], encoder, index)
        return check_file(*given, **named)

    monkeypatch.setattr("safe_retrieval.index.folder.check_file", late)
    assert verify_index(index) == []
