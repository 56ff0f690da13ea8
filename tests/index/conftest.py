from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from safe_retrieval.index.builder import build_index
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power, and waiting for the disk is most of the time that small builds take."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Flat index of twenty documents that nobody changes."""
    path = tmp_path_factory.mktemp("built") / "index"
    build_index(small_corpus(20), HashEncoder(), path)
    return path


@pytest.fixture
def folder(built_once: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed and damaged."""
    shutil.copytree(built_once, tmp_path / "index")
    return tmp_path / "index"
