"""A language model of the catalog as LangChain's chat model: local, greedy unless told otherwise, no service."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import ConfigDict, Field, PrivateAttr

from langchain_safe_retrieval.embeddings import SafeRetrievalEmbeddings
from safe_retrieval.backbone.template import Turn, conversation_ids
from safe_retrieval.errors import InputError
from safe_retrieval.models.catalog import DEFAULT_BACKBONE

if TYPE_CHECKING:
    from safe_retrieval.backbone.language_model import LanguageModel

_ROLES = {"system": "system", "human": "user", "ai": "assistant"}


class _OneAtATime:
    """A lock that can be pickled: what comes back is a lock of its own. All are equal."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[type[_OneAtATime], tuple[()]]:
        return type(self), ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _OneAtATime)

    def __hash__(self) -> int:
        return hash(_OneAtATime)


class LocalChatModel(BaseChatModel):
    """Answers with a causal language model on this machine; it is loaded on first use.

    What messages say is never parsed for control tokens, so a retrieved passage cannot end the user's turn or play the
    system. One answer is written at a time. Copies share the model; by pickle go the settings alone.

    Raises:
        ValueError: a setting is not what it should be (pydantic's ``ValidationError``).
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    backbone: str = Field(default=DEFAULT_BACKBONE, description="Name, hub id or folder of the language model.")
    max_new_tokens: int = Field(default=128, ge=1, description="Bound on an answer.")
    max_message_tokens: int = Field(default=4096, ge=1, description="How much of each message is read.")
    temperature: float = Field(default=0.0, ge=0, description="0 always takes the likeliest token.")
    offline: bool = Field(default=False, description="Open no connection.")

    _one_answer: Any = PrivateAttr(default_factory=_OneAtATime)

    @classmethod
    def sharing(cls, embeddings: SafeRetrievalEmbeddings, **settings: Any) -> Self:
        """A chat model on the backbone that embeddings have loaded: one copy of the weights for both.

        Args:
            embeddings: of an arm with a language model (output, blend, hyde).
            settings: the class's other fields.

        Raises:
            InputError: the arm has none.
            AdapterError, ModelError: the models cannot be had.
        """
        model: LanguageModel | None = getattr(embeddings.queries_by, "model", None)
        if model is None:
            raise InputError(f"arm {embeddings.arm.value} has no language model to share; take output, blend or hyde")
        chat = cls(backbone=embeddings.backbone or model.name, offline=embeddings.offline, **settings)
        chat.__dict__["language_model"] = model  # where cached_property looks
        return chat

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy on the same frozen weights, in the same queue for them."""
        shared = {id(part): part for part in (self.__dict__.get("language_model"), self._one_answer)}
        return super().__deepcopy__({**(memo or {}), **shared})

    def __getstate__(self) -> dict[Any, Any]:
        """The settings, without the model."""
        state = super().__getstate__()
        fields = {name: value for name, value in state["__dict__"].items() if name != "language_model"}
        return {**state, "__dict__": fields}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """LangChain may write the settings down."""
        return True

    @cached_property
    def language_model(self) -> LanguageModel:
        """The model, loaded now if it is not yet.

        Raises:
            ModelError: it cannot be had.
        """
        from safe_retrieval.backbone.language_model import LanguageModel

        return LanguageModel.load(self.backbone, offline=self.offline)

    @property
    def _llm_type(self) -> str:
        return "safe-retrieval-local"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "backbone": self.backbone,
            "max_new_tokens": self.max_new_tokens,
            "max_message_tokens": self.max_message_tokens,
            "temperature": self.temperature,
        }

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002  # nothing to report before the end
        **unknown: Any,
    ) -> ChatResult:
        if unknown:  # a bound that is not kept must not pass for one that is
            raise InputError(
                f"unknown arguments: {', '.join(sorted(unknown))}; max_new_tokens and temperature are fields of the "
                "model, and a call takes stop"
            )
        with self._one_answer.lock:
            model = self.language_model
            asked = conversation_ids(
                model.tokenizer, [_turn(message) for message in messages], max_tokens=self.max_message_tokens
            )
            written = self._written(model, asked)
        text = _cut(model.tokenizer.decode(written).strip(), stop or [])
        usage: Any = {
            "input_tokens": len(asked),
            "output_tokens": len(written),
            "total_tokens": len(asked) + len(written),
        }
        message = AIMessage(text, usage_metadata=usage, response_metadata={"model_name": model.name})
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _written(self, model: LanguageModel, asked: Sequence[int]) -> list[int]:
        import torch
        from transformers import GenerationConfig

        ids = torch.tensor([asked], device=model.device)
        sampling = {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        config = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            eos_token_id=list(model.end_ids),
            pad_token_id=model.tokenizer.pad_id,
            **sampling,
        )
        with torch.inference_mode():
            out = model.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        written: list[int] = out[0, len(asked) :].tolist()
        return written


def _turn(message: BaseMessage) -> Turn:
    role = _ROLES.get(message.type)
    if role is None:
        raise InputError(f"expected system, human and AI messages, got one of type {message.type!r}")
    return Turn(role, message.text)  # type: ignore[arg-type]  # the values above are the three roles


def _cut(text: str, stop: Sequence[str]) -> str:
    ends = [found for mark in stop if (found := text.find(mark)) >= 0]
    return text[: min(ends, default=len(text))]
