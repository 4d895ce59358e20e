"""Progress of long commands: a bar for people at a terminal, a line for each step elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Watch(Protocol):
    """Somebody who is told how work goes on."""

    def step(self, name: str, total: int | None = None) -> None:
        """Begin a step, of this many rows if it counts rows."""

    def advance(self, rows: int) -> None:
        """Tell that more rows of the step are done."""


class Silence:
    """Tells nobody."""

    def step(self, name: str, total: int | None = None) -> None:
        """Do nothing."""

    def advance(self, rows: int) -> None:
        """Do nothing."""


class Report:
    """Tells standard error, which leaves standard output to the result."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", visible=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def step(self, name: str, total: int | None = None) -> None:
        """Begin a step."""
        if not self._console.is_terminal:
            self._console.print(name if total is None else f"{name} ({total:,} rows)")
        self._bar.reset(self._task, description=name, total=total, visible=True)

    def advance(self, rows: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, rows)
