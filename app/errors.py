"""Families of domain errors. They say what went wrong in the domain and know nothing of HTTP."""

from __future__ import annotations

from typing import Any, ClassVar


class DomainError(Exception):
    """A request the domain refuses.

    ``code`` is the stable word clients act on. ``settled`` says whether the refusal is an outcome
    of running the request: such an answer is stored under the request's idempotency key and
    replayed, while any other refusal leaves the key unused. ``keeps_effect`` marks a refusal that
    comes with a change of its own, which must not be undone: the clock has moved the state on.
    """

    code: ClassVar[str]
    settled: ClassVar[bool] = False
    keeps_effect: ClassVar[bool] = False

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members


class MalformedRequest(DomainError):
    """The request cannot be read at all."""


class Unauthenticated(DomainError):
    """The caller did not prove who it is."""


class Forbidden(DomainError):
    """The caller is known and may not do this."""


class Misdirected(DomainError):
    """The request is for somebody else."""


class NotFound(DomainError):
    """The thing named does not exist."""


class Conflict(DomainError):
    """The request ran and contradicts the present state."""

    settled = True


class Refused(DomainError):
    """The request ran and was refused because funds or the budget do not cover its cost."""

    settled = True


class KeyConflict(DomainError):
    """The idempotency key belongs to another request, or to one whose answer cannot be given.

    Where waiting helps, ``retry_after`` says how many seconds.
    """

    retry_after: ClassVar[int | None] = None


class PreconditionFailed(DomainError):
    """The caller's condition on the present state does not hold."""


class Invalid(DomainError):
    """The request can be read, and its content breaks a rule; ``errors`` lists every violation."""


class TooManyRequests(DomainError):
    """The caller asks too often; it may ask again after ``retry_after`` seconds."""

    def __init__(self, detail: str, *, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Unavailable(DomainError):
    """The service cannot answer now; the caller may try again after ``retry_after`` seconds."""

    retry_after: ClassVar[int] = 1


class Overtaken(Unavailable):
    """What a write was prepared for changed before it began, and again when it was repeated.

    A write that meets this is prepared anew, some times, before it is refused.
    """

    code = "overtaken"
