"""A build in steps: the same index in whatever order, by however many processes, and after whatever went wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from safe_retrieval.errors import (
    DataError,
    EncoderMismatchError,
    IndexFolderError,
    IndexLockedError,
    InputError,
    ModelError,
)
from safe_retrieval.index import faiss_files, steps, vector_files
from safe_retrieval.index import shards as shards_module
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.folder import load_index, verify_index
from safe_retrieval.index.manifest import BUILD_FOLDER, IndexManifest
from safe_retrieval.index.plan import PLAN_NAME, even_bounds, read_plan, shard_number
from safe_retrieval.index.steps import (
    add_shard,
    build_in_shards,
    embed_shard,
    merge_index,
    missing_shards,
    plan_build,
    train_index,
)
from safe_retrieval.types import Document, FloatMatrix
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

DOCUMENTS = small_corpus(160)
SHARDS = 5


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "IVF4,SQ8"])
def test_steps_in_any_order_and_again_give_the_index_of_an_ordinary_build(tmp_path: Path, factory: str) -> None:
    whole = build_index(DOCUMENTS, HashEncoder(), tmp_path / "whole", factory=factory)
    out = tmp_path / "out"
    plan = plan_build(DOCUMENTS, HashEncoder(), out, shards=SHARDS, factory=factory)
    text = (out / BUILD_FOLDER / PLAN_NAME).read_text()
    assert read_plan(out) == plan
    with pytest.raises(IndexFolderError, match="shard 1 of 5 is missing"):
        train_index(out) if factory != "Flat" else merge_index(out)
    order = list(range(SHARDS)) * 2
    random.Random(0).shuffle(order)
    done = [embed_shard(out, number, HashEncoder()) for number in order]
    assert sum(done) == SHARDS
    assert missing_shards(out) == []
    with pytest.raises(IndexFolderError, match="unfinished build"):
        load_index(out)
    assert train_index(out) == (factory != "Flat")
    assert not train_index(out)
    assert sum(add_shard(out, number) for number in order) == (0 if factory == "Flat" else SHARDS)
    plan_build(DOCUMENTS, HashEncoder(), out, shards=SHARDS, factory=factory)  # and what was done still counts
    assert (out / BUILD_FOLDER / PLAN_NAME).read_text() == text
    assert missing_shards(out) == []
    built = merge_index(out)
    assert [record.sha256 for record in built.files()] == [record.sha256 for record in whole.files()]
    assert verify_index(out) == []
    assert not (out / BUILD_FOLDER).exists()


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan_build(DOCUMENTS, HashEncoder(), out, shards=2, factory="IVF4,Flat")
    for number in range(2):
        embed_shard(out, number, HashEncoder())
    with pytest.raises(IndexFolderError, match="not trained yet"):
        add_shard(out, 0)
    train_index(out)
    add_shard(out, 0)
    with pytest.raises(IndexFolderError, match="part 2 of 2 is missing"):
        merge_index(out)
    shard = out / BUILD_FOLDER / "shards" / "000001.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert missing_shards(out) == [1]
    with pytest.raises(IndexFolderError, match="shard 2 of 2 is missing or damaged"):
        add_shard(out, 1)
    assert embed_shard(out, 1, HashEncoder())
    with pytest.raises(EncoderMismatchError, match="was planned for hash-encoder"):
        embed_shard(out, 0, HashEncoder(dimension=8))
    with pytest.raises(InputError, match="expected a shard from 1 to 2, got 3"):
        embed_shard(out, 2, HashEncoder())
    plan_build(small_corpus(150), HashEncoder(), out, shards=2)  # another corpus: nothing of the old one counts
    assert missing_shards(out) == [0, 1]


def ready_to_merge(documents: list[Document], out: Path, factory: str) -> None:
    """All steps but the last, in two shards."""
    plan_build(documents, HashEncoder(), out, shards=2, factory=factory)
    for number in range(2):
        embed_shard(out, number, HashEncoder())
    train_index(out)
    for number in range(2):
        add_shard(out, number)


def test_shards_of_an_encoder_that_changed_under_the_same_name_are_no_part_of_the_build(tmp_path: Path) -> None:
    class Retrained(HashEncoder):
        def _vectors(self, texts: Any) -> FloatMatrix:
            return -super()._vectors(texts)

    out = tmp_path / "out"
    ready_to_merge(DOCUMENTS, out, "IVF4,Flat")
    assert missing_shards(out, HashEncoder()) == []
    assert missing_shards(out, Retrained()) == [0, 1]
    assert embed_shard(out, 0, Retrained())
    assert missing_shards(out, Retrained()) == [1]
    with pytest.raises(IndexFolderError, match="not trained yet"):
        merge_index(out)
    assert embed_shard(out, 1, Retrained())
    train_index(out)
    assert [add_shard(out, number) for number in range(2)] == [True, True]
    built = merge_index(out)
    whole = build_in_shards(DOCUMENTS, Retrained(), tmp_path / "whole", shards=2, factory="IVF4,Flat")
    assert [record.sha256 for record in built.files()] == [record.sha256 for record in whole.files()]


@pytest.mark.parametrize("links", [True, False])
def test_a_merge_that_was_stopped_at_its_end_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    def refused(*_: Any) -> None:
        raise OSError("no hard links here")

    out = tmp_path / "out"
    ready_to_merge(DOCUMENTS, out, "IVF4,SQ8")
    with monkeypatch.context() as patch:
        patch.setattr(IndexManifest, "write", stopped)
        if not links:
            patch.setattr(Path, "hardlink_to", refused)
        with pytest.raises(KeyboardInterrupt):
            merge_index(out)
    if not links:
        with pytest.raises(IndexFolderError, match="plan again"):
            merge_index(out)
        plan_build(DOCUMENTS, HashEncoder(), out, shards=2, factory="IVF4,SQ8")
    assert missing_shards(out) == []
    built = merge_index(out)
    whole = build_index(DOCUMENTS, HashEncoder(), tmp_path / "whole", factory="IVF4,SQ8")
    assert [record.sha256 for record in built.files()] == [record.sha256 for record in whole.files()]
    assert not (out / BUILD_FOLDER).exists()


def test_a_changed_document_is_no_part_of_the_old_build(tmp_path: Path) -> None:
    """Also where the trained index stays the same, because the document is not in its sample of 1,024."""
    documents, out = small_corpus(1_600), tmp_path / "out"
    other = [*documents[:2], Document("d2", "something else altogether"), *documents[3:]]
    for corpus in (documents, other):
        ready_to_merge(corpus, out, "IVF4,Flat")
    assert len({path.read_bytes() for path in (out / BUILD_FOLDER).glob("*-trained.faiss")}) == 1
    merge_index(out)
    with load_index(out) as index:
        assert index.get_vectors(["d2"]) == pytest.approx(HashEncoder().encode_documents([other[2].content]))


def cut_short(data: bytes) -> bytes:
    return data[:-9]


def with_another_id(data: bytes) -> bytes:
    """A part whose last vector says that it is another one: FAISS would read it without a word."""
    return data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]


@pytest.mark.parametrize("damage", [cut_short, with_another_id])
def test_what_was_damaged_is_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    documents = DOCUMENTS[:80]
    whole = build_index(documents, HashEncoder(), tmp_path / "whole", factory="IVF2,Flat")
    out = tmp_path / "out"
    ready_to_merge(documents, out, "IVF2,Flat")
    (trained,) = (out / BUILD_FOLDER).glob("*-trained.faiss")
    part = next((out / BUILD_FOLDER / "parts").glob("*-000001.faiss"))
    part.write_bytes(damage(part.read_bytes()))
    with pytest.raises(IndexFolderError, match=r"part 2 of 2 is missing or damaged; run: .* shards add"):
        merge_index(out)
    assert not add_shard(out, 0)
    assert add_shard(out, 1)
    assert not add_shard(out, 1)
    trained.write_bytes(damage(trained.read_bytes()))
    with pytest.raises(IndexFolderError, match=r"what training left is damaged; run: .* shards train"):
        merge_index(out)
    part.write_bytes(damage(part.read_bytes()))
    built = build_in_shards(documents, HashEncoder(), out, shards=2, factory="IVF2,Flat", progress=False)
    assert [record.sha256 for record in built.files()] == [record.sha256 for record in whole.files()]


class Intruder(HashEncoder):
    """Tries to build the same folder in the middle of a build of it."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self.refused = 0
        self._out = out

    def encode_documents(self, texts: Any, **named: Any) -> FloatMatrix:
        for build in (plan_build, build_in_shards):
            with pytest.raises(IndexLockedError, match="another process"):
                build(DOCUMENTS[:3], HashEncoder(), self._out, shards=1)
            self.refused += 1
        with pytest.raises(IndexLockedError, match="another process"):
            merge_index(self._out)
        return super().encode_documents(texts, **named)


