"""A frozen causal language model: prefix pass, continuation pass, and the token distribution after a prompt.

Every query is asked as ``[shared prefix][padding][query][after]``. The shared prefix (chat template and system prompt)
is computed once per policy and reused. A *prefix pass* runs the query part and keeps keys and values; a *continuation
pass* runs more positions behind them. Padding stands between the shared prefix and the query, never at the end, so the
last column is the end of the prompt in every row and trained tokens always follow it directly.

Rows are independent: padding is masked and position ids count real tokens only, so a row's result depends on its batch
through rounding alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safe_retrieval.backbone import template
from safe_retrieval.backbone.attention import AttentionLayout
from safe_retrieval.backbone.eight_bit import (
    EightBitLinear,
    can_multiply_exactly,
    quantise_linear_layers,
    quantise_output_layer,
)
from safe_retrieval.backbone.key_values import KeyValues
from safe_retrieval.backbone.memory import release_unused
from safe_retrieval.backbone.packed_linear import pack_linear_layers
from safe_retrieval.backbone.template import PromptTemplate
from safe_retrieval.backbone.tokenizer import TextTokenizer
from safe_retrieval.errors import InputError, ModelError

MAX_QUERY_TOKENS = 512
"""What is read of a query, from its beginning; the rest is cut off."""

EIGHT_BIT = "int8"
"""The dtype to load with for linear layers in 8-bit integers; see :mod:`safe_retrieval.backbone.eight_bit`."""

_CELLS = 4096
_CELLS_ON_CPU = 512
_LIKELY = 64  # next tokens that an expectation is over


class Prefix(NamedTuple):
    """What a prefix pass leaves behind for B prompts.

    Attributes:
        key_values: keys and values of all columns, shared prefix included.
        mask: (B, n) bool, False where a column is padding.
        lengths: (B,) int64, real positions in each row.
        state: (B, H) last-layer state (after the final norm) at the end of the prompt.
    """

    key_values: KeyValues
    mask: Tensor
    lengths: Tensor
    state: Tensor

    def select(self, rows: Tensor) -> Prefix:
        """The given rows, copied."""
        return Prefix(self.key_values.select(rows), self.mask[rows], self.lengths[rows], self.state[rows])


class JointStates(NamedTuple):
    """What one pass over B prompts and T positions behind each of them gives.

    Attributes:
        prompt: (B, H) last-layer states, after the final norm, at the end of the prompt.
        tail: (B, T, H) those of the positions behind it.
        values: (B, V) float32, as :meth:`LanguageModel.query_values` gives them; ``None`` if they were not asked for.
    """

    prompt: Tensor
    tail: Tensor
    values: Tensor | None


@dataclass(frozen=True)
class SharedPrefix:
    """The template of one system prompt with the keys and values of its first part, (1, kv_heads, S, head_dim)."""

    template: PromptTemplate
    key_values: KeyValues

    @property
    def length(self) -> int:
        """Number of shared positions S."""
        return len(self.template.before)


class LanguageModel:
    """Tokenizer and frozen causal LM.

    Args:
        model: a ``transformers`` causal LM; it is put into evaluation mode and its weights are frozen.
        tokenizer: its tokenizer, wrapped.
        name: a name for people.
        fingerprint: hash of the weights, ``sha256:...``.
        chat: ask queries in the model's chat template; without it, in plain paragraphs.

    Raises:
        ModelError: it has layers without keys and values (recurrent ones), so a prefix of it cannot be kept.
    """

    def __init__(self, model: Any, tokenizer: TextTokenizer, *, name: str, fingerprint: str, chat: bool = True) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.fingerprint = fingerprint
        self.chat = chat
        self._decoder = self.model.get_decoder()
        self._layout = AttentionLayout.of(self._decoder.config)
        self._shared: dict[str, SharedPrefix] = {}

    @classmethod
    def load(
        cls,
        name: str,
        *,
        dtype: str | torch.dtype = "auto",
        device: str = "auto",
        offline: bool = False,
        packed: bool = True,
    ) -> LanguageModel:
        """Load by catalog name, hub id or folder.

        Args:
            name: for example ``qwen2.5-coder-0.5b-instruct``, ``Qwen/Qwen3-0.6B`` or a folder.
            dtype: ``"auto"`` is bfloat16 where the processor computes it natively, float32 elsewhere (see
                :func:`native_dtype`); ``"int8"`` (or ``torch.int8``) is float32 with linear layers in 8-bit integers,
                on a CPU that has such products (:mod:`~safe_retrieval.backbone.eight_bit`), and gives no gradients.
            device: ``"auto"`` is CUDA where there is one, else the CPU.
            offline: open no connection.
            packed: lay weights out for fast products where that is possible
                (:mod:`~safe_retrieval.backbone.packed_linear`); not for a model whose layers are to be changed.

        Raises:
            InputError: no such dtype.
            ModelError: as :func:`safe_retrieval.models.fetch.resolve` does, the folder holds no causal LM, or 8-bit
                products are asked for where there are none.
        """
        _check_dtype(dtype)
        from safe_retrieval.models.fetch import resolve
        from safe_retrieval.models.record import ModelKind

        found = resolve(name, offline=offline, kind=ModelKind.LANGUAGE_MODEL)
        named = {"name": found.name, "fingerprint": found.fingerprint}
        return cls.from_folder(found.path, **named, dtype=dtype, device=device, packed=packed)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        name: str,
        fingerprint: str,
        dtype: str | torch.dtype = "auto",
        device: str = "auto",
        packed: bool = True,
    ) -> LanguageModel:
        """Load a ``transformers`` folder with safetensors weights; never runs code from it."""
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM

        _check_dtype(dtype)
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        eight_bit = dtype in (EIGHT_BIT, torch.int8)
        if eight_bit:
            _require_eight_bit(place)
        number = torch.float32 if eight_bit else native_dtype(place) if dtype == "auto" else dtype
        release_unused()  # a model that was loaded before and dropped
        try:
            model, loading = AutoModelForCausalLM.from_pretrained(
                folder, dtype=number, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"expected a causal language model with safetensors weights in {folder}: {error}"
            ) from error
        if loading["missing_keys"]:  # transformers would fill them with random numbers and only warn
            missing = sorted(loading["missing_keys"])
            raise ModelError(f"the weights in {folder} lack {len(missing)} tensors of the model, {missing[0]} first")
        model = model.to(place).eval().requires_grad_(False)
        if eight_bit:
            if not quantise_linear_layers(model.get_decoder()):
                raise ModelError(f"{name} has no linear layers that 8-bit integers could stand for; use dtype auto")
            quantise_output_layer(model)
        elif packed:
            pack_linear_layers(model)
        release_unused()  # weights as they were before they were laid out
        return cls(model, TextTokenizer.load(folder), name=name, fingerprint=fingerprint)

    def in_template(self, *, chat: bool) -> LanguageModel:
        """The same weights, asked with or without the chat template."""
        if chat == self.chat:
            return self
        return LanguageModel(self.model, self.tokenizer, name=self.name, fingerprint=self.fingerprint, chat=chat)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are, and hidden states come back in."""
        found = self.model.dtype
        if not isinstance(found, torch.dtype):
            raise ModelError(f"expected the model to have one dtype, got {found!r}")
        return found

    @property
    def precision(self) -> str:
        """What products are computed in, as records name it: ``float32``, ``bfloat16``, ``int8``."""
        if any(isinstance(module, EightBitLinear) for module in self.model.modules()):
            return EIGHT_BIT
        return str(self.dtype).removeprefix("torch.")

    @property
    def hidden_size(self) -> int:
        """Width H of the hidden states."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self._decoder.config.num_hidden_layers)

    @property
    def batch_cells(self) -> int:
        """Cells of a padded batch that passes are at full speed with, where texts are there to be put in any order.

        A CPU is at full speed from some hundred rows. Queries of one length stand together in batches as small as that,
        and little is padding: 32 queries of the built-in probes take 0.73 times as long as in one batch.
        """
        return _CELLS_ON_CPU if self.device.type == "cpu" else _CELLS

    @property
    def embedding_scale(self) -> float:
        """Root mean square of the input embeddings, over a sample of the vocabulary."""
        rows = min(4096, self.model.get_input_embeddings().num_embeddings)
        return float(self.embed(torch.arange(rows, device=self.device)).float().square().mean().sqrt())

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end a response: the tokenizer's, and those that the model's generation settings name."""
        named = getattr(self.model.generation_config, "eos_token_id", None)
        own = [named] if isinstance(named, int) else (named or [])
        return tuple(dict.fromkeys((*self.tokenizer.end_ids, *own)))

    def shared_prefix(self, system_prompt: str) -> SharedPrefix:
        """Template and kept keys and values of a system prompt; computed on first use, then reused."""
        known = self._shared.get(system_prompt)
        if known is None or known.key_values.keys[0].device != self.device:  # the model may have been moved since
            rendered = template.render(self.tokenizer, system_prompt, chat=self.chat)
            ids = torch.tensor([rendered.before], device=self.device)
            # Never in inference mode, whoever asks first: training saves these tensors for its backward pass.
            with torch.inference_mode(mode=False), torch.no_grad():
                out = self.body(input_ids=ids, past_key_values=KeyValues.empty_cache(), use_cache=True)
            known = SharedPrefix(rendered, KeyValues.from_cache(out.past_key_values))
            self._shared[system_prompt] = known
        return known

    def token_ids(
        self, queries: Sequence[str], system_prompt: str, *, max_tokens: int = MAX_QUERY_TOKENS
    ) -> list[list[int]]:
        """Ids of each query and of what follows it in the template; a query keeps its first ``max_tokens`` tokens."""
        after = self.shared_prefix(system_prompt).template.after
        return [[*row, *after] for row in self.tokenizer.encode_text(queries, max_tokens=max_tokens)]

    def as_read(self, queries: Sequence[str], *, max_tokens: int = MAX_QUERY_TOKENS) -> list[str]:
        """What is read of each query by :meth:`token_ids`, as text."""
        return self.tokenizer.first_tokens(queries, max_tokens=max_tokens)

    @torch.no_grad()
    def prefix_pass(self, token_ids: Sequence[Sequence[int]], system_prompt: str) -> Prefix:
        """Run B query parts (from :meth:`token_ids`) behind the shared prefix; no gradients.

        Raises:
            InputError: there is no row, or a row is empty.
        """
        prompt = self._prompt(token_ids, system_prompt)
        out = self.body(
            input_ids=prompt.ids,
            attention_mask=prompt.mask,
            position_ids=prompt.positions,
            past_key_values=prompt.shared.to_cache(),
            use_cache=True,
        )
        key_values = KeyValues.from_cache(out.past_key_values)
        return Prefix(key_values, prompt.mask, prompt.lengths, out.last_hidden_state[:, -1])

    @torch.inference_mode()
    def joint_pass(
        self, token_ids: Sequence[Sequence[int]], system_prompt: str, tail: Tensor, *, read_values: bool = False
    ) -> JointStates:
        """Prefix and continuation in one pass, for when nothing is to be kept.

        Args:
            token_ids: B query parts, from :meth:`token_ids`.
            system_prompt: as for :meth:`prefix_pass`.
            tail: (T, H) input embeddings that follow every prompt.
            read_values: also average the queries' attention values, as :meth:`query_values` does.

        Raises:
            InputError: there is no row, or a row is empty.
        """
        prompt = self._prompt(token_ids, system_prompt)
        batch, width = prompt.ids.shape
        steps = tail.shape[0]
        own = torch.cat((self.embed(prompt.ids), tail.to(self.dtype).expand(batch, -1, -1)), dim=1)  # (B, L + T, H)
        behind = prompt.lengths[:, None] + torch.arange(steps, device=self.device)
        out = self.body(
            inputs_embeds=own,
            attention_mask=torch.cat((prompt.mask, prompt.mask.new_ones(batch, steps)), dim=1),
            position_ids=torch.cat((prompt.positions, behind), dim=1),
            past_key_values=prompt.shared.to_cache(),
            use_cache=True,
        )
        states = out.last_hidden_state
        values = None
        if read_values:
            own_positions = self._own_positions(prompt.mask, system_prompt)
            values = KeyValues.from_cache(out.past_key_values).mean_values(own_positions)
        return JointStates(states[:, width - 1], states[:, width:], values)

    def query_values(self, prefix: Prefix, system_prompt: str) -> Tensor:
        """(B, V) float32: the attention values of every layer side by side, averaged over a query's own positions.

        Neither the policy nor what follows a query in the template is averaged in. Zeros for a query without a token.
        """
        return prefix.key_values.mean_values(self._own_positions(prefix.mask, system_prompt))

    def _own_positions(self, mask: Tensor, system_prompt: str) -> Tensor:
        """(B, n) float32 with ones where a padded prompt's (B, n) mask has the query itself."""
        shared = self.shared_prefix(system_prompt)
        own = mask.float()
        own[:, : shared.length] = 0
        own[:, mask.shape[1] - len(shared.template.after) :] = 0
        return own

    def continuation_pass(self, prefix: Prefix, embeddings: Tensor) -> Tensor:
        """Run T more positions, given as input embeddings (B, T, H) or (T, H), behind a prefix.

        Returns (B, T, H) last-layer states after the final norm. Gradients flow to ``embeddings`` where they are on;
        the prefix is not changed and can be used again.
        """
        batch = prefix.mask.shape[0]
        if embeddings.dim() == 2:
            embeddings = embeddings.expand(batch, -1, -1)
        steps = embeddings.shape[1]
        out = self.body(
            inputs_embeds=embeddings.to(self.dtype),
            attention_mask=torch.cat((prefix.mask, prefix.mask.new_ones(batch, steps)), dim=1),
            position_ids=prefix.lengths[:, None] + torch.arange(steps, device=self.device),
            past_key_values=prefix.key_values.to_cache(),
            use_cache=True,
        )
        states: Tensor = out.last_hidden_state
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Next-token logits (..., V) of last-layer states (..., H); costly, so ask for the positions needed only."""
        return self._layout.finish_logits(self.model.get_output_embeddings()(states.to(self.dtype)))

    def expected_token(self, logits: Tensor) -> Tensor:
        """(B, H) float32: the mean input embedding of the next token, from (B, V) logits.

        Over the likeliest few, by probability; what is left over counts as nothing, so an undecided model gives less.
        """
        likely = logits.float().softmax(-1).topk(min(_LIKELY, logits.shape[-1]))
        return torch.einsum("bk,bkh->bh", likely.values, self.embed(likely.indices).float())

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings (..., H) of token ids."""
        return self.model.get_input_embeddings()(ids)  # type: ignore[no-any-return]

    def body(self, **inputs: Any) -> Any:
        """The model without its output layer; arguments and result are those of ``transformers``.

        Masks (B, n) are turned into what the layers need, also where some of them look back through a window only.
        """
        mask = inputs.get("attention_mask")
        if mask is not None and mask.dim() == 2:
            given = inputs["input_ids"] if inputs.get("input_ids") is not None else inputs["inputs_embeds"]
            inputs["attention_mask"] = self._layout.masks(mask, given.shape[1], self.dtype)
        return self._decoder(**inputs)

    def _prompt(self, rows: Sequence[Sequence[int]], system_prompt: str) -> _Prompt:
        """Left-pad B rows of ids behind the shared prefix."""
        if not rows or not all(rows):
            raise InputError("expected at least one row of token ids and no empty row")
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self.tokenizer.pad_id)
        real = torch.zeros((len(rows), width), dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, width - len(row) :] = torch.tensor(row)
            real[i, width - len(row) :] = True
        shared = self.shared_prefix(system_prompt)
        real = real.to(self.device)
        return _Prompt(
            ids.to(self.device),
            torch.cat((real.new_ones(len(rows), shared.length), real), dim=1),
            shared.length + (real.cumsum(1) - 1).clamp(min=0),
            shared.length + real.sum(1),
            shared.key_values.expand(len(rows)),
        )


