"""Examples that the documents mark as tested are run as they stand there, one after the other in one folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import TextFile, text_files

pytestmark = pytest.mark.real

TESTED = [document for document in text_files() if any(block.tested for block in document.blocks())]


@pytest.mark.parametrize("document", TESTED, ids=lambda document: document.name)
def test_marked_examples_run(document: TextFile, tmp_path: Path) -> None:
    here = Path(sys.executable).parent  # so that `safe-retrieval` and `python` are those under test
    if shutil.which("safe-retrieval", path=str(here)) is None:
        pytest.skip("the package is on the path but not installed, so there is no safe-retrieval program to type")
    environment = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    for block in document.blocks():
        if not block.tested:
            continue
        command = [sys.executable, "-"] if block.language == "python" else ["bash", "-euo", "pipefail", "-s"]
        done = subprocess.run(
            command, input=block.code, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{document.name}:{block.line}\n{done.stdout}\n{done.stderr}"
