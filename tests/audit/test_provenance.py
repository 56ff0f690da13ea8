"""A report names the code that ran, also where someone commits while it runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from safe_retrieval.audit import provenance as module


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    module.source_state.cache_clear()
    yield
    module.source_state.cache_clear()


def test_the_commit_is_the_one_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    head = ["first"]
    monkeypatch.setattr(module, "_git", lambda *arguments: head[0] if arguments[0] == "rev-parse" else "")
    assert module.source_state() == {"commit": "first", "modified": False}
    head[0] = "second"
    assert module.provenance({})["commit"] == "first"


def test_an_installed_copy_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_git", lambda *_: None)
    assert module.source_state() == {"commit": None, "modified": None}
