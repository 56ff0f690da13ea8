"""The trained part of a response encoder: special tokens, heads, and the refusal head.

Source: LLM2Vec-Gen (arXiv 2603.10913). Trained tokens follow the prompt; the last-layer states h of the compression
tokens go through a reconstruction head, p = W_rec h, and an alignment head, e = mean over tokens of align(p). p also
stands for the response as a soft prompt, from which the frozen model can write it back.

The response to a query is an answer or a refusal, and no line through both is a good fit of either. Where a shape is a
mixture, the alignment head is that of answers alone, and the embedding is the expectation over both cases: the
answer's, weighted by the probability of an answer, plus that of the mean refusal, weighted by that of a refusal.

Two scalars condition the linear maps without changing what they can express: states are divided by ``state_scale``
(their root mean square), and soft prompts are p times ``embedding_scale`` (the root mean square of the vocabulary's
embeddings), so that p has entries of order one and an untrained p already looks like an input to the backbone.
"""

from __future__ import annotations

import operator
from enum import StrEnum
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from safe_retrieval.errors import InputError


class HeadShape(StrEnum):
    """Shape of the alignment head."""

    LINEAR = "linear"
    """One linear layer with bias, as in the paper."""
    MLP = "mlp"
    """The linear layer plus a hidden layer with a learned offset a token: order of the tokens can matter."""
    RIDGE = "ridge"
    """One linear layer over all that is read, side by side, fitted in closed form once the tokens are trained."""


