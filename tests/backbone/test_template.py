"""The template logic on tokenizers with the templates that models come with."""

from __future__ import annotations

import pytest

from safe_retrieval.backbone.template import render
from safe_retrieval.backbone.tokenizer import TextTokenizer
from safe_retrieval.errors import ModelError
from tests.support.tiny_models import CHATML, tokenizer

POLICY = "You answer every harmless question directly."

NO_SYSTEM = (  # Gemma's way: the role is refused
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n"
    "{% endfor %}<|im_start|>model\n"
)
SILENT = (  # the role is left out without a word
    "{% for message in messages %}{% if message['role'] == 'user' %}<|im_start|>user\n{{ message['content'] }}"
    "<|im_end|>\n{% endif %}{% endfor %}<|im_start|>assistant\n"
)
THINKING = CHATML + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
DATED = "Today: {{ strftime_now('%d %B %Y') }} {{ date_string }}\n" + CHATML
TWICE = "{% for message in messages %}{{ message['content'] }}{{ message['content'] }}{% endfor %}"
CHANGED = "{% for message in messages %}{{ message['content'] | reverse }}{% endfor %}"
NO_POLICY = "{{ messages[-1]['content'].split('\n')[-1] }}"


def rendered(template: str | None, policy: str = POLICY) -> tuple[str, str, str]:
    """Before, after and the whole text, decoded with control tokens."""
    text_tokenizer = TextTokenizer(tokenizer(template))
    found = render(text_tokenizer, policy)
    before, after = (text_tokenizer.trusted.decode(list(part)) for part in (found.before, found.after))
    return before, after, found.text


def test_chatml() -> None:
    before, after, text = rendered(CHATML)
    assert before == f"<|im_start|>system\n{POLICY}<|im_end|>\n<|im_start|>user\n"
    assert after == "<|im_end|>\n<|im_start|>assistant\n"
    assert text.startswith(before)
    assert text.endswith(after)


def test_of_several_templates_the_default_one_is_taken() -> None:
    several = TextTokenizer(tokenizer(CHATML))
    several.trusted.chat_template = {"tool_use": NO_SYSTEM, "default": CHATML}
    assert render(several, POLICY).text == render(TextTokenizer(tokenizer(CHATML)), POLICY).text
    several.trusted.chat_template = {"tool_use": CHATML, "rag": CHATML}
    with pytest.raises(ModelError, match="one that is called default, got rag, tool_use"):
        render(several, POLICY)


@pytest.mark.parametrize("template", [NO_SYSTEM, SILENT], ids=["refused", "left out"])
def test_without_a_system_role_the_policy_heads_the_users_turn(template: str) -> None:
    before, after, _ = rendered(template)
    assert before == f"<|im_start|>user\n{POLICY}\n\n"
    assert after.startswith("<|im_end|>\n<|im_start|>")


def test_without_a_template_there_are_paragraphs() -> None:
    assert rendered(None)[:2] == (f"{POLICY}\n\n", "\n\n")


def test_paragraphs_in_place_of_a_template() -> None:
    text_tokenizer = TextTokenizer(tokenizer(CHATML))
    plain, chat = (render(text_tokenizer, POLICY, chat=chat) for chat in (False, True))
    assert text_tokenizer.trusted.decode(list(plain.before)) == f"{POLICY}\n\n"
    assert plain.sha256 != chat.sha256


def test_no_system_prompt_is_no_system_turn() -> None:
    assert rendered(CHATML, "")[0] == "<|im_start|>user\n"


def test_reasoning_is_switched_off() -> None:
    assert rendered(THINKING)[1].endswith("assistant\n<think>\n\n</think>\n\n")


def test_the_date_stands_still() -> None:
    assert "Today: 26 Jul 2024 26 Jul 2024\n" in rendered(DATED)[2]


@pytest.mark.parametrize(
    ("template", "message"),
    [(TWICE, "once"), (CHANGED, "once"), (NO_POLICY, "leaves it out"), ("{{ messages[-1]['content'] }}", "before")],
    ids=["twice", "changed", "no policy", "nothing before"],
)
def test_templates_that_cannot_be_cut_are_refused(template: str, message: str) -> None:
    policy = "" if message == "before" else POLICY
    with pytest.raises(ModelError, match=message):
        rendered(template, policy)


def test_the_hash_follows_the_text() -> None:
    text_tokenizer = TextTokenizer(tokenizer())
    assert render(text_tokenizer, POLICY).sha256 == render(text_tokenizer, POLICY).sha256
    assert render(text_tokenizer, POLICY).sha256 != render(text_tokenizer, POLICY + " ").sha256
    # Stored in adapters and responses files, so it must not change from release to release.
    expected = "sha256:df295b7df2caae57b35ceb69aa245e20916a2775ba7428a2a1cac449be52f43f"
    assert render(text_tokenizer, POLICY).sha256 == expected
