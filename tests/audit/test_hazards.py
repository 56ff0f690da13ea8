from __future__ import annotations

import pytest

from safe_retrieval.audit.hazards import Hazard, shown


def test_twelve_categories_and_an_honest_label_for_the_rest() -> None:
    assert len(Hazard.mapped()) == 12
    assert Hazard.UNMAPPED not in Hazard.mapped()


@pytest.mark.parametrize("hazard", list(Hazard))
def test_every_category_has_code_label_and_description(hazard: Hazard) -> None:
    assert len(hazard.code) == 3
    assert hazard.label[0].isupper()
    assert hazard.description.endswith(".")
    assert Hazard(hazard.value) is hazard


def test_codes_and_labels_are_distinct() -> None:
    assert len({hazard.code for hazard in Hazard}) == len(Hazard)
    assert len({hazard.label for hazard in Hazard}) == len(Hazard)


def test_a_wrong_label_is_quoted_and_a_passage_in_its_place_is_not() -> None:
    assert shown("rude") == "'rude'"
    assert shown("how a passage would begin") == "a longer str"
    assert shown({"text": "x" * 80}) == "a longer dict"