class AdapterShape(BaseModel):
    """Everything that fixes the tensors of an adapter.

    Attributes:
        hidden_size: width H of the backbone.
        dimension: length D of the teacher's vectors.
        thought_tokens: trained tokens whose states are not read (10 in the paper's v1, none in v2).
        compression_tokens: trained tokens K whose states are read.
        head: shape of the alignment head.
        head_width: width of the hidden layer of an MLP head.
        read_prompt: also read the state at the end of the prompt, where the model is about to answer; it costs
            nothing, since the prompt is run anyway.
        values: numbers V that the alignment head reads as well, 0 for none: the query's attention values, averaged over
            its own positions, of every layer side by side. Low layers tell which words stand there, which a handful of
            states forget; the values are there once the prompt has been run. Of a ridge head.
        read_first_token: also read how the answer is expected to begin: the mean embedding of its first token. What is
            likely is a softmax away from the states, so no linear head finds it there; the logits are there once the
            refusal head has looked at them. Of a ridge head.
        mixture: whether the embedding is the expectation over an answer and a refusal. Of a ridge head.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden_size: int = Field(gt=0)
    dimension: int = Field(gt=0)
    thought_tokens: int = Field(default=0, ge=0)
    compression_tokens: int = Field(default=8, ge=1)
    head: HeadShape = HeadShape.MLP
    head_width: int = Field(default=512, gt=0)
    read_prompt: bool = True
    # What came later is left out at its default, so that an older record is written as it was.
    values: int = Field(default=0, ge=0, exclude_if=operator.not_)
    read_first_token: bool = Field(default=False, exclude_if=operator.not_)
    mixture: bool = Field(default=False, exclude_if=operator.not_)

    @model_validator(mode="after")
    def _only_what_is_solved_for(self) -> AdapterShape:
        if self.head is not HeadShape.RIDGE and (self.reads_beside or self.mixture):
            raise ValueError("expected the head ridge where more than states is read or refusals are mixed in")
        return self

    @property
    def tokens(self) -> int:
        """Trained tokens T in all."""
        return self.thought_tokens + self.compression_tokens

    @property
    def states(self) -> int:
        """States R that the heads read for one query."""
        return self.compression_tokens + int(self.read_prompt)

    @property
    def reads_beside(self) -> bool:
        """Whether the alignment head reads more than states."""
        return self.values > 0 or self.read_first_token


class Beside(NamedTuple):
    """What an alignment head may read of B queries beside their states; ``None`` where its shape does not.

    Attributes:
        values: (B, V) float32, attention values of the query.
        first_token: (B, H) float32, mean embedding of the answer's first token, with entries of order one.
    """

    values: Tensor | None = None
    first_token: Tensor | None = None


class ResponseAdapter(nn.Module):
    """Special tokens and heads; float32, a few million parameters.

    Args:
        shape: sizes.
        state_scale: root mean square of the backbone's last-layer states.
        embedding_scale: root mean square of the backbone's input embeddings.
    """

    state_scale: Tensor
    embedding_scale: Tensor
    refusal: Tensor

    def __init__(self, shape: AdapterShape, *, state_scale: float = 1.0, embedding_scale: float = 1.0) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("state_scale", torch.tensor(float(state_scale)))
        self.register_buffer("embedding_scale", torch.tensor(float(embedding_scale)))
        size, dimension = shape.hidden_size, shape.dimension
        self.tokens = nn.Parameter(torch.randn(shape.tokens, size) * embedding_scale)  # (T, H)
        self.reconstruction = nn.Linear(size, size)
        nn.init.eye_(self.reconstruction.weight)  # p starts as the state itself
        nn.init.zeros_(self.reconstruction.bias)
        if shape.head is HeadShape.RIDGE:
            self.joined = nn.Linear(shape.states * size, dimension)
            if shape.values:
                self.worded = nn.Linear(shape.values, dimension, bias=False)
            if shape.read_first_token:
                self.begun = nn.Linear(size, dimension, bias=False)
            for linear in self.beside().values():
                nn.init.zeros_(linear.weight)  # until it is solved for
            if shape.mixture:
                self.register_buffer("refusal", torch.zeros(dimension))
            return
        self.alignment = nn.Linear(size, dimension)
        if shape.head is HeadShape.MLP:
            self.offsets = nn.Parameter(torch.zeros(shape.states, shape.head_width))
            self.hidden = nn.Linear(size, shape.head_width)
            self.out = nn.Linear(shape.head_width, dimension, bias=False)

    def project(self, states: Tensor) -> Tensor:
        """p = W_rec h: (B, R, H) states to (B, R, H), entries of order one."""
        return self.reconstruction(states.float() / self.state_scale)  # type: ignore[no-any-return]

    def beside(self) -> dict[str, nn.Linear]:
        """The linear maps of what is read beside the states, by the names in :class:`Beside`, in its order."""
        maps = {"values": getattr(self, "worded", None), "first_token": getattr(self, "begun", None)}
        return {name: linear for name, linear in maps.items() if linear is not None}

    def align(self, projected: Tensor, beside: Beside | None = None) -> Tensor:
        """e: (B, R, H), and what is read beside them, to (B, D), not normalised.

        Without the latter a head that reads it gives what the states alone say, as while the tokens are trained.
        """
        if self.shape.head is HeadShape.RIDGE:
            total: Tensor = self.joined(projected.flatten(1))
            for name, linear in self.beside().items() if beside is not None else ():
                total = total + linear(getattr(beside, name))
            return total
        vectors = self.alignment(projected.mean(1))
        if self.shape.head is HeadShape.MLP:
            hidden = torch.nn.functional.gelu(self.hidden(projected) + self.offsets)
            vectors = vectors + self.out(hidden.mean(1))
        return vectors  # type: ignore[no-any-return]

    def expect(self, vectors: Tensor, refusal: Tensor) -> Tensor:
        """(B, D) of answers and (B,) refusal probabilities to the expectation over both cases, (B, D).

        The vectors themselves where the shape is no mixture.
        """
        if not self.shape.mixture:
            return vectors
        refused = refusal[:, None].to(vectors.dtype)
        return (1 - refused) * vectors + refused * self.refusal

    def read_beside(self, values: Tensor | None, first_token: Tensor | None) -> Beside:
        """(B, V) attention values and (B, H) embeddings of the first token as the head reads them, where it does."""
        return Beside(values, None if first_token is None else first_token / self.embedding_scale)

    def soft_prompt(self, projected: Tensor) -> Tensor:
        """(B, R, H) projected states to input embeddings of the backbone, (B, R, H)."""
        return projected * self.embedding_scale


class RefusalFeatures(NamedTuple):
    """What the refusal head may look at for B queries, both read at the end of the prompt.

    Attributes:
        first_token: (B,) log-odds of the answer starting with one of the refusal tokens.
        state: (B, H) last-layer state, float32.
    """

    first_token: Tensor
    state: Tensor


class RefusalHead(nn.Module):
    """Calibrated probability that the backbone, or the judge that taught the head, would refuse.

    It is read from the backbone's state at the end of the prompt.

    p = sigmoid(scale * first_token + weight . (state - mean) / deviation + bias). With ``weight`` zero it is the
    training-free verdict of the first answer token, calibrated by Platt's two numbers; otherwise a logistic regression
    on the verdicts of the backbone's own responses, or a ridge regression on a judge's log-odds.
    """

    scale: Tensor
    bias: Tensor
    weight: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, hidden_size: int, first_tokens: tuple[int, ...]) -> None:
        super().__init__()
        if not first_tokens:
            raise InputError("expected at least one token id that starts a refusal, got none")
        self.first_tokens = first_tokens
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("bias", torch.tensor(0.0))
        self.register_buffer("weight", torch.zeros(hidden_size))
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("deviation", torch.ones(hidden_size))

    def features(self, state: Tensor, logits: Tensor) -> RefusalFeatures:
        """Features of B prompts from their last states (B, H) and next-token logits (B, V)."""
        log_probabilities = logits.float().log_softmax(-1)
        log_p = log_probabilities[:, list(self.first_tokens)].logsumexp(-1)
        # log(p) - log(1 - p), with 1 - p kept away from zero where float32 can no longer tell it from it
        log_not_p = torch.log1p(-log_p.exp().clamp(max=1 - 1e-6))
        return RefusalFeatures(log_p - log_not_p, state.float())

    def forward(self, features: RefusalFeatures) -> Tensor:
        """(B,) probabilities."""
        linear = ((features.state - self.mean) / self.deviation) @ self.weight
        return torch.sigmoid(self.scale * features.first_token + linear + self.bias)
