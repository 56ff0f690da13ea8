"""A response adapter on disk: ``adapter.safetensors`` and ``adapter.json``, nothing that could run code.

The JSON says what the weights belong to (backbone, teacher, policy, template, each with its hash) and how they were
trained; it is written last, so a folder without it is not an adapter. The SHA-256 of the weights stands in it, and its
own as well: a flipped byte anywhere is found before anything is loaded.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from safe_retrieval.encoder.adapter import AdapterShape, RefusalHead, ResponseAdapter
from safe_retrieval.encoder.policy import ResponsePolicy
from safe_retrieval.errors import AdapterError, AdapterFormatError

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
    """Contents of ``adapter.json``.

    ``record_sha256`` is the hash of all the rest as canonical JSON (sorted keys, no spaces, UTF-8).
    """

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
    record_sha256: str = ""


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
    """Write an adapter; matrices in float16, which keeps three digits of them in half the bytes.

    Returns the record as written, with the hashes filled in.

    Raises:
        AdapterError: a weight is not finite, or too large for float16.
    """
    import torch
    from safetensors.torch import save

    tensors = {f"adapter.{name}": tensor for name, tensor in adapter.state_dict().items()}
    tensors |= {f"refusal.{name}": tensor for name, tensor in refusal.state_dict().items()}
    # Scalars and vectors (scales, calibration, the refusal head) cost nothing and decide a lot: they stay in float32.
    kept = {
        name: tensor.detach().cpu().contiguous().to(torch.float16 if tensor.dim() > 1 else torch.float32)
        for name, tensor in sorted(tensors.items())
    }
    broken = [name for name, tensor in kept.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise AdapterError(f"the adapter's {broken[0]} is not finite in {kept[broken[0]].dtype}; train it anew")
    weights = save(kept)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / _WEIGHTS, weights)
    return write_record(folder, record.model_copy(update={"weights_sha256": _sha256(weights)}))


def write_record(folder: Path, record: AdapterRecord) -> AdapterRecord:
    """Write ``adapter.json`` beside weights that are there, its own hash filled in; returns it as written."""
    content = record.model_dump(mode="json", exclude={"record_sha256"})
    content["record_sha256"] = _hash_of(content)
    _replace(folder / _RECORD, _rendered(content))
    return AdapterRecord.model_validate(content)


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _hash_of(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "record_sha256"}
    return _sha256(json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def _rendered(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def load_adapter(folder: str | Path) -> LoadedAdapter:
    """Read and check an adapter.

    Raises:
        AdapterFormatError: a file is missing, truncated, altered or of an unknown version; the message names it.
    """
    import torch

    folder = Path(folder)
    record = _read_record(folder / _RECORD)
    tensors = _read_weights(folder / _WEIGHTS, record)
    with torch.device("meta"):  # the file brings the tensors: nothing is drawn at random or allocated before
        adapter = ResponseAdapter(record.shape)
        refusal = RefusalHead(record.shape.hidden_size, record.refusal.first_tokens)
    for prefix, module in (("adapter.", adapter), ("refusal.", refusal)):
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        try:
            module.load_state_dict(own, assign=True)
        except RuntimeError as error:
            raise AdapterFormatError(
                f"{folder / _WEIGHTS} does not hold the tensors that {_RECORD} describes; get it again ({error})"
            ) from error
    return LoadedAdapter(record, adapter.eval().requires_grad_(False), refusal.eval().requires_grad_(False))


def _read_record(path: Path) -> AdapterRecord:
    try:
        text = path.read_bytes()
        content = json.loads(text)
        record = AdapterRecord.model_validate(content)
    except OSError as error:
        raise AdapterFormatError(f"expected an adapter folder with {_RECORD}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise AdapterFormatError(
            f"{path} is not an adapter record of version {VERSION} ({place}: {first['msg']}); get the adapter again"
        ) from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise AdapterFormatError(f"{path} is truncated or altered ({error}); get the adapter again") from error
    # The hash is over the contents; that the bytes are as written shows what a flip in the white space would hide.
    if record.record_sha256 != _hash_of(content) or text != _rendered(content):
        raise AdapterFormatError(
            f"{path} is altered: it does not match its own hash, {record.record_sha256 or 'which is missing'}; get the "
            "adapter again, or write a changed record with safe_retrieval.encoder.persistence.write_record"
        )
    return record


def _read_weights(path: Path, record: AdapterRecord) -> dict[str, Any]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
    except OSError as error:
        raise AdapterFormatError(f"expected the adapter's weights beside {_RECORD}: {error}") from error
    found = _sha256(content)
    if found != record.weights_sha256:
        raise AdapterFormatError(
            f"{path} is truncated or altered (expected {record.weights_sha256}, got {found}); get the adapter again"
        )
    try:
        return {name: tensor.to(torch.float32) for name, tensor in load(content).items()}
    except SafetensorError as error:
        raise AdapterFormatError(f"{path} is no safetensors file ({error}); get the adapter again") from error
