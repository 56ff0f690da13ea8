"""Text to token ids without ever reading control tokens out of the text.

A tokenizer as downloaded turns ``<|im_end|>`` inside a user's text into the control token of that name, so a document
could end the user's turn or play the system. Here a user's text goes through a copy of the tokenizer that knows no
added tokens: the same characters become ordinary pieces of text. Only the chat template, which is ours, is tokenised
with control tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safe_retrieval.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


class TextTokenizer:
    """Tokenizes user text as plain text, and trusted template text with control tokens.

    Args:
        tokenizer: a fast tokenizer from ``transformers``.

    Raises:
        ModelError: the tokenizer has no fast form, so its added tokens cannot be taken out.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"expected a fast tokenizer (tokenizer.json), got {type(tokenizer).__name__}, which would read control "
                "tokens out of user text; convert it with transformers' convert_slow_tokenizer first"
            )
        self.trusted = tokenizer
        self._plain = _without_added_tokens(tokenizer)
        # Added tokens that are not special (Gemma lists runs of spaces as such) may come out of plain text as well.
        self._control_ids = frozenset(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        """Load from a model folder; never runs code from it.

        Raises:
            ModelError: there is no tokenizer in it, or not a fast one.
        """
        from transformers import AutoTokenizer

        # transformers makes an empty tokenizer of the model's kind where there is none.
        if not any((folder / name).is_file() for name in _VOCABULARIES):
            raise ModelError(f"expected a tokenizer in {folder} ({', '.join(_VOCABULARIES)}), found none")
        try:
            return cls(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
        except (OSError, ValueError) as error:
            raise ModelError(f"the tokenizer in {folder} cannot be loaded: {error}") from error

    def encode_text(self, texts: Sequence[str], *, max_tokens: int) -> list[list[int]]:
        """Token ids of user texts, each cut to its first ``max_tokens`` tokens; no control token can occur."""
        encodings = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        rows = [encoding.ids[:max_tokens] for encoding in encodings]
        for row in rows:
            if not self._control_ids.isdisjoint(row):
                raise ModelError("the tokenizer turned plain text into a control token; this backbone cannot be used")
        return rows

    def first_tokens(self, texts: Sequence[str], *, max_tokens: int) -> list[str]:
        """The beginning of each text that :meth:`encode_text` reads: up to the end of its ``max_tokens``-th token."""
        return [self._beginning(text, max_tokens) for text in texts]

    def _beginning(self, text: str, max_tokens: int) -> str:
        # Of any text: a character may become several when it is normalised, and more tokens than it has bytes.
        offsets = self._plain.encode(text, add_special_tokens=False).offsets
        return text if len(offsets) <= max_tokens else text[: offsets[max_tokens - 1][1]]

    def encode_trusted(self, text: str) -> list[int]:
        """Token ids of text of our own, in which control tokens are meant."""
        return list(self.trusted(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens left out."""
        return str(self.trusted.decode(list(ids), skip_special_tokens=True))

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end a response: the tokenizer's own end token and a chat template's end-of-turn tokens."""
        names = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>")
        known = self.trusted.get_vocab()
        found = [known[name] for name in names if name in known]
        if self.trusted.eos_token_id is not None:
            found.insert(0, int(self.trusted.eos_token_id))
        return tuple(dict.fromkeys(found))

    @property
    def pad_id(self) -> int:
        """An id to fill with where the attention mask is 0; which one does not matter."""
        pad = self.trusted.pad_token_id
        return int(pad if pad is not None else next(iter(self.end_ids), 0))


def _without_added_tokens(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    from tokenizers import Tokenizer

    description = json.loads(tokenizer.backend_tokenizer.to_str())
    description["added_tokens"] = []
    description["post_processor"] = None
    description["padding"] = description["truncation"] = None
    if description["model"]["type"] == "Unigram":
        # Its pieces match as they stand, so "</s>" in a text would be the end token: such pieces are renamed to
        # what cleaned text cannot contain. Merges of the other kinds never lead to a control token.
        vocabulary = description["model"]["vocab"]
        for index, token in tokenizer.added_tokens_decoder.items():
            if token.special and index < len(vocabulary):
                vocabulary[index][0] = f"\0{index}"
    return Tokenizer.from_str(json.dumps(description))
