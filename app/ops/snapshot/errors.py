"""What snapshots refuse."""


class SnapshotRefused(Exception):
    """A snapshot cannot be made or restored; the message says why. Nothing was changed."""


class SnapshotCorrupt(SnapshotRefused):
    """The file is not a snapshot, or not the one that was made."""