def test_a_second_build_is_refused_from_the_plan_to_the_merge(tmp_path: Path) -> None:
    encoder = Intruder(tmp_path / "out")
    assert build_in_shards(DOCUMENTS, encoder, tmp_path / "out", shards=2, progress=False).count == len(DOCUMENTS)
    assert encoder.refused == 4


def test_neither_texts_nor_vectors_of_a_shard_are_held_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_index(DOCUMENTS, HashEncoder(), tmp_path / "whole", factory="IVF4,SQ8")
    monkeypatch.setattr(steps, "SHARD_SIZE", 30)
    monkeypatch.setattr(shards_module, "_BLOCK_ROWS", 7)
    blocks, parts = [], []
    read, write = shards_module._blocks, faiss_files.write_part

    def watched(path: Path) -> Iterator[FloatMatrix]:
        for block in read(path):
            blocks.append(len(block))
            yield block

    def counted(path: Path, *rest: Any) -> None:
        parts.append(path)
        write(path, *rest)

    monkeypatch.setattr(shards_module, "_blocks", watched)
    monkeypatch.setattr(vector_files, "write_part", counted)
    encoder, out = HashEncoder(), tmp_path / "out"
    memory = 4 * encoder.dimension * 400  # enough to train on all of them, and for parts of some 25
    monkeypatch.setattr(vector_files, "_PART_SHARE", 25 * (32 + 2 * 16) / memory)
    built = build_in_shards(DOCUMENTS, encoder, out, shards=2, factory="IVF4,SQ8", memory=memory, progress=False)
    assert [record.sha256 for record in built.files()] == [record.sha256 for record in whole.files()]
    assert [len(call) for call in encoder.document_calls] == [30, 30, 20, 30, 30, 20]
    assert max(blocks) == 7
    assert len(parts) == 2 * 4


