"""Where the parts of the lent reader lie, and how it is run: for who lends it and for who writes the pod."""

from __future__ import annotations

LOADER, LIBRARIES, PYTHON, READER = "loader", "lib", "bin/python3", "reader.py"
"""Where each lies in the directory."""
NOTHING = "nothing"
"""An empty file there: it stands over the image's ``/etc/ld.so.preload``, which names what every loader is to load."""


def command(directory: str, *arguments: str) -> list[str]:
    """How what was lent into ``directory`` is run."""
    python = [f"{directory}/{PYTHON}", "-I", "-S", "-B", "-X", "utf8", f"{directory}/{READER}"]
    return [f"{directory}/{LOADER}", "--library-path", f"{directory}/{LIBRARIES}", *python, *arguments]
