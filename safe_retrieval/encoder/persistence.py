"""A response adapter on disk: ``adapter.safetensors`` and ``adapter.json``, nothing that could run code.

The JSON says what the weights belong to (backbone, teacher, policy, template, each with its hash) and how they were
trained; it is written last, so a folder without it is not an adapter. The weights' own SHA-256 stands in it: a flipped
byte is found before anything is loaded.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from safe_retrieval.encoder.adapter import AdapterShape, RefusalHead, ResponseAdapter
from safe_retrieval.encoder.policy import ResponsePolicy
from safe_retrieval.errors import AdapterFormatError

VERSION = 1
_WEIGHTS, _RECORD = "adapter.safetensors", "adapter.json"


class BackboneRecord(BaseModel):
    """The language model an adapter belongs to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str


class TeacherRecord(BaseModel):
    """The encoder whose space an adapter lands in.

    ``space`` equals the space of the document encoder that can be asked through the adapter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    space: str
    dimension: int


class PolicyRecord(BaseModel):
    """The policy that responses were generated under."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    system_prompt: str

    @property
    def policy(self) -> ResponsePolicy:
        """As an encoder uses it."""
        return ResponsePolicy(self.name, self.system_prompt)


class RefusalRecord(BaseModel):
    """How the refusal head came about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_tokens: tuple[int, ...]
    method: str
    held_out_auroc: float | None = None


class AdapterRecord(BaseModel):
    """Contents of ``adapter.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["safe-retrieval-adapter"] = "safe-retrieval-adapter"
    version: Literal[1] = 1
    backbone: BackboneRecord
    teacher: TeacherRecord
    policy: PolicyRecord
    template_sha256: str
    shape: AdapterShape
    refusal: RefusalRecord
    training: dict[str, Any] = {}
    weights_sha256: str = ""


class LoadedAdapter(NamedTuple):
    """An adapter as read from disk, weights in float32."""

    record: AdapterRecord
    adapter: ResponseAdapter
    refusal: RefusalHead

    @property
    def fingerprint(self) -> str:
        """Hash of the weights, ``sha256:...``."""
        return self.record.weights_sha256


def save_adapter(folder: Path, adapter: ResponseAdapter, refusal: RefusalHead, record: AdapterRecord) -> AdapterRecord:
    """Write an adapter; weights in float16, which keeps three digits of them in half the bytes.

    Returns the record as written, with the hash of the weights filled in.
    """
    import torch
    from safetensors.torch import save

    tensors = {f"adapter.{name}": tensor for name, tensor in adapter.state_dict().items()}
    tensors |= {f"refusal.{name}": tensor for name, tensor in refusal.state_dict().items()}
    # Scalars (scales, calibration) cost nothing and decide a lot: they stay in float32.
    weights = save(
        {
            name: tensor.detach().cpu().contiguous().to(torch.float16 if tensor.dim() else torch.float32)
            for name, tensor in sorted(tensors.items())
        }
    )
    written = record.model_copy(update={"weights_sha256": "sha256:" + hashlib.sha256(weights).hexdigest()})
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((_WEIGHTS, weights), (_RECORD, written.model_dump_json(indent=2).encode() + b"\n")):
        partial = folder / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(folder / name)
    return written


def load_adapter(folder: str | Path) -> LoadedAdapter:
    """Read and check an adapter.

    Raises:
        AdapterFormatError: a file is missing, truncated, altered or of an unknown version; the message names it.
    """
    folder = Path(folder)
    record = _read_record(folder / _RECORD)
    tensors = _read_weights(folder / _WEIGHTS, record)
    adapter = ResponseAdapter(record.shape)
    refusal = RefusalHead(record.shape.hidden_size, record.refusal.first_tokens)
    for prefix, module in (("adapter.", adapter), ("refusal.", refusal)):
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise AdapterFormatError(
                f"{folder / _WEIGHTS} does not hold the tensors that {_RECORD} describes; get it again ({error})"
            ) from error
    return LoadedAdapter(record, adapter.eval().requires_grad_(False), refusal.eval().requires_grad_(False))


def _read_record(path: Path) -> AdapterRecord:
    try:
        return AdapterRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise AdapterFormatError(f"expected an adapter folder with {_RECORD}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise AdapterFormatError(
            f"{path} is not an adapter record of version {VERSION} ({place}: {first['msg']}); get the adapter again"
        ) from error


def _read_weights(path: Path, record: AdapterRecord) -> dict[str, Any]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
    except OSError as error:
        raise AdapterFormatError(f"expected the adapter's weights beside {_RECORD}: {error}") from error
    found = "sha256:" + hashlib.sha256(content).hexdigest()
    if found != record.weights_sha256:
        raise AdapterFormatError(
            f"{path} is truncated or altered (expected {record.weights_sha256}, got {found}); get the adapter again"
        )
    try:
        return {name: tensor.to(torch.float32) for name, tensor in load(content).items()}
    except SafetensorError as error:
        raise AdapterFormatError(f"{path} is no safetensors file ({error}); get the adapter again") from error