class _Prompt(NamedTuple):
    """B padded query parts: ids (B, L), mask (B, S + L), positions (B, L), lengths (B,), shared keys and values."""

    ids: Tensor
    mask: Tensor
    positions: Tensor
    lengths: Tensor
    shared: KeyValues


def _check_dtype(dtype: str | torch.dtype) -> None:
    names = ("auto", EIGHT_BIT, "float32", "bfloat16", "float16", "float64")
    if isinstance(dtype, str) and dtype not in names:
        raise InputError(f"expected as dtype one of {', '.join(names)}, got {dtype!r}")


def _require_eight_bit(place: torch.device) -> None:
    if place.type != "cpu":
        raise ModelError(f"expected dtype int8 on the CPU only, got the device {place}; use bfloat16 there")
    if not can_multiply_exactly():
        raise ModelError("this processor, or this PyTorch, multiplies no 8-bit integers exactly; use dtype auto")


def native_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it natively, else float32.

    On a CPU without AVX512-BF16 or AMX, bfloat16 matrix products are emulated and several times slower than float32
    (measured: 20 against 160 GFLOP/s on two Zen 3 cores), while with them float32 is the slow one.
    """
    if device.type == "cuda":
        natively = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if natively else torch.float32
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        if any(getattr(torch.cpu, check, lambda: False)() for check in checks):
            return torch.bfloat16
    return torch.float32