def test_a_kind_that_does_not_fit_the_dimension_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    remaining, encoder = iter(DOCUMENTS), HashEncoder()
    for build in (plan_build, build_in_shards):
        with pytest.raises(InputError, match="take a number that divides 32"):
            build(remaining, encoder, tmp_path / "out", shards=1, factory="IVF4,PQ5")
    with pytest.raises(InputError, match="take a number that divides 32"):
        build_index(remaining, encoder, tmp_path / "out", factory="IVF4,PQ5")
    assert next(remaining) is DOCUMENTS[0]
    assert encoder.document_calls == []


def test_what_fails_outside_the_folder_is_not_told_as_a_full_disk(tmp_path: Path) -> None:
    class Remote(HashEncoder):
        def _vectors(self, texts: Any) -> FloatMatrix:
            raise ConnectionResetError("the other side went away")

    def broken() -> Iterator[Document]:
        yield DOCUMENTS[0]
        raise TimeoutError("the crawler got no answer")

    with pytest.raises(TimeoutError, match="no answer"):
        plan_build(broken(), HashEncoder(), tmp_path / "out", shards=1)
    plan_build(DOCUMENTS, HashEncoder(), tmp_path / "out", shards=1)
    with pytest.raises(ModelError, match="hash-encoder failed at the documents from 0 on: the other side went away"):
        embed_shard(tmp_path / "out", 0, Remote())


