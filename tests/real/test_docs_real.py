"""Examples that the documents mark as tested are run as they stand there, one after the other in one folder.

What the documents tell to install is resolved, and not installed once more over what is under test.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from tests.support.documents import TextFile, text_files
from tests.support.package_source import REPOSITORY

pytestmark = pytest.mark.real

TESTED = [document for document in text_files() if any(block.tested for block in document.blocks())]

# Each Python block as a script of its own, with nothing left of those before but the libraries they loaded: these take
# longer to load than most examples to run.
RUN_EACH = """
import json, sys
for where, code in json.load(sys.stdin):
    print(where, file=sys.stderr)
    exec(compile(code, where, "exec"), {"__name__": "__main__"})
"""


@pytest.mark.parametrize("document", TESTED, ids=lambda document: document.name)
def test_marked_examples_run(document: TextFile, tmp_path: Path) -> None:
    here = Path(sys.executable).parent  # so that `safe-retrieval` and `python` are those under test
    if shutil.which("safe-retrieval", path=str(here)) is None:
        pytest.skip("the package is on the path but not installed, so there is no safe-retrieval program to type")
    environment = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    tested = [block for block in document.blocks() if block.tested]
    for language, blocks in groupby(tested, key=lambda block: block.language):
        examples = [(f"{document.name}:{block.line}", block.code) for block in blocks]
        if language == "python":
            command, text = [sys.executable, "-c", RUN_EACH], json.dumps(examples)
        else:
            command, text = ["bash", "-euo", "pipefail", "-s"], "\n".join(code for _, code in examples)
        done = subprocess.run(
            command, input=text, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{examples[0][0]}\n{done.stdout}\n{done.stderr}"


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
