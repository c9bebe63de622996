"""Running the command line: in this process, which spares a start of Python, or as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from click.testing import CliRunner

from selvedge.cli import main

_INHERITED = ("PATH", "HOME")


def selvedge(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, with nothing else in its environment, and nobody at its standard input."""
    hidden = {name: None for name in os.environ if name not in _INHERITED}
    result = CliRunner().invoke(main, list(arguments), env={**hidden, **environ})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


def process(*arguments: str, environ: dict[str, str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program as a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if name in _INHERITED}
    return subprocess.run(
        [sys.executable, "-m", "selvedge", *arguments],
        env={**inherited, **environ},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
