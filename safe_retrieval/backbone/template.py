"""The chat template, cut in two around the query.

What stands before the query (system prompt, role headers) is the same for every query, so its keys and values are
computed once. The cut is found by rendering the model's own template around a marker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from safe_retrieval.errors import InputError, ModelError

if TYPE_CHECKING:
    from safe_retrieval.backbone.tokenizer import TextTokenizer

_MARKER = "\u2983QUERY\u2984"

# Some templates (Llama 3.2, SmolLM3) write today's date into the system turn. An adapter's states would then change
# from day to day, so the date stands still: as a variable where the template asks for one, and as a macro that hides
# the function of that name.
_DAY = "26 Jul 2024"
_STILL = f"{{% macro strftime_now(style) %}}{_DAY}{{% endmacro %}}"


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """Token ids before and after the query.

    Attributes:
        before: ids shared by every query; never empty, so that there is a prefix to keep.
        after: ids between the query and the first token of the response.
        text: both parts as text, the marker between them; for people and for the hash.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    text: str

    @property
    def sha256(self) -> str:
        """Hash of the rendered template text; saved with an adapter, since a query's states depend on it."""
        return "sha256:" + hashlib.sha256(self.text.encode()).hexdigest()


def render(tokenizer: TextTokenizer, system_prompt: str, *, chat: bool = True) -> PromptTemplate:
    """The model's chat template around a query, under a system prompt.

    A model whose template knows no system role gets the system prompt at the head of the user's turn; a model without
    a chat template, and any model if ``chat`` is false, gets plain paragraphs.

    Raises:
        ModelError: the template changes or repeats the query, so it cannot be cut in two; or it leaves out the system
            prompt, and with it the policy.
    """
    text = _chat_text(tokenizer, system_prompt) if chat else _plain_text(tokenizer, system_prompt)
    if text.count(_MARKER) != 1:
        raise ModelError("expected the chat template to contain the query once; this backbone's template does not")
    if system_prompt.strip() not in text:
        raise ModelError("expected the chat template to contain the system prompt; this backbone's leaves it out")
    before, _, after = text.partition(_MARKER)
    before_ids = tokenizer.encode_trusted(before)
    if not before_ids:
        raise ModelError("expected the chat template to put something before the query; give a system prompt")
    return PromptTemplate(tuple(before_ids), tuple(tokenizer.encode_trusted(after)), text)


class Turn(NamedTuple):
    """One message of a conversation; its text is never parsed for control tokens."""

    role: Literal["system", "user", "assistant"]
    text: str


def conversation_ids(tokenizer: TextTokenizer, turns: Sequence[Turn], *, max_tokens: int) -> list[int]:
    """Token ids of a conversation in the model's own chat template, up to where its next answer begins.

    Args:
        tokenizer: the model's.
        turns: at least one.
        max_tokens: how much of each turn is read.

    Raises:
        InputError: there are no turns, or the template does not take roles in this order.
        ModelError: the model has no chat template, or it changes, repeats or leaves out what is said.
    """
    from jinja2.exceptions import TemplateError

    if not turns:
        raise InputError("expected at least one turn of a conversation, got none")
    if tokenizer.trusted.chat_template is None:
        raise ModelError("expected a model with a chat template, this one has none; take an instruction-tuned model")
    # The turns' own texts stay out of the template, whose language and control tokens they might speak.
    marks = [f"\u2983TURN {number}\u2984" for number in range(len(turns))]
    try:
        text = _apply(
            tokenizer, [{"role": turn.role, "content": mark} for turn, mark in zip(turns, marks, strict=True)]
        )
    except TemplateError as error:
        roles = ", ".join(turn.role for turn in turns)
        raise InputError(f"the model's chat template does not take the roles {roles}: {error}") from error
    said = tokenizer.encode_text([turn.text for turn in turns], max_tokens=max_tokens)
    ids: list[int] = []
    for mark, row in zip(marks, said, strict=True):
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise ModelError("expected the chat template to contain every turn once; this backbone's does not")
        ids += [*tokenizer.encode_trusted(before), *row]
    return [*ids, *tokenizer.encode_trusted(text)]


def _plain_text(tokenizer: TextTokenizer, system_prompt: str) -> str:
    return f"{tokenizer.trusted.bos_token or ''}{system_prompt}\n\n{_MARKER}\n\n"


def _chat_text(tokenizer: TextTokenizer, system_prompt: str) -> str:
    from jinja2.exceptions import TemplateError

    if tokenizer.trusted.chat_template is None:
        return _plain_text(tokenizer, system_prompt)
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    try:
        text = _apply(tokenizer, [*system, {"role": "user", "content": _MARKER}])
    except TemplateError:  # a template that refuses the role, such as Gemma's
        text = ""
    if text and system_prompt.strip() in text:  # others leave the role out without a word
        return text
    return _apply(tokenizer, [{"role": "user", "content": f"{system_prompt}\n\n{_MARKER}".strip()}])


def _apply(tokenizer: TextTokenizer, messages: list[dict[str, str]]) -> str:
    # enable_thinking=False: Qwen3's template would otherwise open a reasoning block before the answer; templates that
    # do not know the variable ignore it.
    own = tokenizer.trusted.chat_template
    if isinstance(own, dict):  # of several, by name, transformers takes this one where no tools are given
        if "default" not in own:
            raise ModelError(
                f"expected one chat template, or one that is called default, got {', '.join(sorted(own))}; use another "
                "backbone"
            )
        own = own["default"]
    rendered = tokenizer.trusted.apply_chat_template(
        messages,
        chat_template=_STILL + own if "strftime_now" in own else own,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
        date_string=_DAY,
    )
    return str(rendered)
