"""How the supervisor and its clients talk: a line of JSON there, one back, on a Unix socket that only we can open."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET_NAME = "control.sock"
STATE_NAME = "state.json"
#: A program that imports much begins slowly where others keep the machine busy.
_START_SECONDS = 90.0
_POLL_SECONDS = 0.02


@contextmanager
def short_path(directory: Path) -> Iterator[str]:
    """The socket's path by way of a descriptor: a Unix socket's own path must not exceed 107 bytes."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)


def listen(directory: Path) -> socket.socket:
    """The supervisor's end of ``directory``'s socket."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    (directory / SOCKET_NAME).unlink(missing_ok=True)
    with short_path(directory) as path:
        server.bind(path)
    (directory / SOCKET_NAME).chmod(0o600)
    server.listen(64)
    return server


def is_running(directory: Path) -> bool:
    """True when a supervisor answers for ``directory``."""
    try:
        _connect(directory).close()
    except (OSError, FileNotFoundError):
        return False
    return True


def ask(directory: Path, verb: str, *, timeout: float = 180.0, **arguments: Any) -> dict[str, Any]:
    """Send one request and return its answer.

    Raises:
        SandboxError: no supervisor answers, or it says no.
    """
    try:
        connection = _connect(directory)
    except OSError as error:
        raise SandboxError(f"no sandbox runs in {directory}: start one with `python -m sandbox up`") from error
    with connection:
        connection.settimeout(timeout)
        try:
            connection.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
            answer = read_line(connection)
        except TimeoutError as error:
            raise SandboxError(
                f"the sandbox in {directory} did not answer `{verb}` in {timeout:.0f} s: see its supervisor.log"
            ) from error
        except (OSError, EOFError, ValueError) as error:
            raise SandboxError(
                f"the sandbox in {directory} ended while it was asked to {verb}: see its supervisor.log"
            ) from error
    if "error" in answer:
        raise SandboxError(answer["error"])
    return answer


def read_line(connection: socket.socket) -> dict[str, Any]:
    """One JSON object from a connection.

    Raises:
        EOFError: the other side closed it without a word.
        ValueError: it sent something else.
    """
    with connection.makefile("rb") as stream:
        line = stream.readline()
    if not line:
        raise EOFError("the other side sent nothing")
    answer: Any = json.loads(line)
    if not isinstance(answer, dict):
        raise TypeError("expected a JSON object")
    return answer


def wait_for_supervisor(directory: Path, still_starting: Any) -> None:
    """Wait until a supervisor answers; ``still_starting()`` false means that it ended instead.

    Raises:
        SandboxError: it ended, or does not answer in 90 s.
    """
    deadline = time.monotonic() + _START_SECONDS
    while not is_running(directory):
        if not still_starting() or time.monotonic() > deadline:
            raise SandboxError(f"the sandbox's supervisor did not start: see {directory / 'supervisor.log'}")
        time.sleep(_POLL_SECONDS)


def _connect(directory: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10)
    try:
        with short_path(directory) as path:
            connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection
