"""The command line: ``selvedge``, ``kubectl selvedge`` and ``python -m selvedge`` are this one program."""

from __future__ import annotations

from selvedge.cli.main import main

__all__ = ["main"]
