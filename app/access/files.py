"""Files that hold a secret."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from app import ids


def write_secret(path: Path, secret: str, *, replace: bool) -> None:
    """Write a file that nobody but its owner reads, complete the moment its name exists.

    A file that is there already stays as it is unless ``replace`` is true. Raises ``OSError``.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{ids.new_key_id()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            with suppress(FileExistsError):
                os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
