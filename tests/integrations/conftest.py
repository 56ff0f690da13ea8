"""What the hosts' tests share: tiny models in folders, and a cache of their own."""

from __future__ import annotations

import os

# Haystack and what it brings decide at import whether they report usage; tests report nothing to anybody.
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

import pytest

from tests.support.tiny_pair import TinyPair, save_tiny_pair


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return save_tiny_pair(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power, and waiting for the disk is most of the time that small builds take."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
