"""Progress of long work on stderr: a bar on a terminal, a few lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

Update = Callable[[int], None]
"""Called with the number of bytes done so far."""


def _ignore(_done: int) -> None:
    """Show nothing."""


class Reporter:
    """Says on stderr what is going on; silent where it is not ``enabled``."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._console = Console(stderr=True)

    def say(self, message: str) -> None:
        """Write one line."""
        if self.enabled:
            self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def bytes(self, title: str, total: int) -> Iterator[Update]:
        """A bar for ``total`` bytes; where stderr is not a terminal, one line each quarter."""
        if not self.enabled:
            yield _ignore
        elif not self._console.is_terminal:
            yield self._quarters(title, total)
        else:
            columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            with Progress(TextColumn("{task.description}"), *columns, console=self._console) as progress:
                task = progress.add_task(title, total=total)
                yield lambda done: progress.update(task, completed=done)

    def _quarters(self, title: str, total: int) -> Update:
        shown = 0

        def update(done: int) -> None:
            nonlocal shown
            quarter = 4 * done // max(total, 1)
            if quarter > shown:
                shown = quarter
                self.say(f"{title}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

        return update
