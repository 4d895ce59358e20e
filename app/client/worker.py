"""Any program as a worker: it gets a task's input on its standard input and prints the result.

The worker claims tasks of an agent and runs the program for each. It renews the lease meanwhile,
reports what the program meters, stops it when the task is called off or its budget is used up,
holds it while the requester is asked for more, and delivers what it printed.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any

from app.client.hub import Hub, HubError, JsonObject, Refused, segment
from app.config import client_environment
from app.ids import new_id

CLAIM_SECONDS = 5
IDLE_SECONDS = 2.0
LOOK_SECONDS = 0.2
# A task that is called off is noticed by the next sign of life.
MAX_BEAT_SECONDS = 10.0
# A program that is told to end has as long to do so.
END_SECONDS = 10.0
MAX_OUTPUT_BYTES = 1024 * 1024
MAX_REPORTS = 100
MAX_REASON = 2000
# The task is no longer this worker's, or has ended.
_GONE = {"lease_lost", "delegation_overdue", "budget_stopped", "delegation_not_found"}
_PAUSED = "pending_reauthorization"
# What Python's parser raises, the second for values that are nested too deeply.
_NO_JSON = (ValueError, RecursionError)

Tell = Callable[..., None]


class TaskLost(Exception):
    """The task is not this worker's any more; the message says why."""


class TaskFailed(Exception):
    """The program could not do the task; the message is the reason that the requester reads."""


