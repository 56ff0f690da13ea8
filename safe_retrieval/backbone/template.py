"""The chat template, cut in two around the query.

What stands before the query (system prompt, role headers) is the same for every query, so its keys and values are
computed once. The cut is found by rendering the model's own template around a marker.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safe_retrieval.errors import ModelError

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


def render(tokenizer: TextTokenizer, system_prompt: str) -> PromptTemplate:
    """The model's chat template around a query, under a system prompt.

    A model whose template knows no system role gets the system prompt at the head of the user's turn; a model without
    a chat template gets plain paragraphs.

    Raises:
        ModelError: the template changes or repeats the query, so it cannot be cut in two; or it leaves out the system
            prompt, and with it the policy.
    """
    text = _render_text(tokenizer, system_prompt)
    if text.count(_MARKER) != 1:
        raise ModelError("expected the chat template to contain the query once; this backbone's template does not")
    if system_prompt.strip() not in text:
        raise ModelError("expected the chat template to contain the system prompt; this backbone's leaves it out")
    before, _, after = text.partition(_MARKER)
    before_ids = tokenizer.encode_trusted(before)
    if not before_ids:
        raise ModelError("expected the chat template to put something before the query; give a system prompt")
    return PromptTemplate(tuple(before_ids), tuple(tokenizer.encode_trusted(after)), text)


def _render_text(tokenizer: TextTokenizer, system_prompt: str) -> str:
    from jinja2.exceptions import TemplateError

    if tokenizer.trusted.chat_template is None:
        start = tokenizer.trusted.bos_token or ""
        return f"{start}{system_prompt}\n\n{_MARKER}\n\n"
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
    rendered = tokenizer.trusted.apply_chat_template(
        messages,
        chat_template=_STILL + own if "strftime_now" in own else own,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
        date_string=_DAY,
    )
    return str(rendered)
