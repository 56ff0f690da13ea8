"""The one module of our ``SentenceTransformer``: texts in, ``sentence_embedding`` out, by the door asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from safe_retrieval.encoder.paired import PairedEncoder
from safe_retrieval.encoder.persistence import PolicyRecord, load_adapter
from safe_retrieval.errors import AdapterError, EncoderMismatchError, InputError
from safe_retrieval.retrieval.arms import ArmLoader
from sentence_transformers_safe_retrieval.card import model_card
from sentence_transformers_safe_retrieval.record import (
    ADAPTER_FOLDER,
    RECORD_NAME,
    ModelRecord,
    Recipe,
    read_record,
)

_ADAPTER_FILES = ("adapter.safetensors", "adapter.json")
_DOCUMENT = "document"


class SafeRetrievalModule(InputModule):
    """Queries through one encoder, documents through another, as a module of sentence-transformers.

    ``encode_document`` takes the document encoder, everything else the query side: a plain ``encode`` must not be the
    way around the response encoder. The features of a batch hold ``refusal`` beside ``sentence_embedding`` where the
    query side has a verdict (``encode(..., output_value=None)`` shows it).

    Args:
        pair: the encoders.
        recipe: what they were made of; without it the module cannot be saved.
    """

    config_file_name = RECORD_NAME
    forward_kwargs = {"task"}  # noqa: RUF012  # the host's own attribute, declared as a plain set
    save_in_root = True

    def __init__(self, pair: PairedEncoder, *, recipe: Recipe | None = None) -> None:
        super().__init__()
        self.pair = pair
        self.recipe = recipe
        # Registered, so that the host's own means move them (encode(device=...)) and share them with its workers.
        self.weights = torch.nn.ModuleList(pair.torch_modules)

    @classmethod
    def make(cls, recipe: Recipe, *, offline: bool = False) -> Self:
        """Load what a recipe names.

        Raises:
            InputError: the arm has no vectors.
            EncoderMismatchError: the adapter was trained for another document encoder.
            AdapterError, ModelError: the adapter or a model cannot be had.
        """
        loader = ArmLoader(
            recipe.document_encoder,
            adapter=recipe.adapter,
            backbone=recipe.backbone,
            offline=offline,
            policy=recipe.policy,
        )
        return cls(loader.paired(recipe.arm), recipe=recipe)

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Put the prompt before each text; each encoder tokenises for itself, reading no control tokens out of it."""
        for position, text in enumerate(inputs):
            if not isinstance(text, str):
                raise InputError(
                    f"text {position} is {type(text).__name__}, expected str; this model reads texts alone"
                )
        return {"texts": [f"{prompt or ''}{text}" for text in inputs]}

    def forward(self, features: dict[str, Any], task: str | None = None, **_: Any) -> dict[str, Any]:
        """Encode ``features["texts"]``; adds ``sentence_embedding`` (B, D) float32, unit norm, and maybe ``refusal``.

        No gradients flow: the parts that learn are trained with ``safe-retrieval train``.
        """
        texts: list[str] = features["texts"]
        if task == _DOCUMENT:
            vectors, refusal = self.pair.encode_documents(texts, batch_size=len(texts), progress=False), None
        else:
            vectors, refusal = self.pair.encode(texts, batch_size=len(texts), progress=False)
        features["sentence_embedding"] = torch.from_numpy(vectors)
        if refusal is not None:
            features["refusal"] = torch.from_numpy(refusal)
        return features

    def get_embedding_dimension(self) -> int:
        """Length of a vector."""
        return self.pair.dimension

    def on_model_ready(self, model: SentenceTransformer) -> None:
        """Have the folder that the model is saved to say how it is loaded, which the host's own card gets wrong."""
        model._model_card_text = model_card(self.pair, self.recipe)  # there is no public way

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the record and a copy of the adapter; backbone and document encoder are named, not copied.

        Raises:
            InputError: the module was made of encoder objects, whose source is not known.
            AdapterError: the adapter's folder holds another adapter by now.
        """
        if self.recipe is None:
            raise InputError(
                "this model was made of encoder objects, and where they came from is not known; make it with "
                "safe_sentence_transformer, by names and folders, to save it"
            )
        folder = Path(output_path)
        adapter = None
        if self.recipe.adapter is not None:
            adapter = _copy_adapter(self.recipe.adapter, folder / ADAPTER_FOLDER)
        policy = self.recipe.policy
        record = ModelRecord(
            arm=self.recipe.arm,
            document_encoder=self.recipe.document_encoder,
            space=self.pair.space,
            backbone=self.recipe.backbone,
            adapter=adapter,
            policy=None if policy is None else PolicyRecord(name=policy.name, system_prompt=policy.system_prompt),
        )
        (folder / RECORD_NAME).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        *,
        local_files_only: bool = False,
        backend: str = "torch",
        document_encoder: str | None = None,
        backbone: str | None = None,
        **_: Any,
    ) -> Self:
        """Load what :meth:`save` wrote; the host's other arguments mean nothing here.

        Args:
            model_name_or_path: the folder.
            local_files_only: open no connection.
            backend: must be ``"torch"``.
            document_encoder: where the document encoder is now, if not under the name it was saved with.
            backbone: where the backbone is now, likewise.

        Raises:
            InputError: another backend, or the folder holds no such model.
            EncoderMismatchError: the document encoder is not the one that the model was saved with.
            AdapterError, ModelError: the adapter or a model cannot be had, or is not the one it was saved with.
        """
        check_backend(backend)
        folder = Path(model_name_or_path)
        record = read_record(folder / RECORD_NAME)
        adapter = None if record.adapter is None else folder / ADAPTER_FOLDER
        if adapter is not None and (found := load_adapter(adapter).fingerprint) != record.adapter:
            raise AdapterError(f"{adapter} holds adapter {found}, expected {record.adapter}; save the model again")
        recipe = Recipe(
            record.arm,
            document_encoder or record.document_encoder,
            backbone or record.backbone,
            adapter,
            record.response_policy,
        )
        module = cls.make(recipe, offline=local_files_only)
        if module.pair.space != record.space:
            raise EncoderMismatchError(
                f"{folder} was saved with a document encoder of space {record.space}, and {recipe.document_encoder} "
                f"has {module.pair.space}; give the one it was saved with"
            )
        return module

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the weights; their precision was chosen when they were loaded, and the adapter's verdicts with it."""
        if fn(torch.zeros(1)).dtype != torch.float32:
            raise InputError(
                "expected the weights to keep their precision: the backbone's is chosen when it is loaded, and the "
                "adapter is calibrated in float32; leave out half(), bfloat16() and dtype"
            )
        super()._apply(fn, recurse)
        return self


def check_backend(backend: str) -> None:
    """Refuse what cannot run the response encoder.

    Raises:
        InputError: another backend than ``"torch"``.
    """
    if backend != "torch":
        raise InputError(
            f"expected the torch backend, got {backend!r}: the response encoder reads the backbone's inner states "
            "through a kept prefix, which an exported graph does not offer; leave backend out"
        )


def _copy_adapter(source: Path, target: Path) -> str:
    """Copy an adapter and return the hash of its weights, read back from the copy."""
    if source.resolve() != target.resolve():
        target.mkdir(parents=True, exist_ok=True)
        for name in _ADAPTER_FILES:
            shutil.copyfile(source / name, target / name)
    return load_adapter(target).fingerprint
