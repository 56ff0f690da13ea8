"""A GGUF file, once, to a folder that loads in seconds: bfloat16 safetensors, configuration and tokenizer.

``transformers`` reads the file and knows how each architecture's tensors are named and permuted in it. What it then
holds is written here: its own ``save_pretrained`` refuses a model that was loaded from GGUF. The weights are in memory
once, in bfloat16, which is what using the model takes anyway.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

from safe_retrieval.errors import ModelError
from safe_retrieval.models.progress import Reporter

_NOT_OURS = ("quantization_config", "_name_or_path", "_model_name_or_path", "is_local", "local_files_only")
"""What would be left of the GGUF file and of this machine; because of the first, loading would ask for that file."""


def dequantise(gguf: Path, target: Path, report: Reporter) -> None:
    """Write ``target`` as a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load without the GGUF file.

    Args:
        gguf: the file to convert.
        target: an existing, empty folder.
        report: progress.

    Raises:
        ModelError: the file cannot be converted, or it lacks weights its architecture needs.
        OSError: the disk is full (``ENOSPC``).
    """
    import torch
    import transformers

    report.say(f"{gguf.name}: unpacking to bfloat16, once; later starts skip this")
    options: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    # Releases that can keep GGUF weights packed in memory do so unless told; older ones always unpack.
    packed = getattr(transformers, "GgufConfig", None)
    config = {} if packed is None else {"quantization_config": packed(dequantize=True)}
    try:
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.bfloat16, output_loading_info=True, **config, **options
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **options)
    except (ValueError, KeyError, NotImplementedError, RuntimeError, ImportError) as error:
        raise ModelError(f"{gguf.name} cannot be unpacked ({type(error).__name__}: {error})") from error
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:5])
        raise ModelError(f"{gguf.name} lacks weights that its architecture needs: {missing}")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(target)
    _save_weights(model, target / "model.safetensors")
    # The safetensors writer makes files for the owner alone; a cache may be shared, so the umask decides here too.
    (target / "model.safetensors").chmod((target / "config.json").stat().st_mode)
    tokenizer.save_pretrained(target)
    for name in ("config.json", "tokenizer_config.json"):
        _without_foreign_keys(target / name)


def _save_weights(model: Any, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight.data_ptr() == embeddings.weight.data_ptr():
        # Tied in memory, so one copy is kept and the loader ties them again. A GGUF that quantised the two
        # differently has both, and both are kept: they are not the same matrix any more.
        state.pop("lm_head.weight")
    try:
        save_file(state, path, metadata={"format": "pt"})
    except SafetensorError as error:
        if "os error 28" in str(error) or "No space left" in str(error):  # the writer hides the system's error number
            raise OSError(errno.ENOSPC, "No space left on device", str(path)) from error
        raise ModelError(f"{path.name} could not be written ({error})") from error


def _without_foreign_keys(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in document.items() if key not in _NOT_OURS}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
