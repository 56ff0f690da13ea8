"""A response adapter on disk: ``adapter.safetensors`` and ``adapter.json``, nothing that could run code.

The JSON says what the weights belong to (backbone, teacher, policy, template, each with its hash) and how they were
trained; it is written last, so a folder without it is not an adapter. The SHA-256 of the weights stands in it, and its
own as well: a flipped byte anywhere is found before anything is loaded.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from safe_retrieval.encoder.adapter import AdapterShape, RefusalHead, ResponseAdapter
from safe_retrieval.encoder.policy import ResponsePolicy
from safe_retrieval.errors import AdapterError, AdapterFormatError

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Of the record's format."""

_WEIGHTS, _RECORD = "adapter.safetensors", "adapter.json"

_WIDE = {"adapter.joined.weight", "adapter.worded.weight", "adapter.begun.weight"}
_SCALE = ".scale"


class _Record(BaseModel):
    """Fields that came later are left out where they are not known, so that an older record is written as it was."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    _later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _known(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialise(self).items() if value is not None or name not in self._later}


class BackboneRecord(_Record):
    """The language model an adapter belongs to."""

    name: str
    fingerprint: str


class TeacherRecord(_Record):
    """The encoder whose space an adapter lands in.

    Attributes:
        space: equals the space of the document encoder that can be asked through the adapter.
        fingerprint: hash of the teacher's own files, ``sha256:...``; ``None`` where the record does not say.
    """

    _later = frozenset({"fingerprint"})

    name: str
    space: str
    dimension: int
    fingerprint: str | None = None


class PolicyRecord(_Record):
    """The policy that responses were generated under.

    Attributes:
        sha256: hash of the system prompt (:attr:`ResponsePolicy.sha256`), which it must match; ``None`` in records from
            before it was stored.
    """

    _later = frozenset({"sha256"})

    name: str
    system_prompt: str
    sha256: str | None = None

    @classmethod
    def of(cls, policy: ResponsePolicy) -> PolicyRecord:
        """The record of a policy, its hash included."""
        return cls(name=policy.name, system_prompt=policy.system_prompt, sha256=policy.sha256)

    @model_validator(mode="after")
    def _hash_is_of_the_text(self) -> PolicyRecord:
        found = _sha256(self.system_prompt.encode())
        if self.sha256 not in (None, found):
            raise ValueError(f"expected the hash of the system prompt, {found}, got {self.sha256}")
        return self

    @property
    def policy(self) -> ResponsePolicy:
        """As an encoder uses it."""
        return ResponsePolicy(self.name, self.system_prompt)


class RefusalRecord(_Record):
    """How the refusal head came about."""

    first_tokens: tuple[int, ...]
    method: str
    held_out_auroc: float | None = None


class AdapterRecord(_Record):
    """Contents of ``adapter.json``.

    Attributes:
        template: the rendered template around a query under the policy
            (:attr:`~safe_retrieval.backbone.template.PromptTemplate.text`), which ``template_sha256`` must match;
            ``None`` in records from before it was stored.
        blend_share: share of the response vector that suits this adapter in a blend, where the backbone would answer
            (:attr:`~safe_retrieval.encoder.blend.BlendWeight.answered`); ``None`` is the usual one.
        record_sha256: hash of all the rest as canonical JSON (sorted keys, no spaces, UTF-8).
    """

    _later = frozenset({"template", "blend_share"})

    format: Literal["safe-retrieval-adapter"] = "safe-retrieval-adapter"
    version: Literal[1] = 1
    backbone: BackboneRecord
    teacher: TeacherRecord
    policy: PolicyRecord
    template_sha256: str
    template: str | None = None
    blend_share: float | None = Field(default=None, ge=0, le=1)
    shape: AdapterShape
    refusal: RefusalRecord
    training: dict[str, Any] = {}
    weights_sha256: str = ""
    record_sha256: str = ""

    @model_validator(mode="after")
    def _hash_is_of_the_template(self) -> AdapterRecord:
        if self.template is not None and self.template_sha256 != (found := _sha256(self.template.encode())):
            raise ValueError(f"expected template_sha256 to be the template's hash, {found}, got {self.template_sha256}")
        return self


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

    An alignment head that reads more than states is wider than all the rest together and is kept in 8-bit integers, a
    float32 scale a row: embeddings turn by less than two degrees.

    Returns the record as written, with the hashes filled in.

    Raises:
        AdapterError: a weight is not finite, or too large for float16.
    """
    import torch
    from safetensors.torch import save

    tensors = {f"adapter.{name}": tensor for name, tensor in adapter.state_dict().items()}
    tensors |= {f"refusal.{name}": tensor for name, tensor in refusal.state_dict().items()}
    kept: dict[str, torch.Tensor] = {}
    for name, tensor in sorted(tensors.items()):
        kept |= _as_kept(name, tensor.detach().cpu().contiguous(), eight_bit=adapter.shape.reads_beside)
    broken = [name for name, tensor in kept.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise AdapterError(f"the adapter's {broken[0]} is not finite in {kept[broken[0]].dtype}; train it anew")
    weights = save(kept)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / _WEIGHTS, weights)
    return write_record(folder, record.model_copy(update={"weights_sha256": _sha256(weights)}))


def _as_kept(name: str, tensor: torch.Tensor, *, eight_bit: bool) -> dict[str, torch.Tensor]:
    """A tensor as it is written, under one name or two."""
    import torch

    from safe_retrieval.backbone.eight_bit import rounded

    if tensor.dim() < 2:  # scales, calibration, the refusal head: they cost nothing and decide a lot
        return {name: tensor.to(torch.float32)}
    if not eight_bit or name not in _WIDE:
        return {name: tensor.to(torch.float16)}
    integers, scales = rounded(tensor)  # what is not finite shows in the scales
    return {name: integers, name + _SCALE: scales}


def write_record(folder: Path, record: AdapterRecord) -> AdapterRecord:
    """Write ``adapter.json`` beside weights that are there, its own hash filled in; returns it as written.

    Raises:
        AdapterError: the hash of the policy or of the template does not match its own text.
    """
    content = record.model_dump(mode="json", exclude={"record_sha256"})
    content["record_sha256"] = _hash_of(content)
    try:
        written = AdapterRecord.model_validate(content)  # copies of records, made by update, were not checked
    except ValidationError as error:
        raise AdapterError(f"the adapter's record is not written: {_first_fault(error)}; mend that field") from error
    _replace(folder / _RECORD, _rendered(content))
    return written


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
        raise AdapterFormatError(
            f"{path} is not an adapter record of version {VERSION} ({_first_fault(error)}); get the adapter again"
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


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'the whole record'}: {first['msg']}"


def _as_computed(kept: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of :func:`_as_kept`, all in float32."""
    import torch

    tensors = {name: tensor.to(torch.float32) for name, tensor in kept.items()}
    for name in [name for name in tensors if name.removesuffix(_SCALE) in _WIDE and name.endswith(_SCALE)]:
        scale = tensors.pop(name)
        whole = name.removesuffix(_SCALE)
        if whole in tensors:
            tensors[whole] = tensors[whole] * scale
    return tensors


def _read_weights(path: Path, record: AdapterRecord) -> dict[str, Any]:
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
        return _as_computed(load(content))
    except SafetensorError as error:
        raise AdapterFormatError(f"{path} is no safetensors file ({error}); get the adapter again") from error
