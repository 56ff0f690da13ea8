"""The input-centric encoder: a sentence-transformers model that embeds the text it is given.

It is the document side of every index here, the teacher of the shipped adapters, and the baseline an audit compares
with::

    encoder = InputEncoder.load()
    vectors = encoder.encode_documents(["a passage", "another"])  # (2, 384) float32, unit norm
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safe_retrieval.encoder.progress import progress_bar, quiet_loading
from safe_retrieval.encoder.texts import BLANK, MAX_CHARACTERS, clean_texts, length_sorted_batches
from safe_retrieval.errors import InputError, ModelError
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.models.record import ModelKind
from safe_retrieval.types import FloatMatrix, QueryEncoding

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn

# A token of any tokenizer in use covers fewer characters than this on average, code and tables included.
_CHARACTERS_PER_TOKEN = 16


def space_fingerprint(model_fingerprint: str, *, query_prompt: str, document_prompt: str) -> str:
    """The identity of a sentence-transformers model's vector space, as indexes and adapters store it.

    Args:
        model_fingerprint: fingerprint of the model's files.
        query_prompt: text put before each query.
        document_prompt: text put before each document.

    Returns:
        ``sha256:`` and 64 hexadecimal digits over the above and the fact that vectors are normalised.
    """
    identity = {
        "model": model_fingerprint,
        "query_prompt": query_prompt,
        "document_prompt": document_prompt,
        "normalised": True,
    }
    return "sha256:" + hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class InputEncoder:
    """Any sentence-transformers model as an :class:`~safe_retrieval.types.Encoder`; it has no refusal verdict.

    Args:
        model_path: folder of the model, as ``SentenceTransformer.save`` writes it, weights in safetensors.
        name: a name for people.
        fingerprint: fingerprint of the model's files; equal files must have equal fingerprints.
        device: torch device; ``None`` leaves the choice to sentence-transformers.
        query_prompt: text put before each query; ``None`` takes the model's own.
        document_prompt: text put before each document; ``None`` takes the model's own.

    Raises:
        ModelError: the folder is no such model, keeps its weights in pickles, or would need code from elsewhere.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        name: str,
        fingerprint: str,
        device: str | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
    ) -> None:
        self._name = name
        self._model = _load_model(Path(model_path), device)
        self.query_prompt = _own_prompt(self._model, "query") if query_prompt is None else query_prompt
        self.document_prompt = _own_prompt(self._model, "document") if document_prompt is None else document_prompt
        _read_markers_as_text(self._model, self.query_prompt + self.document_prompt)
        self._pieces = _marker_pieces(self._model, self.query_prompt + self.document_prompt)
        self._space = space_fingerprint(
            fingerprint, query_prompt=self.query_prompt, document_prompt=self.document_prompt
        )
        self._dimension = len(self._model.encode(BLANK, show_progress_bar=False))
        self._max_characters = max(MAX_CHARACTERS, _CHARACTERS_PER_TOKEN * (self._model.max_seq_length or 0))

    @classmethod
    def load(cls, name: str = DEFAULT_DOCUMENT_ENCODER, *, offline: bool = False) -> InputEncoder:
        """Fetch a model by catalog name, hub id or folder, and open it.

        Args:
            name: for example ``all-minilm-l6-v2`` or ``BAAI/bge-small-en-v1.5``.
            offline: open no connection.

        Raises:
            ModelError: it cannot be had, or is not a sentence-transformers model (see the subclasses).
        """
        from safe_retrieval.models.fetch import resolve

        resolved = resolve(name, offline=offline, kind=ModelKind.SENTENCE_ENCODER)
        return cls(resolved.path, name=resolved.name, fingerprint=resolved.fingerprint)

    @property
    def name(self) -> str:
        """A name for people."""
        return self._name

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._dimension

    @property
    def space(self) -> str:
        """Fingerprint of the model, its prompts and normalisation; see :func:`space_fingerprint`."""
        return self._space

    @property
    def transformer(self) -> Any:
        """The ``transformers`` model inside, for its sizes."""
        return self._model.transformers_model

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, for what counts in its tokens."""
        return self._model.tokenizer

    @property
    def torch_modules(self) -> tuple[nn.Module, ...]:
        """The model, for a host that moves it or shares it between processes."""
        return (self._model,)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Positions that the model runs for each query, its prompt and special tokens included."""
        prompted = [self.query_prompt + text for text in self._cleaned(texts)]
        bound = self._model.max_seq_length
        ids = self._model.tokenizer(prompted, truncation=bound is not None, max_length=bound)["input_ids"]
        return [len(row) for row in ids]

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        """Encode queries; ``refusal`` is ``None``, since such a model has no verdict."""
        return QueryEncoding(self.encode_queries(texts, batch_size=batch_size, progress=progress), None)

    def encode_queries(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """Encode queries.

        Args:
            texts: n texts; see :func:`~safe_retrieval.encoder.texts.clean_texts` for what is done to them. Markers such
                as ``[SEP]`` inside them are plain text.
            batch_size: texts in one forward pass; it does not change the vectors beyond float32 rounding.
            progress: whether to show a bar on stderr; ``None`` shows it from 500 texts up.

        Returns:
            (n, d) float32, unit norm, in input order.

        Raises:
            InputError: a text is not a string, or the model gives no finite direction for it.
        """
        return self._encode(self._model.encode_query, self.query_prompt, texts, batch_size, progress)

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """Encode documents; arguments, result and errors as in :meth:`encode_queries`."""
        return self._encode(self._model.encode_document, self.document_prompt, texts, batch_size, progress)

    def _cleaned(self, texts: Sequence[str]) -> list[str]:
        cleaned = clean_texts(texts, max_characters=self._max_characters)
        if self._pieces is None:
            return cleaned
        return [self._pieces.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text) for text in cleaned]

    def _encode(
        self,
        encode: Callable[..., Any],
        prompt: str,
        texts: Sequence[str],
        batch_size: int,
        progress: bool | None,
    ) -> FloatMatrix:
        cleaned = self._cleaned(texts)
        vectors = np.empty((len(cleaned), self.dimension), dtype=np.float32)
        with progress_bar(len(cleaned), f"Encoding with {self.name}", show=progress) as advance:
            for batch in length_sorted_batches([len(text) for text in cleaned], batch_size=batch_size):
                vectors[batch] = encode(
                    [cleaned[position] for position in batch],
                    prompt=prompt,
                    batch_size=len(batch),
                    show_progress_bar=False,
                    convert_to_numpy=True,
                )
                advance(len(batch))
        return unit_rows(vectors)


