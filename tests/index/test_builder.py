from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safe_retrieval.errors import DataError, IndexFolderError, IndexLockedError, InputError
from safe_retrieval.index import builder, manifest, publish
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.documents import DocumentWriter
from safe_retrieval.index.folder import load_index, verify_index
from safe_retrieval.index.manifest import IndexManifest, read_manifest
from safe_retrieval.index.shards import ShardStore
from safe_retrieval.types import Document, FloatMatrix
from tests.support.build_slowly import SHARD_SIZE
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

DOCUMENTS = small_corpus(23)
REPOSITORY = Path(__file__).parents[2]


class StoppedError(Exception):
    """Stands for a process that ends here."""


def interrupted(documents: list[Document], at: int) -> Iterator[Document]:
    yield from documents[:at]
    raise StoppedError


def hashes(built: IndexManifest) -> list[str]:
    return [record.sha256 for record in built.files()]


def test_a_folder_holds_the_index_and_nothing_else(tmp_path: Path) -> None:
    built = build_index(iter(DOCUMENTS), HashEncoder(), tmp_path / "deep" / "index", shard_size=5, progress=False)
    folder = tmp_path / "deep" / "index"
    assert read_manifest(folder) == built
    assert (built.count, built.dimension, built.build.shards, built.build.reused_shards) == (23, 32, 5, 0)
    assert (built.encoder.name, built.encoder.space, built.encoder.prompts) == ("hash-encoder", "hash:32", {})
    names = {path.name for path in folder.iterdir()}
    assert names == {".lock", "manifest.json", *(record.name for record in built.files())}
    assert verify_index(folder) == []


def test_prompts_are_recorded(tmp_path: Path) -> None:
    encoder = HashEncoder()
    encoder.query_prompt, encoder.document_prompt = "q: ", "d: "  # type: ignore[attr-defined]
    built = build_index(DOCUMENTS, encoder, tmp_path / "index")
    assert built.encoder.prompts == {"query": "q: ", "document": "d: "}


def test_shard_size_does_not_change_the_vectors(tmp_path: Path) -> None:
    vectors = {
        build_index(DOCUMENTS, HashEncoder(), tmp_path / str(size), shard_size=size).segments[0].vectors.sha256
        for size in (1, 7, 1_000)
    }
    assert len(vectors) == 1


def test_only_what_is_missing_is_encoded_and_the_bytes_are_the_same(tmp_path: Path) -> None:
    whole = build_index(DOCUMENTS, HashEncoder(), tmp_path / "whole", shard_size=5)
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        build_index(interrupted(DOCUMENTS, 17), HashEncoder(), out, shard_size=5, progress=False)
    with pytest.raises(IndexFolderError, match="unfinished build"):
        load_index(out)
    encoder = HashEncoder()
    resumed = build_index(DOCUMENTS, encoder, out, shard_size=5)
    assert resumed.build.reused_shards == 3
    # One text of each shard to see that the encoder is the same, then shards 3 and 4.
    assert [len(call) for call in encoder.document_calls] == [1, 1, 1, 5, 3]
    assert hashes(resumed) == hashes(whole)
    assert not (out / manifest.BUILD_FOLDER).exists()


