"""``rootfs.py base|selvedge VENV ROOTFS``: lays out the image's layers as directories of ROOTFS.

``base`` makes ``python``, of the machine's Debian only the interpreter, its standard library and the shared libraries
that these and the packages in VENV load, with certificates, licences and the packages' records, which scanners read;
and ``libraries``, which is VENV. ``selvedge`` makes the directory of that name: what came into VENV after that.
Part of the image's build (Dockerfile); needs nothing but the standard library and dpkg.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

_USER = 65532
#: Of the standard library: what needs a terminal, a display or a compiler, or tests Python itself.
_NOT_USED = (
    "config-3*",
    "dbm",
    "distutils",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "test",
    "tkinter",
    "turtle*",
    "venv",
    "sitecustomize.py",
    "curses",
    "sqlite3",
    "lib-dynload/_codecs_[chijkt]*",
    "lib-dynload/_ctypes_test*",
    "lib-dynload/_curses*",
    "lib-dynload/_dbm*",
    "lib-dynload/_gdbm*",
    "lib-dynload/_sqlite3*",
    "lib-dynload/_test*",
    "lib-dynload/_tkinter*",
    "lib-dynload/_xx*",
    "lib-dynload/audioop*",
    "lib-dynload/nis*",
    "lib-dynload/ossaudiodev*",
    "lib-dynload/readline*",
    "lib-dynload/xx*",
)
#: Loaded by name while a program runs, so that no program says that it needs them.
_BY_NAME = ("libgcc_s.so.1",)
#: Owners of what their installation makes, and of which no file is copied as it is.
_OWNERS = frozenset({"ca-certificates"})
_FILES = (
    "/etc/debian_version",
    "/etc/os-release",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/openssl.cnf",
    "/usr/lib/os-release",
    "/usr/lib/ssl/openssl.cnf",
)
_WRITTEN = {
    "etc/passwd": f"root:x:0:0:root:/root:/sbin/nologin\nselvedge:x:{_USER}:{_USER}:selvedge:/:/sbin/nologin\n",
    "etc/group": f"root:x:0:\nselvedge:x:{_USER}:\n",
    # names that the kubelet writes into /etc/hosts win over the cluster's name server
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def main(what: str, venv: Path, rootfs: Path) -> int:
    """Make the directories of ``base`` or ``selvedge``; the exit status."""
    if what == "base":
        _python(venv, rootfs / "python")
        parts = {"libraries": frozenset[Path]()}
    else:
        there = rootfs / "libraries"
        parts = {"selvedge": frozenset(Path("/", path.relative_to(there)) for path in there.rglob("*"))}
    for part, known in parts.items():
        for path in sorted(venv.rglob("*")):
            is_directory = path.is_dir() and not path.is_symlink()
            if not is_directory and path not in known and "__pycache__" not in path.parts:
                _copy(path, rootfs / part)
        _compile(rootfs / part, venv)
    for part in ("python", *parts) if what == "base" else parts:
        files = [path for path in (rootfs / part).rglob("*") if path.is_file() and not path.is_symlink()]
        print(f"{sum(path.stat().st_size for path in files) / 1e6:8.2f} MB  {len(files):5} files  {part}")
    return 0


def _python(venv: Path, root: Path) -> None:
    for name in ("bin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    program = Path("/usr/bin/python3").resolve()
    library = Path(sysconfig.get_path("stdlib"))
    files = [Path("/usr/bin/python3"), program, *_standard_library(library)]
    loaded = [program, *(path for path in files if ".so" in path.suffixes), *venv.rglob("*.so"), *venv.rglob("*.so.*")]
    loaded += (venv / "bin").iterdir()
    files += sorted(_libraries(loaded)) + [path for path in map(Path, _FILES) if path.exists()]
    for path in files:
        _copy(path, root)
    _compile(root, library)
    for name, text in _WRITTEN.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    for package in sorted(_packages(files) | _OWNERS):
        _record(package, root)


def _standard_library(library: Path) -> Iterator[Path]:
    left_out = {path for pattern in _NOT_USED for path in library.glob(pattern)}
    for directory, names, files in os.walk(library):
        here = Path(directory)
        names[:] = sorted(name for name in names if name != "__pycache__" and here / name not in left_out)
        yield from (path for name in sorted(files) if (path := here / name) not in left_out and path.exists())


def _libraries(programs: Iterable[Path]) -> set[Path]:
    """The shared libraries outside of VENV that ``programs`` load, and the loader.

    Raises:
        SystemExit: one of them is not there.
    """
    found: set[Path] = set()
    for program in programs:
        # a library that lies beside its program in a wheel is found by the program's own path
        text = _output("ldd", str(program), check=False)
        if "not found" in text:
            raise SystemExit(f"{program} needs what is not there:\n{text}")
        found.update(Path(path) for path in re.findall(r"(/\S+) \(0x", text))
    directory = next(path.parent for path in found if path.name == "libc.so.6")
    found.update(directory / name for name in _BY_NAME)
    return {path for path in found if not path.is_relative_to("/opt")}


def _copy(path: Path, root: Path) -> None:
    """Copy into ``root``, links as links, with what they point to."""
    parent = path.parent.resolve()
    target = root / (parent / path.name).relative_to("/")
    if target.is_symlink() or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = parent / path.name
    shutil.copy2(source, target, follow_symlinks=False)
    if source.is_symlink() and not path.is_relative_to("/opt"):
        _copy(source.parent / source.readlink(), root)


def _compile(root: Path, directory: Path) -> None:
    """Byte code for everything: the root is read-only, so that without it each start would compile anew.

    It is never compared with its source, which saves a look at the disk for each module and makes it reproducible.
    """
    there = root / directory.relative_to("/")
    done = compileall.compile_dir(
        there,
        quiet=1,
        stripdir=str(root),
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        rx=re.compile(r"/bad_coding|/badsyntax"),
    )
    if not done:
        raise SystemExit(f"{there} could not be compiled")


def _packages(files: Iterable[Path]) -> set[str]:
    """The Debian packages that own ``files``; a library may be listed below /lib or below /usr/lib."""
    names: set[str] = {str(path) for path in files}
    names |= {str(path.resolve()) for path in files}
    names |= {name.removeprefix("/usr") for name in names}
    text = _output("dpkg-query", "--search", *sorted(names), check=False)
    return {
        name for line in text.splitlines() for name in line.rpartition(": ")[0].split(", ") if "diversion" not in line
    }


def _record(package: str, root: Path) -> None:
    """The package's record, where scanners look for it, and its licence."""
    name = package.partition(":")[0]
    text = _output("dpkg-query", "--status", package)
    path = root / "var/lib/dpkg/status.d" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    licence = Path("/usr/share/doc", name, "copyright")
    if licence.exists():
        _copy(licence.resolve(), root)
        if licence.parent.is_symlink():
            _copy(licence.parent, root)


def _output(*command: str, check: bool = True) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=check).stdout  # noqa: S603 - ours alone


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
