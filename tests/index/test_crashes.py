"""Kill -9 at random moments, and damage at random places."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from safe_retrieval.errors import IndexFolderError, IndexFormatError
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.folder import load_index, verify_index
from safe_retrieval.index.manifest import read_manifest
from tests.index.killed_changes import KINDS
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

REPOSITORY = Path(__file__).parents[2]
KILLS = int(os.environ.get("SAFE_RETRIEVAL_TEST_KILLS", "60"))


@pytest.mark.skipif(os.name == "nt", reason="forks, and SIGKILL is POSIX")
def test_nothing_committed_is_lost_and_no_half_state_is_opened(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.index.killed_changes", str(tmp_path / "index"), str(KILLS), "1"],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)
    assert counted["changes"] >= KILLS
    # Each kind is aimed at in its turn; a moment too late hits whatever comes next.
    assert min(counted["hit"].get(kind, 0) for kind in KINDS) >= KILLS // 30, counted


def test_damage_anywhere_in_an_index_of_several_segments_is_noticed(tmp_path: Path) -> None:
    """Flipped bits and cuts in every file: of codes, of vectors for exact scores, of deletions, of a later segment."""
    documents, encoder = small_corpus(60), HashEncoder(dimension=8)
    folder = tmp_path / "index"
    build_index(documents[:50], encoder, folder, factory="SQ8")
    with load_index(folder) as index:
        index.add(documents[50:], encoder.encode_documents([document.content for document in documents[50:]]))
        index.delete(["d3", "d51"])
    names = ["manifest.json", *(record.name for record in read_manifest(folder).files())]
    assert len(names) == 8
    rng = random.Random(0)
    places = 0
    for name in names:
        path = folder / name
        whole = path.read_bytes()
        for _ in range(30):
            place = rng.randrange(len(whole))
            flipped = whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :]
            for data in (flipped, whole[:place]):
                path.write_bytes(data)
                with pytest.raises(IndexFormatError, match=name):
                    load_index(folder)
                places += 1
        path.unlink()
        with pytest.raises(IndexFolderError, match=name):
            load_index(folder)
        path.write_bytes(whole)
    assert places >= 300
    assert verify_index(folder) == []
