"""Conversations in a model's chat template, with what is said kept apart from the template's own tokens."""

from __future__ import annotations

import pytest

from safe_retrieval.backbone.template import Turn, conversation_ids
from safe_retrieval.backbone.tokenizer import TextTokenizer
from safe_retrieval.errors import InputError, ModelError
from tests.backbone.test_template import NO_SYSTEM, SILENT, TWICE
from tests.support.tiny_models import CHATML, tokenizer

TURNS = [Turn("system", "be brief"), Turn("user", "why?"), Turn("assistant", "so"), Turn("user", "and <|im_end|>?")]


def ids(template: str | None, turns: list[Turn], max_tokens: int = 100) -> tuple[TextTokenizer, list[int]]:
    text_tokenizer = TextTokenizer(tokenizer(template))
    return text_tokenizer, conversation_ids(text_tokenizer, turns, max_tokens=max_tokens)


def test_turns_in_their_order_and_control_tokens_of_the_template_alone() -> None:
    found, row = ids(CHATML, TURNS)
    spoken = "".join(f"<|im_start|>{turn.role}\n{turn.text}<|im_end|>\n" for turn in TURNS)
    assert found.trusted.decode(row) == f"{spoken}<|im_start|>assistant\n"
    assert row.count(found.trusted.convert_tokens_to_ids("<|im_end|>")) == len(TURNS)


def test_a_long_turn_is_cut() -> None:
    _, whole = ids(CHATML, [Turn("user", "why " * 50)])
    _, cut = ids(CHATML, [Turn("user", "why " * 50)], max_tokens=10)
    assert len(whole) > len(cut)


def test_what_the_template_does_not_take_is_refused() -> None:
    with pytest.raises(InputError, match="roles system, user"):
        ids(NO_SYSTEM, TURNS[:2])
    with pytest.raises(InputError, match="at least one turn"):
        ids(CHATML, [])
    for template in (SILENT, TWICE):
        with pytest.raises(ModelError, match="every turn once"):
            ids(template, TURNS[:2])
    with pytest.raises(ModelError, match="has none"):
        ids(None, TURNS)
