from __future__ import annotations

import hashlib

import pytest

from safe_retrieval.encoder.policy import CAREFUL, CONCISE, POLICIES, ResponsePolicy, policy_from
from safe_retrieval.errors import InputError


def test_the_hash_is_that_of_the_text_alone() -> None:
    expected = "sha256:" + hashlib.sha256(CAREFUL.system_prompt.encode()).hexdigest()
    assert CAREFUL.sha256 == ResponsePolicy("another name", CAREFUL.system_prompt).sha256 == expected
    # Adapters and reports store it: this text may not change without a new name.
    assert CAREFUL.sha256 == "sha256:37d8a41cac9acf67471ca99b317e58d622cdb62dc79510f0a3f1559b73d1f234"
    assert CONCISE.sha256 != CAREFUL.sha256


def test_by_name_by_text_and_as_it_is() -> None:
    assert policy_from("careful") is CAREFUL
    assert policy_from(CONCISE) is CONCISE
    assert policy_from(CONCISE.system_prompt) is CONCISE
    own = policy_from("Answer in French.")
    assert (own.name, own.system_prompt) == ("custom", "Answer in French.")
    assert set(POLICIES) == {"careful", "concise", "brief"}


@pytest.mark.parametrize("choice", ["carefull", " careful2 ", "\n"])
def test_a_misspelt_name_is_no_system_prompt(choice: str) -> None:
    with pytest.raises(InputError, match="careful, concise"):
        policy_from(choice)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_system_prompt_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="empty"):
        ResponsePolicy("empty", text)
