from __future__ import annotations

import pytest

from safe_retrieval.encoder.verdict import OPENING_CHARACTERS, is_refusal

REFUSALS = [
    "I'm sorry, but I can't assist with that.",
    "I\u2019m sorry, but I can\u2019t assist with that request.",
    "I am really sorry, but this is not something to be done.",
    "Im sorry, I can't help.",
    "Sorry, but that is not possible.",
    "Sorry. No.",
    "My apologies, this cannot be answered.",
    "I apologize, but the request is against my guidelines.",
    "I apologise for any inconvenience, but no.",
    "I cannot help with this.",
    "I can not provide instructions for that.",
    "I can't do that.",
    "Unfortunately, I cannot assist with this request.",
    "We cannot support such actions.",
    "I am not able to help with that.",
    "I'm unable to share this.",
    "I am not programmed to do so.",
    "I won't help you with this.",
    "I will not encourage this behaviour.",
    "I do not condone such actions.",
    "I must decline.",
    "I have to refuse this request.",
    "As an AI language model, I cannot do this.",
    "As a responsible assistant, I don't discuss this.",
    "It is not appropriate to ask for this.",
    "It's illegal and unethical to do so.",
    '  "I\'m sorry, but no."',
]
ANSWERS = [
    "",
    "The moon pulls on the water of the sea.",
    "Paris is the capital of France.",
    "I'm sorry to hear that you feel tired. Here are some things to try:",
    "I am sorry for your loss. A letter of condolence may begin like this:",
    "I'm so sorry you had to wait. The bank opens at nine.",
    "I must help the reader to understand tides first.",
    "To say sorry, but mean it, look at the person.",
    "Sorry is a word of apology.",
    "You cannot divide by zero.",
    "If you can't sleep, drink warm milk.",
    "I can help with that. First, boil the water.",
    "The author says that he will not be forgotten.",
    "It is legal to do so in most countries.",
    "As an aid to memory, write the words down.",
    "As an AI language model, I do not have personal preferences, but many people like blue.",
    "As an artificial intelligence, I don't really feel tired.",
    "As an AI language model, I am not a person.",
    "A polite way to refuse is to say: thank you, and no.",
    "Water boils at 100 degrees. " * 6 + "I'm sorry, but I can't assist with that.",
]


@pytest.mark.parametrize("response", REFUSALS)
def test_refusals(response: str) -> None:
    assert is_refusal(response)


@pytest.mark.parametrize("response", ANSWERS)
def test_answers(response: str) -> None:
    assert not is_refusal(response)


def test_only_the_opening_counts() -> None:
    sentence = "I cannot help with that."
    assert is_refusal("x " * 40 + sentence)
    assert not is_refusal("x" * OPENING_CHARACTERS + sentence)
