"""A GGUF file, once, to a folder that loads in seconds: bfloat16 safetensors, configuration and tokenizer.

``transformers`` turns the header into configuration and tokenizer. The weights are unpacked here, some rows at a time,
straight into the file: loading the whole model only to save it again would take twice its size in memory, and its
``save_pretrained`` refuses a model that came from GGUF.

Only architectures whose tensors are known to the last one are unpacked; a tensor without a place is an error, because
a model that silently lacks one (scaled rotary frequencies, say) computes something else.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.errors import ModelError
from safe_retrieval.models.progress import Reporter, Update

_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_PERMUTED = "llama"
"""Its query and key rows are stored pairwise for the other rotary layout, and are put back."""

_NOT_OURS = ("quantization_config", "_name_or_path", "_model_name_or_path", "is_local", "local_files_only")
"""What would be left of the GGUF file and of this machine; because of the first, loading would ask for that file."""

_CHUNK = 1 << 22
"""Weights that are unpacked at once: 16 MiB in float32."""

_ROW = 1 << 15
"""Weights of a row as the library is given them; sixteen of these are 2 MiB in float32."""

_READING = threading.Lock()


class _Tensor(NamedTuple):
    """A tensor on its way: its name and shape in the finished file, where it is stored, heads to reorder by."""

    name: str
    shape: tuple[int, ...]
    stored: Any
    heads: int | None


def dequantise(gguf: Path, target: Path, report: Reporter) -> None:
    """Write ``target`` as a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load without the GGUF file.

    Args:
        gguf: the file to convert; ``llama``, ``qwen2`` and ``qwen3`` architectures.
        target: an existing, empty folder.
        report: progress.

    Raises:
        ModelError: the file is not sound, of another architecture, or lacks weights its architecture needs.
        OSError: the disk is full (``ENOSPC``).
    """
    from transformers import AutoConfig, AutoTokenizer

    report.say(f"{gguf.name}: unpacking to bfloat16, once; later starts skip this")
    with _damage_named(gguf.name):
        reader = _reader(gguf)
        architecture = str(reader.fields["general.architecture"].contents())
        if architecture not in _ARCHITECTURES:
            raise ModelError(
                f"{gguf.name} is of the architecture {architecture}, expected {' or '.join(_ARCHITECTURES)}; "
                "use the model's safetensors, by its hub id or from a folder"
            )
        _require_layers(reader, architecture)
        with _read_once(gguf, reader):
            config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
        tensors, class_name = _plan(gguf.name, reader, architecture, config)
    config.save_pretrained(target)
    tokenizer.save_pretrained(target)
    _rewrite(target / "config.json", architectures=[class_name], dtype="bfloat16")
    _rewrite(target / "tokenizer_config.json")
    size = sum(_bytes(tensor) for tensor in tensors)
    weights = target / "model.safetensors"
    try:
        with weights.open("wb") as output, report.bytes(f"{gguf.name} (unpacking)", size) as update:
            _write(output, tensors, update)
    except NotImplementedError as error:
        raise ModelError(f"{gguf.name} is quantised in a way that cannot be unpacked here ({error})") from error


@contextmanager
def _damage_named(file: str) -> Iterator[None]:
    """Name the file, whatever its readers stumble over: they check nothing, so damage has no errors of its own."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{file} is not a sound GGUF file ({type(error).__name__}: {error}); download it again and compare its "
            "SHA-256 with the one its publisher names"
        ) from error


def _reader(path: Path) -> Any:
    """A reader that stops where the file ends; left alone, it goes on through a damaged length for ever."""
    from gguf.gguf_reader import GGUFReader  # where it is defined: `_read_once` replaces the package's own name for it

    class Bounded(GGUFReader):  # type: ignore[misc]
        @property
        def data(self) -> NDArray[np.uint8]:
            return self._bytes

        @data.setter
        def data(self, mapped: NDArray[np.uint8]) -> None:
            # Mapped all the same; but every piece of a memmap is one, which takes ten times as long to make, and a
            # header is read in a million pieces.
            self._bytes = np.asarray(mapped)

        def _get(self, offset: int, dtype: Any, count: int = 1, *others: Any, **named: Any) -> Any:
            found = super()._get(offset, dtype, count, *others, **named)
            if len(found) < int(count):
                raise EOFError(
                    f"{int(count):,} values should stand at byte {int(offset):,}, expected no more than "
                    f"the {len(found):,} that the file has"
                )
            return found

    return Bounded(path)


