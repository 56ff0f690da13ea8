from __future__ import annotations

import os
from pathlib import Path

import pytest

from safe_retrieval.training import responses
from tests.support.tiny_models import save_tiny_model
from tests.support.tiny_training import refuses


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model never refuses in so many words."""
    monkeypatch.setattr(responses, "is_refusal", refuses)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "backbone")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_RETRIEVAL_HOME", str(tmp_path_factory.getbasetemp() / "home"))
