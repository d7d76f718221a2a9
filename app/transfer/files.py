"""The contents of an import file: as it is, out of gzip, or out of a ZIP archive, each within bounds.

Nothing is written to disk, and nothing of an archive is read but files with the names of known exports.
"""

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from gzip import BadGzipFile, GzipFile
from io import SEEK_END, FileIO
from pathlib import Path
from typing import IO

GZIP = b"\x1f\x8b"
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
BOM = b"\xef\xbb\xbf"

MOST_BYTES = 1024**3
"""Bytes that are read of a file, once unpacked."""

MOST_ENTRIES = 20_000
"""Files in an archive. Exports hold every picture that was sent."""

MOST_DIRECTORY_BYTES = 4 * 1024**2
"""Bytes of an archive's table of contents, and of any single read of the archive."""

MOST_RATIO = 200
"""Unpacked bytes for each packed one. JSON of conversations seldom exceeds 20."""

RATIO_FROM = 1024**2
"""Unpacked bytes from which the ratio counts. A small file can repeat itself."""

CHUNK = 256 * 1024

NAMES = "conversations.json, conversations-000.json, …, and *.jsonl"

_KNOWN = re.compile(r"(?:(?!\.\.?/)[^/\\:]+/)?(?:conversations(?:-\d+)?\.json|[^/\\:]+\.jsonl)")


class Unreadable(Exception):
    """The file cannot be read, or exceeds a bound. Says why, as the end of a sentence."""


def documents(path: Path, most_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield the JSON or JSONL documents of a file: the name of each within an archive, and its bytes.

    Raises:
        Unreadable: the file cannot be read or unpacked, is larger than `most_bytes`, or holds no known export.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if head.startswith(ZIP):
            yield from _archived(path, most_bytes)
            return
        packed = path.stat().st_size
        with GzipFile(path) if head.startswith(GZIP) else path.open("rb") as content:
            raw = _read(content, packed, most_bytes)
        yield "", raw.removeprefix(BOM)
    except (OSError, EOFError, zlib.error, BadGzipFile, zipfile.BadZipFile) as error:
        raise Unreadable(f"it cannot be read: {error}") from error


class _Archive(FileIO):
    """A file of which no more than `MOST_DIRECTORY_BYTES` are read at once: `zipfile` reads its directory whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            place = self.tell()
            size = self.seek(0, SEEK_END) - place
            self.seek(place)
        if size > MOST_DIRECTORY_BYTES:
            raise Unreadable(f"its table of contents has more than {MOST_DIRECTORY_BYTES:,} bytes")
        return super().read(size)


def _archived(path: Path, most_bytes: int) -> Iterator[tuple[str, bytes]]:
    with _Archive(path) as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len(entries) > MOST_ENTRIES:
            raise Unreadable(f"it holds more than {MOST_ENTRIES:,} files. Unpack it, and import its conversations.json")
        found = [entry for entry in entries if _KNOWN.fullmatch(entry.filename)]
        if not found:
            raise Unreadable(f"none of its files is a known export ({NAMES})")
        (name, times) = Counter(entry.filename for entry in found).most_common(1)[0]
        if times > 1:
            raise Unreadable(f"it holds {shown(name)} {times} times")
        for entry in sorted(found, key=lambda each: each.filename):
            if entry.flag_bits & 1:
                raise Unreadable(f"{shown(entry.filename)} is encrypted. Unpack it first")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Unreadable(f"{shown(entry.filename)} is packed by another method than 'deflate'. Unpack it first")
            with archive.open(entry) as content:
                raw = _read(content, entry.compress_size, most_bytes)
            most_bytes -= len(raw)
            yield entry.filename, raw.removeprefix(BOM)


def _read(content: IO[bytes] | GzipFile, packed: int, most_bytes: int) -> bytes:
    """Read to the end, piece by piece: what a file claims about its size is not relied on."""
    raw = bytearray()
    while piece := content.read(CHUNK):
        raw += piece
        if len(raw) > most_bytes:
            raise Unreadable("it has more bytes than --max-bytes allows, once unpacked. Split it, or raise --max-bytes")
        if len(raw) > RATIO_FROM and len(raw) > MOST_RATIO * packed:
            raise Unreadable(f"it unpacks to more than {MOST_RATIO} times its size. Unpack it first if it is yours")
    return bytes(raw)


def shown(name: str) -> str:
    """Return a name out of a file as it may be printed: short, and without control characters."""
    printable = "".join(character if character.isprintable() else "�" for character in name[:80])
    return f"{printable}…" if len(name) > 80 else printable
