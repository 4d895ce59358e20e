"""What a process does before it ends in good order."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.util import Finalize


def at_exit(function: Callable[[], object]) -> None:
    """Have a function called when this process ends in good order, the last one given first.

    The handlers of ``atexit`` are not called in a process that ``multiprocessing`` forked, as the
    server's workers are; its own finalizers are, there and in any other process.
    """
    Finalize(None, function, exitpriority=0)
