"""Telling the rest of this process what a committed write has changed, for those who wait for it.

A topic is a short name such as ``offers @acme:reader``. Other processes are not told; whoever waits
looks from time to time as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

Listener = Callable[[Collection[str]], None]
_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Have ``listener`` called with the topics of every commit, in the thread that committed."""
    _listeners.append(listener)


def tell(topics: Collection[str]) -> None:
    """Call every listener; a write that says so is committed by then."""
    for listener in _listeners:
        listener(topics)
