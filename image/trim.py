"""``trim.py VENV``: takes out of a virtual environment what the operator never loads, and says what each part weighed.

Part of the image's build (Dockerfile); needs nothing but the standard library. A file that goes also leaves its
package's RECORD, so that the packages still describe themselves truly.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from pathlib import Path

#: Patterns below site-packages, what must stay of them, and why the rest may go.
PARTS: tuple[tuple[str, frozenset[str], str], ...] = (
    ("kubernetes/client/models/*.py", frozenset({"__init__.py"}), "typed models: the operator reads plain JSON"),
    ("kubernetes/aio/client/models/*.py", frozenset({"__init__.py"}), "typed models: the operator reads plain JSON"),
    ("kubernetes/client/api/*.py", frozenset({"__init__.py"}), "one method for each call of the API: not used"),
    ("kubernetes/aio/client/api/*.py", frozenset({"__init__.py"}), "one method for each call of the API: not used"),
    ("pygments/lexers/*.py", frozenset({"__init__.py", "_mapping.py", "python.py"}), "languages of no traceback"),
    ("tzdata/zoneinfo/**/*", frozenset({"UTC", "__init__.py", "zone.tab", "iso3166.tab"}), "times are kept in UTC"),
    ("**/tests/**/*", frozenset(), "the libraries' own tests"),
    ("**/*.pyi", frozenset(), "stubs for type checkers"),
    ("**/*.pyx", frozenset(), "sources of compiled modules"),
    ("**/*.pxd", frozenset(), "sources of compiled modules"),
    ("**/*.c", frozenset(), "sources of compiled modules"),
    ("**/*.h", frozenset(), "sources of compiled modules"),
)


def main(venv: Path) -> int:
    """Trim ``venv``; the exit status."""
    (packages,) = venv.glob("lib/python3*/site-packages")
    # the libraries' own commands, and what people use in a shell; a linter is a program that the operator calls
    gone = {path for path in (venv / "bin").iterdir() if not path.name.startswith(("python", "squawk"))}
    for path in gone:
        path.unlink()
    for pattern, kept, why in PARTS:
        files = [path for path in packages.glob(pattern) if path.is_file() and path.name not in kept]
        size = sum(path.stat().st_size for path in files)
        for path in files:
            path.unlink()
        gone.update(files)
        print(f"{size / 1e6:8.2f} MB  {pattern}: {why}")
    for directory in sorted((path for path in packages.rglob("*") if path.is_dir()), reverse=True):
        if not any(directory.iterdir()):
            directory.rmdir()
    for record in packages.glob("*.dist-info/RECORD"):
        _forget(record, packages, gone)
    return 0


def _forget(record: Path, packages: Path, gone: set[Path]) -> None:
    rows = list(csv.reader(io.StringIO(record.read_text(encoding="utf-8"))))
    left = [row for row in rows if Path(os.path.normpath(packages / row[0])) not in gone]
    if len(left) != len(rows):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(left)
        record.write_text(text.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
