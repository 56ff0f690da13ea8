from __future__ import annotations

from pathlib import Path

import pytest

from safe_retrieval.errors import IndexFolderError, IndexFormatError
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.copying import copy_index
from safe_retrieval.index.folder import load_index, verify_index
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

ENCODER = HashEncoder()


def test_a_copy_is_the_state_that_the_object_shows(tmp_path: Path) -> None:
    corpus = small_corpus(6)
    build_index(corpus, ENCODER, tmp_path / "index", progress=False)
    with load_index(tmp_path / "index") as index:
        index.delete(["d1"])
        copy_index(index, tmp_path / "copy")
        index.delete(["d2"])
        copy_index(index, index.path)
    assert verify_index(tmp_path / "copy") == []
    with load_index(tmp_path / "copy") as copy:
        assert list(copy.documents()) == [corpus[0], *corpus[2:]]
        copy.add(small_corpus(9)[8:], ENCODER.encode_documents(["more"]))
    with load_index(tmp_path / "index") as index:
        assert len(index) == 4
        copy_index(index, tmp_path / "copy")
    with load_index(tmp_path / "copy") as copy:
        assert len(copy) == 4
    assert verify_index(tmp_path / "copy") == []


def test_a_folder_of_something_else_stays_as_it_is(tmp_path: Path) -> None:
    build_index(small_corpus(3), ENCODER, tmp_path / "index", progress=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear all")
    with load_index(tmp_path / "index") as index, pytest.raises(IndexFolderError, match="holds other files"):
        copy_index(index, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["letter.txt"]


def test_a_copy_over_an_index_never_writes_into_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_index(small_corpus(6), ENCODER, tmp_path / "index", progress=False)
    with load_index(tmp_path / "index") as index:
        copy_index(index, tmp_path / "copy")
        before = {path.name: path.stat().st_ino for path in (tmp_path / "copy").glob("*-*")}

        def half(source: Path, target: Path) -> None:
            target.write_bytes(source.read_bytes()[:100])
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("shutil.copyfile", half)
            with pytest.raises(KeyboardInterrupt):
                copy_index(index, tmp_path / "copy")
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / ".changing").mkdir()  # as kill -9 leaves a first copy
        assert {path.name: path.stat().st_ino for path in (tmp_path / "copy").glob("*-*")} == before
        assert verify_index(tmp_path / "copy") == []
        copy_index(index, tmp_path / "new")
        damaged = index.path / index.manifest.segments[0].documents.name
        damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
        with pytest.raises(IndexFormatError, match="not those that were written") as caught:
            copy_index(index, tmp_path / "copy")
        assert str(caught.value).startswith(str(damaged))
    assert verify_index(tmp_path / "copy") == verify_index(tmp_path / "new") == []
