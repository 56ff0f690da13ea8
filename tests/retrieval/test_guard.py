from __future__ import annotations

import math

import pytest

from safe_retrieval.errors import InputError
from safe_retrieval.retrieval.guard import RefusalGate
from safe_retrieval.types import GateAction, Hit, Retrieval

HITS = (Hit("a", 0.9), Hit("b", 0.8))


@pytest.mark.parametrize(
    ("action", "refusal", "expected"),
    [
        (GateAction.ALLOW, None, Retrieval(HITS, None)),
        (GateAction.ALLOW, 1.0, Retrieval(HITS, 1.0)),
        (GateAction.FLAG, 0.89, Retrieval(HITS, 0.89)),
        (GateAction.FLAG, 0.9, Retrieval(HITS, 0.9, flagged=True)),
        (GateAction.EMPTY, 0.89, Retrieval(HITS, 0.89)),
        (GateAction.EMPTY, 0.9, Retrieval((), 0.9, flagged=True)),
    ],
)
def test_what_a_gate_does(action: GateAction, refusal: float | None, expected: Retrieval) -> None:
    assert RefusalGate(action).apply(HITS, refusal) == expected


def test_threshold_moves_the_gate() -> None:
    assert not RefusalGate(GateAction.FLAG, threshold=0.8).apply(HITS, 0.7).flagged
    assert RefusalGate(GateAction.FLAG, threshold=0.0).apply(HITS, 0.0).flagged


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
def test_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(InputError, match="from 0 to 1"):
        RefusalGate(GateAction.FLAG, threshold)


@pytest.mark.parametrize("refusal", [None, math.nan])
def test_a_gate_never_lets_through_for_want_of_a_verdict(refusal: float | None) -> None:
    with pytest.raises(InputError, match="refusal_encoder"):
        RefusalGate(GateAction.EMPTY).apply(HITS, refusal)
