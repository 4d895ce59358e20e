"""What a downgrade may do: it goes down one track, and loses no data unless that track is named.

Alembic reads ``base``, ``-1`` and ``registry-1`` as something on every track, or on one that it
chooses. Here a target is taken only in the forms that name one track and no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic.util import CommandError

from app import scopes

FLAG = "allow-data-loss"
_STEPS = re.compile(r"-[0-9]+")
_RELATIVE = re.compile(r"(?:(?P<track>[a-z]+)@)?(?P<word>\w+)?(?P<steps>[+-][0-9]+)")


def track_of(target: str, tracks: Mapping[str, str]) -> str:
    """Return the one track that a downgrade to ``target`` touches.

    ``tracks`` tells the track of each revision. The target is ``TRACK@base``, ``TRACK@-N`` or a
    revision, with or without its track. Raises ``CommandError`` for any other.
    """
    known = list(dict.fromkeys(tracks.values()))
    label, named, place = target.rpartition("@")
    if not named and place in tracks:
        return tracks[place]
    if label in known and (place == "base" or _STEPS.fullmatch(place)):
        return label
    if label in known and place in tracks:
        if tracks[place] == label:
            return label
        raise CommandError(
            f"{place} is a revision of the track {tracks[place]}, not of {label};"
            " nothing was changed"
        )
    raise CommandError(f"{_reason(target, known)}; nothing was changed")


def _reason(target: str, known: Sequence[str]) -> str:
    """Say why a target is refused, and how to name what may have been meant."""
    if target == "base":
        each = ", ".join(f"alembic downgrade {track}@base" for track in sorted(known))
        return f"base would empty every track; write out each that is to go, one by one: {each}"
    relative = _RELATIVE.fullmatch(target)
    if relative and not relative["track"] and not relative["word"]:
        steps = relative["steps"].replace("+", "-")
        return f"{target} names no track; say which one goes down: alembic downgrade TRACK@{steps}"
    if relative and relative["word"] in known:
        track, steps = relative["word"], relative["steps"].replace("+", "-")
        return (
            f"{target} counts from the first revision of {track}, and what is below that is the"
            f" base of every track; for steps down one track: alembic downgrade {track}@{steps}"
        )
    return (
        f"{target!r} is no place on one track; name it as TRACK@REVISION, TRACK@-1 or TRACK@base,"
        f" where TRACK is {', '.join(sorted(known))}"
    )


def require_flag(flag: str | None, track: str) -> None:
    """Raise ``CommandError`` unless the flag, if it is given, names the track that goes down."""
    if flag is not None and flag != track:
        raise CommandError(
            f"{FLAG} names the one track that may lose data: -x {FLAG}={track}, not {flag};"
            " nothing was changed"
        )


def require_applied(track: str, target: str, heads: Iterable[str]) -> None:
    """Raise ``CommandError`` for a relative downgrade of a track the database lacks."""
    applied = {head.rpartition("_")[0] for head in heads}
    if track not in applied and not target.endswith("@base"):
        raise CommandError(f"the track {track} is not applied, so it cannot go down")


class DataLossGuard:
    """Refuse a downgrade step that drops a column or a table holding rows, unless told to.

    The command says so with ``-x allow-data-loss=TRACK``. Raising inside the hook rolls back the
    whole downgrade, the dropped objects included: DDL is transactional on both databases.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.again = ""
        self.columns: dict[str, set[str]] = {}

    def look(self, again: str) -> None:
        """Note the columns of every table that holds rows, in the transaction of the steps.

        ``again`` is the command line that is told to lose the data.
        """
        self.again = again
        self.columns = {
            table: columns
            for table, columns in self._reflect().items()
            if self.connection.scalar(
                sa.select(sa.literal(1)).select_from(sa.table(table)).limit(1)
            )
        }

    def _reflect(self) -> dict[str, set[str]]:
        inspector = sa.inspect(self.connection)
        inspector.clear_cache()
        return {
            table: {column["name"] for column in inspector.get_columns(table)}
            for table in inspector.get_table_names()
            if scopes.scope_of_table(table)
        }

    def __call__(self, *, ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
        if step.is_stamp or step.is_upgrade:
            return
        present = self._reflect()
        lost = [
            table if table not in present else f"{table}.{column}"
            for table, columns in sorted(self.columns.items())
            for column in sorted(columns - present.get(table, set()))
        ]
        if lost:
            raise CommandError(
                f"downgrade of {step.up_revision_id} would destroy the data in"
                f" {', '.join(dict.fromkeys(lost))}; nothing was changed. Take a backup, then"
                f" repeat with: {self.again}"
            )
