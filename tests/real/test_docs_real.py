"""Examples that the documents mark as tested are run as they stand there, those of one document in one folder.

What the documents tell to install is resolved, and not installed once more over what is under test.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import pytest

from tests.support.documents import TextFile, text_files
from tests.support.package_source import REPOSITORY

pytestmark = pytest.mark.real

# From the end of the alphabet, where the longest one happens to be: then both processes are done at about one time.
TESTED = [document for document in reversed(text_files()) if any(block.tested for block in document.blocks())]

# Each Python block as a script of its own, with nothing left of those before but the libraries they loaded: these take
# longer to load than most examples to run.
RUN_EACH = """
import json, sys
for where, code in json.load(sys.stdin):
    print(where, file=sys.stderr)
    exec(compile(code, where, "exec"), {"__name__": "__main__"})
"""


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """The chosen documents' examples, two documents at a time: half of their time is one thread that starts Python."""
    if shutil.which("safe-retrieval", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("the package is on the path but not installed, so there is no safe-retrieval program to type")
    asked = {item.name for item in request.session.items}
    with ThreadPoolExecutor(2) as pool:
        yield {
            document.name: pool.submit(run_examples, document, tmp_path_factory.mktemp("examples"))
            for document in TESTED
            if f"{test_marked_examples_run.__name__}[{document.name}]" in asked
        }


def run_examples(document: TextFile, folder: Path) -> None:
    here = Path(sys.executable).parent  # so that `safe-retrieval` and `python` are those under test
    threads = max(1, (os.cpu_count() or 1) // 2)
    own = {"PATH": f"{here}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": str(threads)}
    tested = [block for block in document.blocks() if block.tested]
    for language, blocks in groupby(tested, key=lambda block: block.language):
        examples = [(f"{document.name}:{block.line}", block.code) for block in blocks]
        if language == "python":
            command, text = [sys.executable, "-c", RUN_EACH], json.dumps(examples)
        else:
            command, text = ["bash", "-euo", "pipefail", "-s"], "\n".join(code for _, code in examples)
        done = subprocess.run(
            command, input=text, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{examples[0][0]}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("document", TESTED, ids=lambda document: document.name)
def test_marked_examples_run(document: TextFile, runs: dict[str, Future[None]]) -> None:
    runs[document.name].result()


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
