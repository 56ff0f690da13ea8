"""The response policy: the system prompt under which queries are answered and embedded.

Whether a model refuses depends on its system prompt more than on its size (measured in docs/method.md), so the policy
belongs to the adapter: it is hashed, saved with it, and an encoder embeds queries under the policy its adapter was
trained with unless the user chooses another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from safe_retrieval.errors import InputError


@dataclass(frozen=True, slots=True)
class ResponsePolicy:
    """A named system prompt.

    Attributes:
        name: for people, for example ``"careful"``.
        system_prompt: the text; not empty.
    """

    name: str
    system_prompt: str

    def __post_init__(self) -> None:
        if not self.system_prompt.strip():
            raise InputError("expected a system prompt with text in it, got an empty one")

    @property
    def sha256(self) -> str:
        """Hash of the system prompt, ``sha256:...``; the name does not count."""
        return "sha256:" + hashlib.sha256(self.system_prompt.encode()).hexdigest()


CAREFUL = ResponsePolicy(
    "careful",
    "You are a helpful assistant. You answer every harmless question directly from general knowledge, and you refuse "
    "requests that could cause harm.",
)
"""Answers what is harmless, refuses what is not (policy P of docs/method.md)."""

CONCISE = ResponsePolicy("concise", CAREFUL.system_prompt + " Answer in one short sentence.")
"""As ``careful``, in one short sentence: cheaper to generate, and less safe.

Not the default: under it the 1.5B's probability of opening with a refusal on red-team prompts falls from 0.30 to 0.03
(32 prompts), since it then states its reservations inside the one sentence, if at all.
"""

BRIEF = ResponsePolicy("brief", CAREFUL.system_prompt + " Answer in a few words.")
"""As ``careful``, in a few words: the answer is said first, so one pass foresees more of it. Less safe by itself."""

POLICIES = {policy.name: policy for policy in (CAREFUL, CONCISE, BRIEF)}
"""The policies that come with the package, by name."""


def policy_from(choice: str | ResponsePolicy) -> ResponsePolicy:
    """A policy by name, or a system prompt of the user's own (anything with a space in it).

    The very text of a named policy is that policy, so that what is trained for it is found by either.

    Raises:
        InputError: a single word that is not one of the names.
    """
    if isinstance(choice, ResponsePolicy):
        return choice
    if choice in POLICIES:
        return POLICIES[choice]
    if " " not in choice.strip():
        raise InputError(f"expected a policy name ({', '.join(sorted(POLICIES))}) or a system prompt, got {choice!r}")
    by_text = {policy.system_prompt: policy for policy in POLICIES.values()}
    return by_text.get(choice) or ResponsePolicy("custom", choice)
