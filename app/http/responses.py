"""JSON responses and conditional requests (RFC 9110, section 13)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import orjson
from flask import Response, request

EVENT_STREAM = "text/event-stream"
_AGENT_TAG = re.compile(r"(?P<revision>[0-9]{1,10})(\.[0-9]{1,3})?")


def json_response(
    document: Any,
    *,
    etag: str | None = None,
    link: str | None = None,
    location: str | None = None,
) -> Response:
    """Build a 200 with ``document``; to a GET or HEAD, a 304 when ``If-None-Match`` names ``etag``.

    ``etag`` is the opaque tag without quotes and is sent as a strong validator. ``location`` is the
    path of the resource that a write's answer shows, sent as ``Content-Location``.
    """
    reading = request.method in ("GET", "HEAD")
    if etag is not None and reading and _none_match(etag):
        response = Response(status=304)
    else:
        response = Response(orjson.dumps(document), content_type="application/json")
    if etag is not None:
        response.headers["ETag"] = f'"{etag}"'
        if reading:
            # A stored copy may be used after asking whether it is still current.
            response.headers["Cache-Control"] = "no-cache"
    if link is not None:
        response.headers["Link"] = link
    if location is not None:
        response.headers["Content-Location"] = location
    return response


def event_stream(events: Iterable[tuple[str, Any]]) -> Response:
    """Build the answer that is a stream of events, each with its id and its document.

    The format is that of the HTML standard, section 9.2. No event has a type, so that whoever
    listens to messages sees all of them.
    """
    lines = (b"id: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(one)) for name, one in events)
    response = Response(b"".join(lines), content_type=EVENT_STREAM)
    # A proxy that gathers answers before it passes them on would keep events back (nginx's word).
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _none_match(etag: str) -> bool:
    header = request.headers.get("If-None-Match")
    if header is None:
        return False
    return header.strip() == "*" or request.if_none_match.contains_weak(etag)


def accepts_tag(etag: str) -> bool:
    """Tell whether ``If-Match``, if it is there, names the strong entity tag ``etag``."""
    header = request.headers.get("If-Match")
    return header is None or header.strip() == "*" or request.if_match.contains(etag)


def expected_revisions() -> frozenset[int] | None:
    """Return the revisions that ``If-Match`` accepts; None when it accepts any.

    An agent's strong entity tag is its revision number, then a dot and its trust's score if it has
    one. Trust changes what is shown but not what the agent's owner changes, so only the revision
    counts here. Anything else in the header, a weak tag included, matches no revision.
    """
    header = request.headers.get("If-Match")
    if header is None or header.strip() == "*":
        return None
    # Werkzeug gives None for an empty tag.
    tags = (_AGENT_TAG.fullmatch(tag or "") for tag in request.if_match.as_set())
    return frozenset(int(tag["revision"]) for tag in tags if tag)
