"""What delegations must do, said a second time and as simply as possible.

The model holds balances and tasks in plain integers of micro-USD and knows nothing of databases,
HTTP or concurrency. The state machine in ``test_machine.py`` holds the service to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

CLOSED = ("completed", "failed_hard_stop", "failed", "declined", "expired", "cancelled")
OK, REFUSED, LATE = 200, 409, 409
DAY = timedelta(days=1)
LEAST_REVIEW = timedelta(hours=1)


@dataclass
class Task:
    """One delegation as the model sees it."""

    inline: bool
    authorized: int
    maximum: int
    auto: bool
    review: timedelta
    due: datetime
    held: int = 0
    metered: int = 0
    charged: int = 0
    released: int = 0
    status: str = "offered"
    settlement: str = "open"
    deadline: datetime | None = None
    lease_end: datetime | None = None
    cancel_at: datetime | None = None
    silent_takeovers: int = 0
    seen: set[str] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        return self.status not in CLOSED

    @property
    def is_settled(self) -> bool:
        return self.settlement == "settled"

    @property
    def charge(self) -> int:
        return min(self.metered, self.held)


@dataclass
class Model:
    """Two agents' money, and the tasks that the payer gave the worker."""

    now: datetime
    payer: int = 0
    worker: int = 0
    tasks: dict[str, Task] = field(default_factory=dict)

    def total(self) -> int:
        """Return all money that is somewhere."""
        return (
            self.payer
            + self.worker
            + sum(task.held - task.released for task in self.tasks.values() if not task.is_settled)
        )

    def end(self, task: Task, status: str) -> None:
        """End work that nobody accepted: the requester may contest what was metered."""
        if task.inline or not task.charge:
            self.close(task, status, task.charge)
            return
        task.status, task.settlement = status, "in_review"
        task.released = task.held - task.charge
        self.payer += task.released
        task.due = self.now + max(task.review, LEAST_REVIEW)

    def close(self, task: Task, status: str, charge: int) -> None:
        """Settle a task: the charge to the worker, the rest back."""
        self.worker += charge
        self.payer += task.held - task.released - charge
        task.status, task.settlement, task.charged = status, "settled", charge

    def lapse(self, task: Task, *, sweeping: bool = False) -> bool:
        """Let the clock act; True if it did. Only the sweeper reminds of a dispute for good."""
        if task.is_settled or self.now < self.due(task):
            return False
        if task.settlement == "disputed":
            if sweeping:
                task.due = self.now + 7 * DAY
            return sweeping
        if task.settlement == "in_review":
            status = "completed" if task.status == "delivered" else task.status
            self.close(task, status, task.charge)
        elif task.status in ("offered", "pending_reauthorization", "input_required"):
            self.end(task, "expired")
        elif task.cancel_at is not None and self.due(task) == task.cancel_at:
            self.end(task, "cancelled")
        else:
            self.end(task, "failed")
        return True

    def due(self, task: Task) -> datetime:
        """Return when the clock acts on a task that is not settled."""
        if task.status != "in_progress":
            return task.due
        assert task.deadline is not None
        assert task.lease_end is not None
        grace = timedelta(seconds=0 if task.silent_takeovers == 3 else 120)
        clocks = [task.deadline, task.lease_end + grace]
        return min([*clocks, task.cancel_at] if task.cancel_at else clocks)

    def add_cost(self, task: Task, cost: int) -> str:
        """Meter one cost on a task that takes it: ``go``, ``pause`` or ``stop``."""
        task.metered += cost
        if task.metered * 100 >= task.authorized * 120:
            return "stop"
        if task.metered >= task.authorized and task.status != "pending_reauthorization":
            more = max(0, min(task.metered, task.maximum) - task.held)
            if not task.auto or more > self.payer:
                task.status = "pending_reauthorization"
                return "pause"
            self.payer -= more
            task.held += more
        return "go"
