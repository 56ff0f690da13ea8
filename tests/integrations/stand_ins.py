"""Encoders of hashed words in the place of those that are loaded by name, so that rankings and verdicts are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from safe_retrieval.encoder.paired import PairedEncoder
from safe_retrieval.index.builder import build_index
from safe_retrieval.retrieval.arms import ArmLoader
from safe_retrieval.types import Document
from tests.support.encoders import HashEncoder

DOCUMENTS = (
    Document("v", "the violin is old", title="Violin", metadata={"year": 1700}),
    Document("c", "copper lies in the north"),
    Document("f", "the forbidden lantern"),
)
HARMLESS, REFUSED = "old violin", "forbidden lantern"


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every encoder that is loaded by name is a stand-in; queries with ``forbidden`` are refused."""
    asks, stores = HashEncoder("asks", refused=["forbidden"]), HashEncoder("stores")
    monkeypatch.setattr(ArmLoader, "paired", lambda self, arm: PairedEncoder(asks, stores))
    monkeypatch.setattr(ArmLoader, "_response", lambda self: asks)
    monkeypatch.setattr("safe_retrieval.encoder.input.InputEncoder.load", lambda *_, **__: stores)


def build(folder: Path) -> Path:
    """An index folder of :data:`DOCUMENTS`."""
    build_index(DOCUMENTS, HashEncoder("stores"), folder, progress=False)
    return folder
