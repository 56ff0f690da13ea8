"""Language models of a few thousand random weights with real tokenizers, made where a test needs them.

The tokenizer is byte-level BPE like Qwen's, trained on a few sentences, with ChatML's control tokens as added tokens.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.backbone.tokenizer import TextTokenizer

HIDDEN = 32
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

ROLES = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SENTENCES = (
    "You are a helpful assistant. You answer every harmless question directly.",
    "How do tides work? The moon pulls on the water of the sea.",
    "What is the capital of France? Paris is the capital of France.",
    "I cannot help with that. Sorry, I cannot assist with this request.",
    "In short, the answer to this is that it depends on the weather.",
    "Summarize the following passage: the violin lies beside the harbour.",
    "Who wrote the Iliad, and when did the author live?",
)


class Family(StrEnum):
    """Architectures that differ in what a backbone must get right."""

    QWEN2 = "qwen2"
    """Grouped queries, biases, tied embeddings."""
    QWEN3 = "qwen3"
    """Queries and keys are normalised head by head; the width of a head does not follow from the others."""
    LLAMA = "llama"
    """An output layer of its own."""
    MISTRAL = "mistral"
    """Every layer slides over 8 positions."""
    GEMMA3 = "gemma3"
    """Sliding and full layers in turn, scaled embeddings."""
    GPT2 = "gpt2"
    """Learned positions; the decoder is not called ``model``."""


def tokenizer(chat_template: str | None = CHATML) -> Any:
    """A fast transformers tokenizer."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    body = Tokenizer(models.BPE())
    body.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    body.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=sorted(alphabet), show_progress=False)
    body.train_from_iterator(SENTENCES * 3, trainer)
    body.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL])
    fast = PreTrainedTokenizerFast(tokenizer_object=body, **ROLES)
    fast.chat_template = chat_template
    return fast


def causal_lm(family: Family, vocabulary: int, *, seed: int = 0) -> Any:
    """A random model; weights are large enough that its states differ from text to text."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(_config(family, vocabulary), dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@cache
def tiny_model(family: Family = Family.QWEN2, *, seed: int = 0) -> LanguageModel:
    """A backbone in memory, shared by tests: it is frozen."""
    fast = tokenizer()
    name = f"tiny-{family}-{seed}"
    return LanguageModel(
        causal_lm(family, len(fast), seed=seed), TextTokenizer(fast), name=name, fingerprint=f"sha256:{name}"
    )


def save_tiny_model(folder: Path, family: Family = Family.QWEN2, *, seed: int = 0) -> Path:
    """The same as a model folder, for what loads by name."""
    fast = tokenizer()
    causal_lm(family, len(fast), seed=seed).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def _config(family: Family, vocabulary: int) -> Any:
    import transformers

    if family is Family.GPT2:
        return transformers.GPT2Config(vocab_size=vocabulary, n_embd=HIDDEN, n_layer=2, n_head=4, n_positions=1024)
    common: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    match family:
        case Family.QWEN2:
            return transformers.Qwen2Config(**common, tie_word_embeddings=True)
        case Family.QWEN3:
            return transformers.Qwen3Config(**common | {"head_dim": 16}, tie_word_embeddings=True)
        case Family.LLAMA:
            return transformers.LlamaConfig(**common, tie_word_embeddings=False)
        case Family.MISTRAL:
            return transformers.MistralConfig(**common, sliding_window=8)
        case Family.GEMMA3:
            layers = ["sliding_attention", "full_attention"]
            return transformers.Gemma3TextConfig(
                **common, sliding_window=8, layer_types=layers, query_pre_attn_scalar=8
            )


def unigram() -> Any:
    """A tokenizer whose pieces match as they stand, the end token among them."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -3.0) for letter in "abs</>"), ("ab", -1.0)]
    body = Tokenizer(models.Unigram(pieces, unk_id=0))
    return PreTrainedTokenizerFast(tokenizer_object=body, eos_token="</s>", unk_token="<unk>")
