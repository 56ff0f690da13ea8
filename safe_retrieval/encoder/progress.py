"""One progress bar for everything that takes texts: rich, on stderr, only where there is something to wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

PROGRESS_FROM = 500
"""Number of items from which a bar is shown when the caller leaves the choice to us."""


@contextmanager
def progress_bar(total: int | None, description: str, *, show: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Yield ``advance(n)``, which moves a bar with rate and time left on stderr.

    Args:
        total: how many items there are; ``None`` where that is not known beforehand.
        description: what is being done, as shown left of the bar.
        show: whether to show it; ``None`` shows it from :data:`PROGRESS_FROM` items up (and for an unknown total).
    """
    if show is None:
        show = total is None or total >= PROGRESS_FROM
    if not show:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,}") if total is None else MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, rate="")

        def advance(count: int) -> None:
            progress.advance(task, count)
            if total is not None and progress.tasks[0].completed > total:
                progress.update(task, total=progress.tasks[0].completed)
            speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
            if speed:
                progress.update(task, rate=f"{speed:,.1f}/s")

        yield advance
        progress.update(task, total=progress.tasks[0].completed)  # known now, and an estimate may have been too high


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from drawing its own bars while it loads weights, which takes a second and says nothing."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
