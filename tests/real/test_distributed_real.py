"""A build by a Ray of two workers on this machine, one of which is killed midway; marked real for the time it takes."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from safe_retrieval.errors import InputError
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.distributed import build_with_ray
from safe_retrieval.index.folder import verify_index
from tests.support.corpora import small_corpus
from tests.support.dying_encoder import DyingEncoder
from tests.support.encoders import HashEncoder

pytestmark = pytest.mark.real


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_worker_is_killed_and_the_index_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([repository, os.environ.get("PYTHONPATH", "")]))
    documents = small_corpus(160)
    marker = tmp_path / "died"
    load = partial(DyingEncoder, str(marker), documents[70].content, os.getpid())
    built = build_with_ray(documents, load, tmp_path / "out", shards=4, workers=2, factory="IVF4,Flat")
    assert int(marker.read_text()) != os.getpid()
    whole = build_index(documents, HashEncoder(), tmp_path / "whole", factory="IVF4,Flat")
    assert [record.sha256 for record in built.files()] == [record.sha256 for record in whole.files()]
    assert (built.count, built.build.shards) == (160, 4)
    assert verify_index(tmp_path / "out") == []
    with pytest.raises(InputError, match="at least one worker"):
        build_with_ray(documents, load, tmp_path / "none", shards=8, workers=0)
