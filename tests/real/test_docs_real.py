"""Examples that the documents mark as tested are run as they stand there, one after the other in one folder.

What the documents tell to install is resolved, and not installed once more over what is under test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import TextFile, text_files
from tests.support.package_source import REPOSITORY

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


def test_what_is_to_be_installed_can_be() -> None:
    lines = [
        line
        for document in text_files()
        for line in re.findall(r"pip install\s+'?(?:safe-retrieval|\.)(?:\[[^]]+)?", document.text)
    ]
    extras = {extra for line in lines if "[" in line for extra in line.partition("[")[2].split(",")}
    assert {"langchain", "mteb", "llama-index", "haystack", "server", "ray", "peft"} <= extras
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--disable-pip-version-check"]
    wanted = f"{REPOSITORY}[{','.join(sorted(extras))}]"
    done = subprocess.run(
        [*pip, "--constraint", str(REPOSITORY / "constraints.txt"), wanted], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "does not provide the extra" not in done.stdout + done.stderr