@contextmanager
def _read_once(path: Path, reader: Any) -> Iterator[None]:
    """Hand the header as it was read to ``transformers``, which reads it twice more for configuration and tokenizer.

    Should it come by its reader in another way some day, it reads the header itself again and finds the same.
    """
    import gguf

    with _READING:  # the class is replaced for the whole process
        own = gguf.GGUFReader
        gguf.GGUFReader = lambda file, *rest: reader if Path(file) == path else own(file, *rest)
        try:
            yield
        finally:
            gguf.GGUFReader = own


def _require_layers(reader: Any, architecture: str) -> None:
    """The number of layers, before it is believed: with a damaged one, configurations of millions would be built."""
    named = int(reader.fields[f"{architecture}.block_count"].contents())
    held = len({tensor.name.split(".")[1] for tensor in reader.tensors if tensor.name.startswith("blk.")})
    if named != held:
        raise ValueError(f"its header names {named:,} layers, and it holds {held:,}")


def _plan(file: str, reader: Any, architecture: str, config: Any) -> tuple[list[_Tensor], str]:
    """Every weight the architecture has, with the tensor it comes from; and the name of the model's class."""
    import torch
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
    from transformers import AutoModelForCausalLM

    stored = {tensor.name: tensor for tensor in reader.tensors}
    with torch.device("meta"):  # names and shapes without any memory
        model = AutoModelForCausalLM.from_config(config)
    weights = model.state_dict()
    if config.tie_word_embeddings:
        del weights["lm_head.weight"]
    (number,) = (key for key, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(number, config.num_hidden_layers)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    tensors = []
    for name, weight in weights.items():
        stem, _, suffix = name.rpartition(".")
        source = f"{names.get_name(stem)}.{suffix}"
        if source not in stored:
            raise ModelError(f"{file} lacks {source}, which its architecture needs as {name}")
        tensor, shape = stored.pop(source), tuple(weight.shape)
        if tuple(int(length) for length in reversed(tensor.shape)) != shape:
            raise ModelError(f"{source} in {file} has the shape {tuple(reversed(tensor.shape))}, expected {shape}")
        pairs = heads.get(source.split(".")[-2]) if architecture == _PERMUTED else None
        tensors.append(_Tensor(name, shape, tensor, pairs))
    if stored:
        raise ModelError(f"{file} holds tensors that its architecture has no place for: {', '.join(sorted(stored))}")
    return tensors, type(model).__name__


def _bytes(tensor: _Tensor) -> int:
    return 2 * int(tensor.stored.n_elements)


def _write(output: IO[bytes], tensors: list[_Tensor], update: Update) -> None:
    """The safetensors format: length of the header, header, then the data without gaps."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + _bytes(tensor)
        header[tensor.name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data is aligned to eight bytes
    output.write(len(text).to_bytes(8, "little") + text)
    done = 0
    for tensor in tensors:
        for chunk in _unpacked(tensor):
            output.write(chunk)
            done += len(chunk)
            update(done)


def _unpacked(tensor: _Tensor) -> Iterator[bytes]:
    """The tensor's values in bfloat16, little-endian, in row order."""
    import torch

    data = tensor.stored.data  # (rows, bytes of a row), or (n,) float32
    rows = len(data) if tensor.heads is not None else max(1, _CHUNK // tensor.shape[-1])
    for start in range(0, len(data), rows):
        values = _values(data[start : start + rows], tensor.stored.tensor_type)
        if tensor.heads is not None:
            halves = values.reshape(tensor.heads, -1, 2, *tensor.shape[1:])
            values = halves.swapaxes(1, 2)
        whole = np.require(values, requirements=["C_CONTIGUOUS", "WRITEABLE"])
        yield torch.from_numpy(whole).to(torch.bfloat16).view(torch.uint8).numpy().tobytes()


def _values(data: NDArray[Any], kind: Any) -> NDArray[np.float32]:
    """The (n,) values of some rows.

    The library unpacks sixteen rows at a time, whatever their length. Blocks do not know of rows, so it is given rows
    of a length at which that is three times as fast.
    """
    from gguf import GGML_QUANT_SIZES, dequantize

    in_block, block_bytes = GGML_QUANT_SIZES[kind]
    if in_block == 1:
        unpacked: NDArray[np.float32] = dequantize(data, kind).ravel()
        return unpacked
    blocks = data.reshape(-1, block_bytes)
    together = max(1, _ROW // in_block)
    even = len(blocks) // together * together
    parts = [blocks[:even].reshape(-1, together * block_bytes), blocks[even:].reshape(1, -1)]
    return np.concatenate([dequantize(part, kind).ravel() for part in parts if part.size])


def _rewrite(path: Path, **changes: Any) -> None:
    """Take out what is not the model's and set ``changes``."""
    document = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in document.items() if key not in _NOT_OURS} | changes
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
