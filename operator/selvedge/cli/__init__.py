"""The command line: ``selvedge`` and ``python -m selvedge``; ``kubectl selvedge`` is in :mod:`selvedge.cli.kubectl`."""

from __future__ import annotations

from selvedge.cli.main import main

__all__ = ["main"]