def test_changed_texts_are_encoded_again(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        build_index(interrupted(DOCUMENTS, 20), HashEncoder(), tmp_path / "out", shard_size=5, progress=False)
    changed = [*DOCUMENTS]
    changed[7] = Document("d7", "something else")
    resumed = build_index(changed, HashEncoder(), tmp_path / "out", shard_size=5)
    assert resumed.build.reused_shards == 3
    assert hashes(resumed) == hashes(build_index(changed, HashEncoder(), tmp_path / "whole", shard_size=5))


@pytest.mark.parametrize("other", [{"space": "other"}, {"name": "other"}, {"dimension": 8, "space": "hash:32"}])
def test_another_encoder_takes_nothing_over(tmp_path: Path, other: dict[str, Any]) -> None:
    with pytest.raises(StoppedError):
        build_index(interrupted(DOCUMENTS, 20), HashEncoder(), tmp_path / "out", shard_size=5, progress=False)
    assert build_index(DOCUMENTS, HashEncoder(**other), tmp_path / "out", shard_size=5).build.reused_shards == 0


def test_an_encoder_that_changed_under_the_same_name_takes_nothing_over(tmp_path: Path) -> None:
    class Retrained(HashEncoder):
        def _vectors(self, texts: Any) -> FloatMatrix:
            return -super()._vectors(texts)

    with pytest.raises(StoppedError):
        build_index(interrupted(DOCUMENTS, 20), HashEncoder(), tmp_path / "out", shard_size=5, progress=False)
    out = tmp_path / "out"
    with pytest.raises(StoppedError):  # again, with shards of both on the disk
        build_index(interrupted(DOCUMENTS, 6), Retrained(), out, shard_size=5, progress=False)
    resumed = build_index(DOCUMENTS, Retrained(), out, shard_size=5)
    assert resumed.build.reused_shards == 1
    assert hashes(resumed) == hashes(build_index(DOCUMENTS, Retrained(), tmp_path / "whole", shard_size=5))


def test_a_damaged_shard_is_encoded_again(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        build_index(interrupted(DOCUMENTS, 20), HashEncoder(), tmp_path / "out", shard_size=5, progress=False)
    shard = tmp_path / "out" / manifest.BUILD_FOLDER / "shards" / "000001.npy"
    shard.write_bytes(shard.read_bytes()[:-4])
    resumed = build_index(DOCUMENTS, HashEncoder(), tmp_path / "out", shard_size=5)
    assert resumed.build.reused_shards == 3
    assert hashes(resumed) == hashes(build_index(DOCUMENTS, HashEncoder(), tmp_path / "whole", shard_size=5))


def test_no_resume_starts_anew(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        build_index(interrupted(DOCUMENTS, 20), HashEncoder(), tmp_path / "out", shard_size=5, progress=False)
    assert build_index(DOCUMENTS, HashEncoder(), tmp_path / "out", shard_size=5, resume=False).build.reused_shards == 0


STEPS: list[tuple[Any, str]] = [
    (DocumentWriter, "append"),
    (ShardStore, "save"),
    (builder, "write_vectors"),
    (publish, "record_file"),
    (publish, "sync_folder"),
    (IndexManifest, "write"),
    (manifest, "sync_folder"),
    (shutil, "rmtree"),
]


@pytest.mark.parametrize(("owner", "step"), STEPS)
@pytest.mark.parametrize("after", [False, True])
def test_stopped_at_any_step_the_old_index_or_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str, after: bool
) -> None:
    out = tmp_path / "out"
    old = build_index(DOCUMENTS[:9], HashEncoder(), out, shard_size=5)
    real: Callable[..., Any] = getattr(owner, step)

    def stop(*arguments: Any, **named: Any) -> None:
        if after:
            real(*arguments, **named)
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, stop)
        with pytest.raises(StoppedError):
            build_index(DOCUMENTS, HashEncoder(), out, shard_size=5)
    with load_index(out) as index:
        assert index.manifest == old or index.manifest.count == 23
        assert len(list(index.documents())) == len(index)
    final = build_index(DOCUMENTS, HashEncoder(), out, shard_size=5)
    assert hashes(final) == hashes(build_index(DOCUMENTS, HashEncoder(), tmp_path / "whole", shard_size=5))
    assert {path.name for path in out.iterdir()} == {
        ".lock",
        "manifest.json",
        *(record.name for record in final.files()),
    }


BUILD = """
import sys
from tests.support.build_slowly import HashEncoder, SHARD_SIZE, build_index, small_corpus
build_index(small_corpus(80), HashEncoder(delay=0.3), sys.argv[1], factory=sys.argv[2], shard_size=SHARD_SIZE)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("factory", ["Flat", "IVF2,SQ8"])
def test_kill_9_and_go_on(tmp_path: Path, factory: str) -> None:
    out = tmp_path / "out"
    whole = build_index(small_corpus(80), HashEncoder(), tmp_path / "whole", factory=factory, shard_size=SHARD_SIZE)
    shards = out / manifest.BUILD_FOLDER / "shards"
    for wanted in (2, 5):
        command = [sys.executable, "-c", BUILD, str(out), factory]
        process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE)
        wait_for(lambda wanted=wanted: len(list(shards.glob("*.json"))) >= wanted, process)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with pytest.raises(IndexFolderError, match="unfinished build"):
            load_index(out)

    encoder = HashEncoder()
    resumed = build_index(small_corpus(80), encoder, out, factory=factory, shard_size=SHARD_SIZE)
    assert resumed.build.reused_shards >= 5
    reused = resumed.build.reused_shards
    assert sorted(map(len, encoder.document_calls)) == [1] * reused + [SHARD_SIZE] * (16 - reused)
    assert hashes(resumed) == hashes(whole)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_second_build_is_kept_out_while_the_first_one_runs_and_not_after_it_was_killed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tests.support.build_slowly", str(out), "60", "5"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE)
    wait_for((out / manifest.BUILD_FOLDER / "documents.sqlite").exists, process)
    with pytest.raises(IndexLockedError, match="another process"):
        build_index(DOCUMENTS, HashEncoder(), out)
    process.kill()
    process.communicate()
    assert build_index(DOCUMENTS, HashEncoder(), out).count == 23


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the build ended or hung: {process.communicate()[1].decode()}")
        time.sleep(0.02)


def test_a_foreign_folder_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(IndexFolderError, match=r"thesis\.txt"):
        build_index(DOCUMENTS, HashEncoder(), tmp_path)
    (tmp_path / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(IndexFolderError, match="choose a new or empty folder"):
        build_index(DOCUMENTS, HashEncoder(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.txt", "manifest.json"}
    with pytest.raises(IndexFolderError, match="is a file"):
        build_index(DOCUMENTS, HashEncoder(), tmp_path / "thesis.txt")


def test_files_beside_an_index_stay(tmp_path: Path) -> None:
    build_index(DOCUMENTS[:5], HashEncoder(), tmp_path)
    (tmp_path / "README.md").write_text("where this came from")
    build_index(DOCUMENTS, HashEncoder(), tmp_path)
    assert (tmp_path / "README.md").read_text() == "where this came from"


@pytest.mark.parametrize("name", ["manifest.json", "vectors", "documents"])
def test_a_damaged_index_is_mended_by_building_again(tmp_path: Path, name: str) -> None:
    built = build_index(DOCUMENTS, HashEncoder(), tmp_path)
    path = tmp_path / (name if name == "manifest.json" else getattr(built.segments[0], name).name)
    path.write_bytes(path.read_bytes()[:-3])
    assert verify_index(tmp_path) != []
    build_index(DOCUMENTS, HashEncoder(), tmp_path)
    assert verify_index(tmp_path) == []


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "empty one"),
        ([Document("a", "x"), Document("b", "y"), Document("a", "z")], "documents 0 and 2 have the same id 'a'"),
    ],
)
def test_faulty_corpora(tmp_path: Path, documents: list[Document], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_index(documents, HashEncoder(), tmp_path / "out", shard_size=2)
    assert build_index(DOCUMENTS, HashEncoder(), tmp_path / "out").count == 23


def test_faulty_encoders(tmp_path: Path) -> None:
    class Broken(HashEncoder):
        def __init__(self, break_it: Callable[[FloatMatrix], Any]) -> None:
            super().__init__()
            self.break_it = break_it

        def encode_documents(self, texts: Any, **_: Any) -> Any:
            return self.break_it(self._vectors(texts))

    def with_nan(vectors: FloatMatrix) -> FloatMatrix:
        vectors[3] = np.nan
        return vectors

    for break_it, message in (
        (with_nan, r"\(shard from document 0\) vector 3 holds NaN"),
        (lambda vectors: vectors[:-1], "expected 23 vectors from hash-encoder"),
        (lambda vectors: vectors.astype(np.float64), "float64"),
    ):
        with pytest.raises(InputError, match=message):
            build_index(DOCUMENTS, Broken(break_it), tmp_path / "out")


def test_sizes(tmp_path: Path) -> None:
    for sizes in ({"shard_size": 0}, {"batch_size": 0}):
        with pytest.raises(InputError, match="at least 1"):
            build_index(DOCUMENTS, HashEncoder(), tmp_path / "out", **sizes)  # type: ignore[arg-type]


def test_a_full_disk_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ShardStore, "save", full)
        with pytest.raises(IndexFolderError, match=r"No space left.*run the same build again"):
            build_index(DOCUMENTS, HashEncoder(), tmp_path / "out")
    assert build_index(DOCUMENTS, HashEncoder(), tmp_path / "out").count == 23
