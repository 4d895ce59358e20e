"""Which snapshots a folder holds, as their manifests tell."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from app.ops.snapshot.archive import open_snapshot
from app.ops.snapshot.errors import SnapshotRefused
from app.ops.snapshot.manifest import Manifest


@dataclass(frozen=True)
class Listed:
    """A file with its manifest, or the reason why it is no snapshot. ``size`` is in bytes."""

    name: str
    size: int
    manifest: Manifest | None
    problem: str | None

    @property
    def taken_at(self) -> datetime | None:
        """The instant that the snapshot shows."""
        return datetime.fromisoformat(self.manifest.taken_at) if self.manifest else None


def list_files(folder: Path) -> list[Path]:
    """Return the files of a folder that are named as snapshots (``*.snapshot``), newest first."""
    dated = []
    for path in folder.glob("*.snapshot"):
        try:
            found = path.stat()
        except OSError:
            # Somebody tidied up in the meantime.
            continue
        # Opening a pipe would wait for a writer.
        if stat.S_ISREG(found.st_mode):
            dated.append((found.st_mtime_ns, path))
    return [path for _, path in sorted(dated, reverse=True)]


def look_at(path: Path) -> Listed:
    """Read a snapshot's manifest. Only ``verify`` proves its rows."""
    try:
        size = path.stat().st_size
        with open_snapshot(path) as found:
            return Listed(path.name, size, found.manifest, None)
    except OSError as error:
        return Listed(path.name, 0, None, f"{path} cannot be read: {error.strerror}")
    except SnapshotRefused as error:
        return Listed(path.name, size, None, str(error))