def unit_rows(vectors: FloatMatrix) -> FloatMatrix:
    """Scale each row of (n, d) to length one.

    Raises:
        InputError: a row is zero or not finite, so it has no direction; the message names its position.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    broken = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if broken.size:
        raise InputError(
            f"the model gives no direction for text {broken[0]} (its vector is zero or not finite; {broken.size} such "
            "texts in all); leave it out, or use another encoder"
        )
    scaled: FloatMatrix = (vectors / norms).astype(np.float32, copy=False)
    return scaled


def _load_model(path: Path, device: str | None) -> SentenceTransformer:
    if not path.is_dir():
        raise ModelError(f"{path} is not a folder; expected a sentence-transformers model, as its save() writes it")
    for folder in (path, *(child for child in path.iterdir() if child.is_dir())):
        if (folder / "pytorch_model.bin").exists() and not any(folder.glob("*.safetensors")):
            raise ModelError(
                f"{folder / 'pytorch_model.bin'} is a pickle, which could run code, and is never loaded; convert the "
                "model to safetensors (SentenceTransformer.save_pretrained does, on a machine that trusts it)"
            )
    from sentence_transformers import SentenceTransformer

    try:
        with quiet_loading():
            return SentenceTransformer(
                str(path),
                device=device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"{path} cannot be opened as a sentence-transformers model ({type(error).__name__}: {error}); "
            "pull it again, or check that it needs no code of its own"
        ) from error


def _own_prompt(model: SentenceTransformer, side: str) -> str:
    """The model's prompt for one side, by the names that sentence-transformers looks for."""
    names = {"query": ("query",), "document": ("document", "passage", "corpus")}[side]
    prompts: dict[str, str] = model.prompts or {}
    # Since version 5 an unset prompt is stored as "", which must not shadow a later name that is set.
    return next((prompts[name] for name in names if prompts.get(name)), "")


def _marker_pieces(model: SentenceTransformer, prompts: str) -> re.Pattern[str] | None:
    """Markers that a vocabulary has as pieces of text, so that a tokenizer would read ``</s>`` as the end token.

    Unigram vocabularies (XLM-R, T5) have, whatever their tokenizer is told of markers; a space within breaks them.
    """
    tokenizer = getattr(model, "tokenizer", None)
    kind = type(getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)).__name__
    markers = [marker for marker in getattr(tokenizer, "all_special_tokens", ()) if len(marker) > 1]
    if kind != "Unigram" or not markers or any(marker in prompts for marker in markers):
        return None
    return re.compile("|".join(re.escape(marker) for marker in sorted(markers, key=len, reverse=True)))


def _read_markers_as_text(model: SentenceTransformer, prompts: str) -> None:
    """Keep ``[SEP]`` or ``<|im_end|>`` inside a user's text from becoming the special token of that name.

    The tokens that the model itself puts around a text come from its template and stay as they are. A model whose own
    prompt is written with such markers needs them parsed, so it is left alone.
    """
    tokenizer = getattr(model, "tokenizer", None)
    markers = getattr(tokenizer, "all_special_tokens", None)
    if tokenizer is not None and markers is not None and not any(marker in prompts for marker in markers):
        tokenizer.split_special_tokens = True
