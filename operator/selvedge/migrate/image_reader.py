"""Print the migration files of a directory, packed: the program that a pod runs in the root of somebody's image.

It stands alone, on Python's standard library: what is lent to the pod (:mod:`selvedge.cli.lend`) is an interpreter and
this file. A file that cannot be taken is an error and never left out, since it would be missed too late.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import posixpath
import stat
import sys
import tarfile
from collections.abc import Iterator

LARGEST = 8 * 1024 * 1024
"""Bytes that all files may have together."""
LARGEST_PACKED = 6 * 1024 * 1024
"""Bytes that they may have when they are packed: a node keeps 10 MiB of a container's log, and this is text."""
MOST = 10_000
"""Files."""
BEGIN, END = "selvedge-files", "selvedge-files end"

_METADATA = "metadata.toml"
_LINE = 4096


class ReadingError(Exception):
    """Why a directory cannot be taken, in a sentence for the status of a MigrationRun."""


def file_name(name: str) -> str:
    """The name of a migration file relative to its directory; empty for what is none, is hidden or lies elsewhere.

    Taken are names that end in .sql or .json, and Diesel's metadata.toml.
    """
    file = posixpath.normpath(name)
    parts = file.split("/")
    if file.startswith("/") or any(part.startswith(".") for part in parts):
        return ""
    return file if file.lower().endswith((".sql", ".json")) or parts[-1] == _METADATA else ""


def pack(directory: str) -> bytes:
    """The migration files of a directory and those below it, as a gzipped tar archive. Raises ReadingError."""
    packed = io.BytesIO()
    number = size = 0
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w|") as archive,
    ):
        for name, content in _files(directory):
            number, size = number + 1, size + len(content)
            if number > MOST or size > LARGEST:
                raise ReadingError(f"more than {MOST} files, or {LARGEST // 2**20} MiB: name a directory of its own")
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    if not number:
        raise ReadingError("there is no file that ends in .sql or .json: correct source.image.path")
    if packed.tell() > LARGEST_PACKED:
        raise ReadingError(
            f"the files have {packed.tell()} bytes when they are packed, and {LARGEST_PACKED} can be taken out of an "
            "image: load such data in another way"
        )
    return packed.getvalue()


def lines(packed: bytes) -> Iterator[str]:
    """What is printed: the size and sha256, base64 in lines of 4 KiB, and an end."""
    text = base64.b64encode(packed).decode()
    yield f"{BEGIN} {len(packed)} {hashlib.sha256(packed).hexdigest()}"
    yield from (text[start : start + _LINE] for start in range(0, len(text), _LINE))
    yield END


def _files(directory: str) -> Iterator[tuple[str, bytes]]:
    def failed(error: OSError) -> None:
        raise _unreadable(directory, error) from None

    for where, directories, names in os.walk(directory, onerror=failed):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(where, name)  # noqa: PTH118 - a path of an image, as text from beginning to end
            file = file_name(os.path.relpath(path, directory))
            if file:
                yield file, _content(path, file)


def _content(path: str, file: str) -> bytes:
    try:
        # a link could lead out of the image's directory, and a pipe has no end
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise ReadingError(f"{file} is a symbolic link: put the file itself into the image") from None
        raise _unreadable(file, error) from None
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ReadingError(f"{file} is no regular file: remove it")
        return opened.read(LARGEST + 1)


def _unreadable(what: str, error: OSError) -> ReadingError:
    step = "let everybody read it (chmod a+rX)" if isinstance(error, PermissionError) else "correct source.image.path"
    return ReadingError(f"{what} cannot be read ({error.strerror}): {step}")


def main(arguments: list[str]) -> int:
    """Print the files of the one directory that is named; returns the exit status."""
    try:
        found = list(lines(pack(arguments[0])))
    except ReadingError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
