"""This interpreter and the reader of migration files, copied to where another image's container finds them.

An image of migrations has no Python, and often nothing at all but its files. The interpreter is taken with the dynamic
loader and the libraries that this process itself has mapped, so it runs in any root file system of the same processor.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate import image_reader
from selvedge.migrate.lent import LIBRARIES, LOADER, NOTHING, PYTHON, READER

_LOADER = re.compile(r"ld-(?:linux|musl)[-.\w]*\.so[.\d]*")
_LEFT_OUT = {"test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages"}


def lend(directory: Path) -> None:
    """Copy it all. Raises InvalidError where this Python is none that can be copied, OSError where nothing can be."""
    mapped = _mapped(Path("/proc/self/maps").read_text(encoding="utf-8"))
    loader = next((file for file in mapped if _LOADER.fullmatch(file.name)), None)
    if loader is None:
        raise InvalidError(Reason.UNSUPPORTED, "this Python has no dynamic loader, and cannot be lent to another image")
    libraries = directory / LIBRARIES
    standard = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(
        standard,
        libraries / standard.name,
        ignore=lambda _, names: [name for name in names if name in _LEFT_OUT or name == "__pycache__"],
        dirs_exist_ok=True,
    )
    for file in mapped:
        if ".so" in file.name and not file.is_relative_to(standard) and "site-packages" not in file.parts:
            for name in _names(file):
                shutil.copy(file, libraries / name)
    (directory / PYTHON).parent.mkdir(exist_ok=True)
    shutil.copy(os.path.realpath(sys.executable), directory / PYTHON)
    shutil.copy(loader, directory / LOADER)
    (directory / NOTHING).touch()
    shutil.copy(image_reader.__file__, directory / READER)


def _mapped(maps: str) -> list[Path]:
    """The files in a process's memory, each once."""
    found = dict.fromkeys(line.split(maxsplit=5)[5] for line in maps.splitlines() if "/" in line)
    return [Path(name) for name in found if name.startswith("/") and Path(name).is_file()]


def _names(library: Path) -> list[str]:
    """The names by which others ask for a library: its own, and those of the links that lead to it."""
    links = (other for other in library.parent.iterdir() if other.is_symlink() and ".so" in other.name)
    return [library.name, *(link.name for link in links if link.resolve() == library.resolve())]