@dataclass
class Worker:
    """Claims tasks of ``agent_id`` and runs ``command`` for each, in ``parallel`` threads.

    ``tell(event, delegation_id, **details)`` is told of everything. ``is_text`` delivers what the
    program prints as text, not as JSON. ``most`` ends the worker after so many tasks; with
    ``until_idle`` it ends as soon as no task waits.
    """

    hub: Hub
    agent_id: str
    command: Sequence[str]
    tell: Tell
    parallel: int = 1
    is_text: bool = False
    most: int | None = None
    until_idle: bool = False
    drain_seconds: float = 30.0
    stopping: threading.Event = field(default_factory=threading.Event)
    _stop_by: float = float("inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _claimed: int = 0
    _failure: Exception | None = None

    def stop(self) -> None:
        """Claim nothing more; tasks under way may go on for ``drain_seconds``."""
        if not self.stopping.is_set():
            self._stop_by = time.monotonic() + self.drain_seconds
            self.stopping.set()

    def run(self) -> None:
        """Work until told to stop. Raises ``HubError`` where the service refuses to give tasks."""
        threads = [threading.Thread(target=self._claim_on) for _ in range(self.parallel)]
        for thread in threads:
            thread.start()
        for thread in threads:
            # A join without a time would hold back signals.
            while thread.is_alive():
                thread.join(LOOK_SECONDS)
        if self._failure is not None:
            raise self._failure

    def _claim_on(self) -> None:
        try:
            while not self.stopping.is_set() and self._may_claim():
                task = self._claim()
                if task is not None:
                    Task(self, task).do()
                    continue
                self._give_back()
                if self.until_idle:
                    return
        except Exception as error:
            self._failure = self._failure or error
            self.stop()

    def _may_claim(self) -> bool:
        with self._lock:
            if self.most is not None and self._claimed >= self.most:
                return False
            self._claimed += 1
            return True

    def _give_back(self) -> None:
        with self._lock:
            self._claimed -= 1

    def _claim(self) -> JsonObject | None:
        wait = 0 if self.until_idle else CLAIM_SECONDS
        body = {"agent_id": self.agent_id, "wait_seconds": wait}
        try:
            return self.hub.write("POST", "/v1/delegations/claim", body)
        except Refused as refusal:
            if refusal.code == "no_task_offered":
                return None
            if not refusal.is_passing:
                raise
            self.tell("waiting", None, reason=refusal.message)
        except HubError as error:
            self.tell("waiting", None, reason=error.message)
        # The service is away or busy, as it was at every attempt.
        self.stopping.wait(IDLE_SECONDS)
        return None

    @property
    def has_to_end(self) -> bool:
        """Whether tasks under way have had the time that they get after a stop."""
        return time.monotonic() >= self._stop_by


class Task:
    """One task that was claimed: the program that does it, and the lease that has to be renewed."""

    def __init__(self, worker: Worker, task: JsonObject) -> None:
        self._worker = worker
        self._task = task
        self.id: str = task["delegation_id"]
        self._lease: str = task["lease_token"]
        self._status: str = task["status"]
        lease = _moment(task["lease_expires_at"]) - _moment(task["updated_at"])
        self._beat_seconds = min(MAX_BEAT_SECONDS, max(0.3, lease.total_seconds() / 3))
        self._next_beat = time.monotonic() + self._beat_seconds
        self._reports = 0
        self._errors_shown = 0
        self._unread = b""

    def do(self) -> None:
        """Do the task; whatever becomes of it is told."""
        self._tell("claimed", task_spec=self._task["task_spec"])
        try:
            output = self._run()
            self._deliver(output)
        except TaskFailed as failure:
            self._give_up(str(failure))
        except TaskLost as loss:
            self._tell("lost", reason=str(loss))

    def _tell(self, event: str, **details: Any) -> None:
        self._worker.tell(event, self.id, **details)

    def _run(self) -> Any:
        """Run the program to its end and return what it printed. Raises what ends the task."""
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as printed,
            tempfile.TemporaryFile() as complained,
        ):
            given.write(json.dumps(self._task.get("task_input")).encode())
            given.seek(0)
            reading, writing = os.pipe()
            os.set_blocking(reading, False)
            with open(reading, "rb", buffering=0) as meter:
                try:
                    process = self._start(given, printed, complained, writing)
                finally:
                    os.close(writing)
                try:
                    self._watch(process, meter, printed, complained)
                finally:
                    _end(process)
                    self._show_errors(complained)
            if process.returncode != 0:
                raise TaskFailed(_reason(process.returncode, complained))
            return self._read(printed)

    def _start(
        self, given: IO[bytes], printed: IO[bytes], complained: IO[bytes], meter: int
    ) -> subprocess.Popen[bytes]:
        environment = client_environment(
            AGENTHUB_TASK_ID=self.id,
            AGENTHUB_TASK_SPEC=self._task["task_spec"],
            AGENTHUB_TASK_CAPABILITY=self._task.get("capability_id") or "",
            AGENTHUB_TASK_BUDGET_USD=str(self._task["authorized_usd"]),
            # A file to write to, so that no program has to know of descriptors.
            AGENTHUB_TASK_METER=f"/dev/fd/{meter}",
        )
        try:
            return subprocess.Popen(  # noqa: S603 (the command that the worker's owner named)
                self._worker.command,
                stdin=given,
                stdout=printed,
                stderr=complained,
                env=environment,
                pass_fds=[meter],
                start_new_session=True,
            )
        except OSError as error:
            raise TaskFailed(f"the worker's program cannot be started: {error.strerror}") from None

    def _watch(
        self,
        process: subprocess.Popen[bytes],
        meter: IO[bytes],
        printed: IO[bytes],
        complained: IO[bytes],
    ) -> None:
        """Renew the lease and report use until the program has ended."""
        with selectors.DefaultSelector() as selector:
            selector.register(meter, selectors.EVENT_READ)
            while process.poll() is None:
                if selector.select(LOOK_SECONDS) and not self._report_on(process, meter):
                    # The program has closed it, and may go on without.
                    selector.unregister(meter)
                self._show_errors(complained)
                if time.monotonic() >= self._next_beat:
                    self._beat(process)
                if os.fstat(printed.fileno()).st_size > MAX_OUTPUT_BYTES:
                    raise TaskFailed(f"the result is larger than {MAX_OUTPUT_BYTES} bytes")
                if self._worker.has_to_end:
                    raise TaskLost("the worker was told to stop; another one takes the task over")
        while self._report_on(process, meter):
            pass

    def _report_on(self, process: subprocess.Popen[bytes], meter: IO[bytes]) -> bool:
        """Report what the program has metered since; False once there is nothing to read."""
        found = meter.read(65536)
        if found:
            self._unread += found
        *lines, self._unread = self._unread.split(b"\n")
        if not found and self._unread:
            lines, self._unread = [*lines, self._unread], b""
        events = [self._event(line) for line in lines if line.strip()]
        for start in range(0, len(events), MAX_REPORTS):
            self._meter(process, events[start : start + MAX_REPORTS])
        return bool(found)

    def _event(self, line: bytes) -> JsonObject:
        self._reports += 1
        event = None
        with suppress(*_NO_JSON):
            event = json.loads(line)
        if not isinstance(event, dict):
            shown = line[:100].decode(errors="replace")
            raise TaskFailed(f"the worker's program metered what is no JSON object: {shown}")
        number = self._lease.partition(".")[0]
        return {"event_id": f"worker-{number}-{self._reports}", **event}

    def _meter(self, process: subprocess.Popen[bytes], events: list[JsonObject]) -> None:
        answer = self._command("meter", events=events)
        cost = sum(one["cost_usd"] for one in answer["events"])
        self._tell("metered", cost_usd=round(cost, 6), actual_cost_usd=answer["actual_cost_usd"])
        self._heed(process, answer)

    def _beat(self, process: subprocess.Popen[bytes] | None) -> None:
        self._heed(process, self._command("heartbeat"))

    def _heed(self, process: subprocess.Popen[bytes] | None, answer: JsonObject) -> None:
        """Do what the service says: hold the program, let it go on, or end it."""
        self._next_beat = time.monotonic() + self._beat_seconds
        before, self._status = self._status, answer["status"]
        if answer.get("cancel_requested"):
            if process is not None:
                _end(process)
            self._command("cancel", reason="the worker has stopped")
            raise TaskLost("the requester called it off")
        if self._status not in ("in_progress", _PAUSED):
            raise TaskLost(f"it is {self._status} now")
        if self._status != before:
            paused = self._status == _PAUSED
            self._tell("paused" if paused else "resumed")
            if process is not None:
                _signal(process, signal.SIGSTOP if paused else signal.SIGCONT)

    def _show_errors(self, complained: IO[bytes]) -> None:
        """Pass on what the program has written to standard error since.

        The program writes at the offset of the file, which must not be moved.
        """
        while more := os.pread(complained.fileno(), 65536, self._errors_shown):
            self._errors_shown += len(more)
            sys.stderr.write(more.decode(errors="replace"))
        sys.stderr.flush()

    def _read(self, printed: IO[bytes]) -> Any:
        size = printed.seek(0, os.SEEK_END)
        if size > MAX_OUTPUT_BYTES:
            raise TaskFailed(f"the result is larger than {MAX_OUTPUT_BYTES} bytes")
        printed.seek(0)
        content = printed.read()
        try:
            text = content.decode()
            return text if self._worker.is_text else json.loads(text)
        except _NO_JSON:
            wanted = "UTF-8 text" if self._worker.is_text else "one JSON value"
            raise TaskFailed(f"the worker's program did not print {wanted}") from None

    def _deliver(self, output: Any) -> None:
        while True:
            try:
                answer = self._command("deliver", output=output)
            except Refused as refusal:
                status = refusal.problem.get("delegation_status")
                if refusal.code == "command_not_allowed" and status == _PAUSED:
                    # What is done is kept until the requester authorizes what it cost.
                    self._await_authorization()
                    continue
                raise TaskFailed(f"the result was refused: {refusal.message}") from None
            self._tell("delivered", actual_cost_usd=answer["actual_cost_usd"])
            return

    def _await_authorization(self) -> None:
        while self._status == _PAUSED:
            if self._worker.has_to_end:
                raise TaskLost("the worker was told to stop before its result was wanted")
            time.sleep(min(self._beat_seconds, IDLE_SECONDS))
            self._beat(None)

    def _give_up(self, reason: str) -> None:
        reason = reason[:MAX_REASON]
        try:
            self._command("fail", reason=reason)
        except (HubError, TaskLost) as error:
            reason = f"{reason} (and the service was not told: {error})"
        self._tell("failed", reason=reason)

    def _command(self, name: str, **members: Any) -> JsonObject:
        """Give a command with the lease, until the service has a final answer.

        Raises ``TaskLost``, and ``Refused`` for what is wrong.
        """
        body = {"lease_token": self._lease, **members}
        path = f"/v1/delegations/{segment(self.id)}/{name}"
        key = new_id()
        while True:
            try:
                return self._worker.hub.write("POST", path, body, key)
            except Refused as refusal:
                if not refusal.is_passing:
                    self._heed_refusal(name, refusal)
                    raise
                reason = refusal.message
            except HubError as error:
                reason = error.message
            # Whether the task is lost is for the service to say, once it answers again.
            self._tell("waiting", reason=reason)
            if self._worker.has_to_end:
                raise TaskLost("the worker was told to stop while the service was away")
            time.sleep(IDLE_SECONDS)

    def _heed_refusal(self, name: str, refusal: Refused) -> None:
        """Raise what a refusal says of the task, if it says anything."""
        if refusal.code in _GONE:
            raise TaskLost(refusal.message) from None
        if refusal.code == "command_not_allowed":
            status = refusal.problem.get("delegation_status")
            if status != _PAUSED:
                raise TaskLost(f"it is {status} now") from None
        elif name in ("meter", "heartbeat"):
            raise TaskFailed(f"{name} was refused: {refusal.message}") from None


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to the program and to all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program, and all that it started."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        _signal(process, signal.SIGCONT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
    _signal(process, signal.SIGKILL)
    process.wait()


def _reason(code: int, complained: IO[bytes]) -> str:
    """Return why a program failed: its last words, else how it ended."""
    size = os.fstat(complained.fileno()).st_size
    words = os.pread(complained.fileno(), 4096, max(0, size - 4096)).decode(errors="replace")
    last = next((line.strip() for line in reversed(words.split("\n")) if line.strip()), "")
    shown = "".join(one for one in last if one.isprintable())
    how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    return shown or f"the worker's program failed ({how})"
