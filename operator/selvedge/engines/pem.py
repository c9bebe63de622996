"""Certificates and keys as files that are on no disk, for drivers that read them from a path only.

Each is an anonymous memory file, mode 0600, that this process opens as ``/proc/self/fd/N``: nothing is left behind by a
process that was killed, and a container without a writable directory will do. Equal texts share one file. A driver may
open it again at any time (libpq does where a statement is cancelled), so files outlive the call: the least recently
used are closed when there are many, and never while somebody still holds the path.
"""

from __future__ import annotations

import hashlib
import os
import resource
from collections import OrderedDict


class PemPath(str):
    """The path of an anonymous memory file; the file is closed when the last holder of the path lets go of it."""

    __slots__ = ("_fd",)
    _fd: int

    @classmethod
    def of(cls, pem: str) -> PemPath:
        """The path for this PEM text; the same text gives the same file."""
        key = hashlib.sha256(pem.encode()).digest()
        known = _files.get(key)
        if known is not None:
            _files.move_to_end(key)
            return known
        fd = os.memfd_create("selvedge-pem", os.MFD_CLOEXEC)
        os.fchmod(fd, 0o600)  # libpq refuses a key that others may read
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(pem.encode())
        path = cls(f"/proc/self/fd/{fd}")
        path._fd = fd
        _files[key] = path
        while len(_files) > _MOST_FILES:
            _files.popitem(last=False)
        return path

    def __del__(self) -> None:
        """Close the file: nobody can name it any more."""
        os.close(self._fd)


_files: OrderedDict[bytes, PemPath] = OrderedDict()

# Three for each server with certificates of its own; a quarter of what the process may open is left for them.
_MOST_FILES = max(64, min(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
