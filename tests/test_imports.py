"""What an import costs: the root and every ``--help`` start without torch, FAISS or transformers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import safe_retrieval

HEAVY = {"torch", "faiss", "transformers", "sentence_transformers", "pandas", "datasets", "sklearn", "scipy", "bm25s"}

IMPORTED = "import json, sys; sys.stderr.write(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"

HELP_OF_EVERY_COMMAND = """
from typer.main import get_command
from safe_retrieval.cli.main import app

def show(command, *path):
    app([*path, "--help"], standalone_mode=False)
    for name, child in getattr(command, "commands", {}).items():
        show(child, *path, name)

show(get_command(app))
"""


def imported_by(code: str) -> set[str]:
    """Top-level names of all modules that a fresh Python has after running ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{IMPORTED}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_the_root_is_light() -> None:
    loaded = imported_by("import safe_retrieval; dir(safe_retrieval); safe_retrieval.__version__")
    assert not loaded & (HEAVY | {"numpy", "pydantic", "typer", "rich"})


def test_help_is_light() -> None:
    assert not imported_by(HELP_OF_EVERY_COMMAND) & HEAVY


def test_root_names_are_few_and_come_from_the_package() -> None:
    assert len(safe_retrieval.__all__) < 10
    assert len(set(safe_retrieval.__all__)) == len(safe_retrieval.__all__)
    for name in set(safe_retrieval.__all__) - {"__version__"}:
        value = getattr(safe_retrieval, name)
        assert value.__name__ == name
        assert value.__module__.startswith("safe_retrieval.")
    assert set(dir(safe_retrieval)) == set(safe_retrieval.__all__)


def test_an_unknown_root_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = safe_retrieval.nonsense
