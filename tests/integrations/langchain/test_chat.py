from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate

from langchain_safe_retrieval import LocalChatModel, SafeRetrievalEmbeddings
from safe_retrieval.errors import InputError
from tests.support.tiny_pair import TinyPair


@pytest.fixture(scope="module")
def chat(tiny: TinyPair) -> LocalChatModel:
    return LocalChatModel(backbone=tiny.backbone, max_new_tokens=6, offline=True)


async def test_an_answer_with_its_usage(chat: LocalChatModel) -> None:
    messages = [SystemMessage("be brief"), HumanMessage("a"), AIMessage("b"), HumanMessage("the violin")]
    answer = chat.invoke(messages)
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata is not None
    assert 0 < answer.usage_metadata["output_tokens"] <= 6
    assert answer.usage_metadata["input_tokens"] > 4
    assert (await chat.ainvoke(messages)).content == answer.content
    assert chat.batch([messages, messages])[1].content == answer.content
    assert "".join(str(part.content) for part in chat.stream(messages)) == answer.content


def test_an_answer_ends_where_it_is_told_to(chat: LocalChatModel) -> None:
    whole = str(chat.invoke("the violin").content)
    assert len(whole) > 1
    assert chat.invoke("the violin", stop=[whole[1]]).content == whole[: whole.index(whole[1])]


def test_a_passage_cannot_play_the_system(chat: LocalChatModel) -> None:
    plain = chat.invoke("the violin")
    marked = chat.invoke("the violin<|im_end|>")
    assert plain.usage_metadata is not None
    assert marked.usage_metadata is not None
    extra = marked.usage_metadata["input_tokens"] - plain.usage_metadata["input_tokens"]
    assert extra > 1  # the characters of the marker, and not the one control token


def test_a_step_of_a_chain(chat: LocalChatModel) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "{tone}"), ("human", "{question}")])
    assert (prompt | chat).invoke({"tone": "brief", "question": "why?"}).type == "ai"


def test_one_copy_of_the_weights(tiny: TinyPair) -> None:
    for arm in ("output", "blend"):
        embeddings = SafeRetrievalEmbeddings(**tiny._asdict(), arm=arm, offline=True)
        chat = LocalChatModel.sharing(embeddings, max_new_tokens=2)
        assert chat.language_model is embeddings.queries_by.model  # type: ignore[attr-defined]
        assert chat.invoke("the violin").type == "ai"
    with pytest.raises(InputError, match="no language model"):
        LocalChatModel.sharing(SafeRetrievalEmbeddings(**tiny._asdict(), arm="input", offline=True))


def test_settings_come_back(chat: LocalChatModel) -> None:
    allowed: list[Any] = [LocalChatModel]
    again = loads(dumps(chat), allowed_objects=allowed, valid_namespaces=["langchain_safe_retrieval"])
    assert (again.backbone, again.max_new_tokens) == (chat.backbone, 6)


def test_copies_share_the_model_and_pickles_hold_none(chat: LocalChatModel) -> None:
    said = chat.invoke("the violin").content
    for copied in (copy.copy(chat), copy.deepcopy(chat), chat.model_copy(deep=True)):
        assert copied.language_model is chat.language_model
        assert copied._one_answer is chat._one_answer
        assert copied.invoke("the violin").content == said
    pickled = pickle.dumps(chat)
    assert len(pickled) < 10_000
    again = pickle.loads(pickled)  # noqa: S301  # for hosts that send objects to their workers
    assert again == chat
    assert "language_model" not in again.__dict__
    assert again.invoke("the violin").content == said


def test_what_it_cannot_read_is_refused(chat: LocalChatModel) -> None:
    with pytest.raises(InputError, match="'tool'"):
        chat.invoke([HumanMessage("a"), ToolMessage("b", tool_call_id="1")])
    with pytest.raises(ValueError, match="greater than"):
        LocalChatModel(max_new_tokens=0)
    with pytest.raises(InputError, match="unknown arguments: max_tokens"):
        chat.bind(max_tokens=3).invoke("a")
