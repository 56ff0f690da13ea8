from __future__ import annotations

import pytest

from safe_retrieval.errors import InputError
from safe_retrieval.retrieval.fusion import reciprocal_rank_fusion
from safe_retrieval.types import Hit


def ranking(ids: str) -> list[Hit]:
    return [Hit(identifier, 1.0 / rank) for rank, identifier in enumerate(ids, start=1)]


def test_scores_by_hand() -> None:
    fused = reciprocal_rank_fusion([ranking("abc"), ranking("cad")])
    # a: 1/61 + 1/62, c: 1/63 + 1/61, b: 1/62, d: 1/63
    assert [hit.id for hit in fused] == ["a", "c", "b", "d"]
    assert [hit.score for hit in fused] == pytest.approx([1 / 61 + 1 / 62, 1 / 61 + 1 / 63, 1 / 62, 1 / 63], abs=1e-15)


def test_ties_go_to_the_best_rank_then_to_the_first_ranking() -> None:
    assert [hit.id for hit in reciprocal_rank_fusion([ranking("ab"), ranking("ba")])] == ["a", "b"]
    assert [hit.id for hit in reciprocal_rank_fusion([ranking("xyz"), ranking("yzx"), ranking("zxy")])] == list("xyz")
    assert [hit.id for hit in reciprocal_rank_fusion([ranking("b"), ranking("a")])] == ["b", "a"]


def test_cut_and_constant() -> None:
    fused = reciprocal_rank_fusion([ranking("abc")], k=2, rank_constant=1)
    assert fused == [Hit("a", 0.5), Hit("b", 1 / 3)]


def test_nothing_to_fuse() -> None:
    assert reciprocal_rank_fusion([]) == []
    assert reciprocal_rank_fusion([[], []]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be"),
        ({"rank_constant": 0}, "above 0"),
        ({"rankings": [ranking("aba")]}, "twice"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        reciprocal_rank_fusion(**{"rankings": [ranking("ab")], **arguments})  # type: ignore[arg-type]
