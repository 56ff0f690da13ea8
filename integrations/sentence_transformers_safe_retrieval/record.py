"""What a saved model folder says of itself: which arm, which models, each by name and by hash; no weights but ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from safe_retrieval.encoder.persistence import PolicyRecord
from safe_retrieval.encoder.policy import ResponsePolicy
from safe_retrieval.errors import InputError
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.retrieval.arms import Arm

RECORD_NAME = "safe_retrieval.json"
ADAPTER_FOLDER = "adapter"
"""Inside the model's folder: the record, and the adapter's copy."""


class ModelRecord(BaseModel):
    """Contents of ``safe_retrieval.json``.

    Attributes:
        document_encoder: name, hub id or folder of the document encoder.
        space: fingerprint of its space: whatever is loaded under that name must have it.
        backbone: name, hub id or folder of the language model; ``None`` is the adapter's, or the default.
        adapter: hash of the weights in the folder ``adapter``; ``None`` for an arm without one.
        policy: one that replaces the adapter's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["safe-retrieval-sentence-transformer"] = "safe-retrieval-sentence-transformer"
    version: Literal[1] = 1
    arm: Arm
    document_encoder: str
    space: str
    backbone: str | None = None
    adapter: str | None = None
    policy: PolicyRecord | None = None

    @property
    def response_policy(self) -> ResponsePolicy | None:
        """As encoders take it."""
        return None if self.policy is None else self.policy.policy


class Recipe(NamedTuple):
    """What a model was made of, so that it can be saved: arguments of the factory, spelled out.

    Attributes:
        adapter: folder of the adapter; ``None`` for an arm without one.
    """

    arm: Arm = Arm.OUTPUT
    document_encoder: str = DEFAULT_DOCUMENT_ENCODER
    backbone: str | None = None
    adapter: Path | None = None
    policy: ResponsePolicy | None = None


def read_record(path: Path) -> ModelRecord:
    """Read and check a record.

    Raises:
        InputError: it is missing, no JSON, or of an unknown version.
    """
    try:
        return ModelRecord.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise InputError(
            f"expected a model folder with {RECORD_NAME}, as save_pretrained writes it: {error}"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise InputError(
            f"{path} is not a record of version 1 ({place}: {first['msg']}); save the model again"
        ) from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise InputError(f"{path} is truncated or altered ({error}); save the model again") from error
