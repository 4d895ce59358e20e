"""The file of a snapshot: a tar archive of Zstandard-compressed JSON Lines, the manifest last.

Members are written and read as streams, so that no table has to fit into memory.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import orjson
import zstandard

from app.ops.snapshot.errors import SnapshotCorrupt, SnapshotRefused
from app.ops.snapshot.manifest import Content, Manifest, parse_manifest
from app.ops.snapshot.values import MAX_LINE, TOO_LONG

MANIFEST = "manifest.json"
LEVEL = 3
BUFFER = 1024 * 1024
# Four times what the level above needs: a file cannot make its reader take more memory.
MAX_WINDOW = 8 * 1024 * 1024
MAX_MANIFEST = 1024 * 1024
# Far more than there are tables; reading that many headers takes no time.
MAX_MEMBERS = 1000
# What other programs put before a member's header; it says nothing that is needed here.
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE)


def member_name(table: str) -> str:
    """Return the name of the member that holds a table's rows."""
    return f"tables/{table}.jsonl.zst"


class Writer:
    """Writes members to a file one after the other."""

    def __init__(self, file: BinaryIO, taken_at: float) -> None:
        self._file = file
        self._taken_at = int(taken_at)

    @contextmanager
    def member(self, name: str) -> Iterator[BinaryIO]:
        """Give a stream whose content becomes the member ``name``.

        A header comes first and holds the size, so it is written again when that is known.
        """
        begin = self._file.tell()
        self._file.write(bytes(tarfile.BLOCKSIZE))
        yield self._file
        end = self._file.tell()
        header = tarfile.TarInfo(name)
        header.size = end - begin - tarfile.BLOCKSIZE
        header.mode, header.mtime = 0o600, self._taken_at
        self._file.write(bytes(-end % tarfile.BLOCKSIZE))
        following = self._file.tell()
        self._file.seek(begin)
        self._file.write(header.tobuf(tarfile.GNU_FORMAT))
        self._file.seek(following)

    @contextmanager
    def table(self, name: str) -> Iterator[Callable[[bytes], object]]:
        """Give a function that adds lines to a table's member."""
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        with (
            self.member(member_name(name)) as file,
            compressor.stream_writer(file, closefd=False) as stream,
        ):
            yield stream.write

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest and the end of the archive."""
        with self.member(MANIFEST) as file:
            file.write(orjson.dumps(manifest.document(), option=orjson.OPT_INDENT_2) + b"\n")
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))


class _Part(io.RawIOBase):
    """The content of one member, read from the file of the archive."""

    def __init__(self, file: BinaryIO, begin: int, size: int) -> None:
        self._file = file
        self._place, self._end = begin, begin + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._place)
        content = self._file.read(min(len(buffer), self._end - self._place))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


def _read_headers(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an archive, none of which is larger than the file.

    ``tarfile`` itself takes as many as there are, and reads extended headers of any size.
    """
    end = file.seek(0, os.SEEK_END)
    place = 0
    for _ in range(MAX_MEMBERS):
        file.seek(place)
        try:
            header = tarfile.TarInfo.frombuf(
                file.read(tarfile.BLOCKSIZE), tarfile.ENCODING, "surrogateescape"
            )
        except tarfile.HeaderError:
            if place == 0:
                raise SnapshotCorrupt("the file is no snapshot") from None
            return
        header.offset_data = place + tarfile.BLOCKSIZE
        place = header.offset_data + header.size + -header.size % tarfile.BLOCKSIZE
        if header.size < 0 or place > end:
            raise SnapshotCorrupt("the file is cut off: it holds less than its headers say")
        if header.type not in _EXTENSIONS:
            yield header
    raise SnapshotCorrupt(f"the file holds more than {MAX_MEMBERS} members")


class Snapshot:
    """An opened snapshot; ``manifest`` is proven to be the one that was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        members = list(_read_headers(file))
        self._members = {member.name: member for member in members}
        manifest = self._members.pop(MANIFEST, None)
        if manifest is None:
            raise SnapshotCorrupt("there is no manifest: the file is cut off, or no snapshot")
        if not 0 < manifest.size <= MAX_MANIFEST:
            raise SnapshotCorrupt("the manifest is not one of a snapshot")
        self.manifest = parse_manifest(self._stream(manifest).read())
        names = [member_name(content.table.name) for content in self.manifest.contents]
        if sorted(names) != sorted(self._members) or len(members) != len(names) + 1:
            raise SnapshotCorrupt("the file does not hold the tables that its manifest names")

    def _stream(self, member: tarfile.TarInfo) -> IO[bytes]:
        if member.type != tarfile.REGTYPE:
            raise SnapshotCorrupt(f"{member.name} is no file")
        return io.BufferedReader(_Part(self._file, member.offset_data, member.size), BUFFER)

    def read_lines(self, content: Content) -> Iterator[bytes]:
        """Yield the rows of a table as lines of JSON.

        The lines are proven only by the end: ``SnapshotCorrupt`` is raised after the last one when
        they are not those that were written, so nothing may be done for good before. No line is
        longer than ``MAX_LINE``, and there are no more than the manifest says.
        """
        table = content.table.name
        stream = self._stream(self._members[member_name(table)])
        digest, rows = hashlib.sha256(), 0
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        lines = io.BufferedReader(decompressor.stream_reader(stream), BUFFER)
        try:
            while line := lines.readline(MAX_LINE + 1):
                rows += 1
                if len(line) > MAX_LINE:
                    raise SnapshotCorrupt(f"{table}, row {rows}: {TOO_LONG}")
                if rows > content.rows:
                    raise SnapshotCorrupt(f"{table}: the file holds more rows than {content.rows}")
                digest.update(line)
                yield line
        except zstandard.ZstdError as error:
            raise SnapshotCorrupt(f"{table}: the rows cannot be read: {error}") from None
        if rows != content.rows:
            raise SnapshotCorrupt(f"{table}: the file holds {rows} rows instead of {content.rows}")
        if digest.hexdigest() != content.sha256:
            raise SnapshotCorrupt(f"{table}: the rows are not those that were written")


@contextmanager
def open_snapshot(path: Path) -> Iterator[Snapshot]:
    """Open a snapshot for reading. Raises ``SnapshotRefused`` and ``SnapshotCorrupt``."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise SnapshotRefused(f"{path} cannot be read: {error.strerror}") from None
    with file:
        yield Snapshot(file)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file that has the name ``path`` once the block returns, and none if it raises.

    It is complete and on disk before it has the name, and only its owner may read it. Raises
    ``SnapshotRefused`` when the name is taken.
    """
    require_free(path)
    try:
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".partial"
        )
    except OSError as error:
        raise SnapshotRefused(f"{path} cannot be written: {error.strerror}") from None
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb", buffering=BUFFER) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(partial, path)
    except OSError as error:
        raise SnapshotRefused(f"{path} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def require_free(path: Path) -> None:
    """Raise ``SnapshotRefused`` when there is something of this name already."""
    if os.path.lexists(path):
        raise SnapshotRefused(f"{path} exists already; it is left as it is")


def publish(partial: Path, path: Path) -> None:
    """Give a complete file its name, which nobody may have taken meanwhile, for good."""
    try:
        os.link(partial, path)
    except FileExistsError:
        require_free(path)
    except OSError:
        # Not every file system has links; this one could overwrite a file of the same instant.
        require_free(path)
        partial.rename(path)
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