@pytest.mark.parametrize("build", [build_index, partial(build_in_shards, shards=1)])
def test_a_folder_that_takes_no_files_is_named(tmp_path: Path, build: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / BUILD_FOLDER).write_text("no folder")
    with pytest.raises(IndexFolderError, match=r"out cannot be written: .* mend the disk"):
        build(DOCUMENTS, HashEncoder(), tmp_path / "out")


def test_plans_that_cannot_be(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for documents, shards, factory, kind, message in (
        ([], 1, "Flat", DataError, "empty one"),
        (DOCUMENTS[:3], 4, "Flat", InputError, "from 1 to 3 shards"),
        (DOCUMENTS, 1, "IVF8,Flat", InputError, "at least 312"),
        (DOCUMENTS, 1, "IVF8,PQ4", InputError, "9,984 vectors"),
    ):
        with pytest.raises(kind, match=message):
            plan_build(documents, HashEncoder(), out, shards=shards, factory=factory)
    with pytest.raises(IndexFolderError, match="no planned build"):
        merge_index(out)
    plan_build(DOCUMENTS, HashEncoder(), out, shards=3)
    path = out / BUILD_FOLDER / PLAN_NAME
    fields = json.loads(path.read_text())
    for text in (json.dumps({**fields, "count": 7}), "{", "[]"):
        path.write_text(text)
        with pytest.raises(IndexFolderError, match=r"plan\.json is damaged"):
            read_plan(out)


def test_shards_in_one_process(tmp_path: Path) -> None:
    whole = build_index(DOCUMENTS, HashEncoder(), tmp_path / "whole")
    encoder = HashEncoder()
    built = build_in_shards(DOCUMENTS, encoder, tmp_path / "out", shards=3, progress=False)
    assert built.files() == whole.files()
    assert [len(call) for call in encoder.document_calls] == [53, 53, 54]
    plan_build(DOCUMENTS, encoder, tmp_path / "again", shards=3)
    embed_shard(tmp_path / "again", 1, encoder)
    encoder.document_calls.clear()
    assert build_in_shards(DOCUMENTS, encoder, tmp_path / "again", shards=3, progress=False).files() == whole.files()
    assert [len(call) for call in encoder.document_calls] == [53, 1, 54]  # one of the shard that is there
    plan_build(DOCUMENTS, encoder, tmp_path / "anew", shards=3)
    embed_shard(tmp_path / "anew", 1, encoder)
    encoder.document_calls.clear()
    build_in_shards(DOCUMENTS, encoder, tmp_path / "anew", shards=3, resume=False, progress=False)
    assert len(encoder.document_calls) == 3


def test_an_ordinary_build_ends_a_plan(tmp_path: Path) -> None:
    plan_build(DOCUMENTS, HashEncoder(), tmp_path, shards=1)
    embed_shard(tmp_path, 0, HashEncoder())
    with pytest.raises(DataError):
        build_index([*DOCUMENTS[:9], DOCUMENTS[0]], HashEncoder(), tmp_path)
    with pytest.raises(IndexFolderError, match="no planned build"):  # its documents are gone
        merge_index(tmp_path)


def test_numbers_of_shards() -> None:
    assert shard_number("3/64", 64) == 2
    for text in ("0/64", "65/64", "3", "a/64", "3/", "3/8"):
        with pytest.raises(InputError, match=r"expected a shard|planned with 64"):
            shard_number(text, 64)
    assert list(even_bounds(10, 4)) == [(0, 2), (2, 5), (5, 7), (7, 10)]
