"""``safe-retrieval llm2vec``: an unsupervised teacher from a language model and texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safe_retrieval.cli._common import out, shown, stopped


def llm2vec(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The run; see docs/benchmarks.md.")],
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection.")] = False,
) -> None:
    """Train an LLM2Vec-style teacher, or go on with a run that was stopped; prints its folder.

    The folder is named as a teacher with llm2vec:FOLDER in a training configuration.
    """
    from safe_retrieval.training.llm2vec import load_llm2vec_config, train_llm2vec

    settings = load_llm2vec_config(config)
    try:
        folder = train_llm2vec(settings, offline=offline)
    except KeyboardInterrupt:
        raise stopped() from None
    out().print(shown(folder), markup=False, highlight=False, soft_wrap=True)
