from __future__ import annotations

from typing import Any

import pytest

from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.errors import InputError
from safe_retrieval.retrieval.arms import Arm, ArmLoader
from tests.support.encoders import HashEncoder


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> ArmLoader:
    asked = HashEncoder("response", refused=["bad"])
    monkeypatch.setattr("safe_retrieval.encoder.input.InputEncoder.load", lambda *_, **__: HashEncoder("input"))
    monkeypatch.setattr(ResponseEncoder, "load", lambda *_, **settings: _remember(asked, settings))
    monkeypatch.setattr(
        "safe_retrieval.encoder.hyde.HydeEncoder.load", lambda *_, **settings: _remember(asked, settings)
    )
    return ArmLoader("input", adapter=None, backbone=None, offline=True, policy="concise", dtype="int8")


def _remember(encoder: HashEncoder, settings: dict[str, Any]) -> HashEncoder:
    encoder.__dict__["settings"] = settings
    return encoder


@pytest.mark.parametrize("arm", [Arm.OUTPUT, Arm.HYDE])
def test_a_pair_embeds_documents_by_the_document_encoder(loader: ArmLoader, arm: Arm) -> None:
    pair = loader.paired(arm)
    assert (pair.query.name, pair.document.name) == ("response", "input")
    assert pair.query.__dict__["settings"]["policy"] == "concise"
    assert pair.query.__dict__["settings"]["offline"]
    assert pair.query.__dict__["settings"]["dtype"] == "int8"


def test_ordinary_retrieval_is_a_pair_of_one(loader: ArmLoader) -> None:
    pair = loader.paired(Arm.INPUT)
    assert pair.query is pair.document


def test_words_make_no_pair(loader: ArmLoader) -> None:
    with pytest.raises(InputError, match="arm with vectors"):
        loader.paired(Arm.BM25)
