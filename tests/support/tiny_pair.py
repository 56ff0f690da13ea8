"""Three folders that load by name as the real models do: a document encoder, a backbone, an adapter between them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.encoder.persistence import TeacherRecord, save_adapter
from tests.encoder.test_input import save_tiny_model as save_sentence_encoder
from tests.support.adapters import random_adapter, random_refusal, record_for, shape_of
from tests.support.tiny_models import save_tiny_model as save_language_model


class TinyPair(NamedTuple):
    """Folders, as the options of every host take them."""

    document_encoder: str
    backbone: str
    adapter: str


def save_tiny_pair(root: Path) -> TinyPair:
    """Random weights; the adapter lands in the document encoder's space by its record alone."""
    document = save_sentence_encoder(root / "document")
    backbone = save_language_model(root / "backbone")
    model = LanguageModel.load(str(backbone), offline=True)
    teacher = InputEncoder.load(str(document), offline=True)
    shape = shape_of(dimension=teacher.dimension)
    record = record_for(model, shape).model_copy(
        update={"teacher": TeacherRecord(name=teacher.name, space=teacher.space, dimension=teacher.dimension)}
    )
    save_adapter(root / "adapter", random_adapter(shape), random_refusal(), record)
    return TinyPair(str(document), str(backbone), str(root / "adapter"))
