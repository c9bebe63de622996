"""Free ports on 127.0.0.1."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sandbox.errors import PortTakenError, SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable

LOOPBACK = "127.0.0.1"
_LOWEST = 10_000
_ATTEMPTS = 50
_RETRIES = 5

T = TypeVar("T")


def free_port() -> int:
    """A port that nothing listens on now.

    Below the range from which the kernel takes the ports of outgoing connections, where there is room: a server that
    is stopped for a while would otherwise find its port used by a client, or a client that retries would connect to
    itself.

    Raises:
        SandboxError: no port is free.
    """
    highest = _ephemeral_start() - 1
    for _ in range(_ATTEMPTS if highest > _LOWEST else 0):
        port = random.randint(_LOWEST, highest)
        if _is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def on_free_port(start: Callable[[int], T], port: int = 0) -> T:
    """``start(port)`` with a free port; with another one if somebody was faster. A ``port`` that is given is kept.

    Raises:
        PortTakenError: the given port is taken.
        SandboxError: five ports in a row were taken, or what ``start`` raises.
    """
    if port:
        if not _is_free(port):
            message = (
                f"port {port} is taken: stop the program that listens on {LOOPBACK}:{port}, or choose another port"
            )
            raise PortTakenError(message)
        return start(port)
    for _ in range(_RETRIES):
        try:
            return start(free_port())
        except PortTakenError:
            continue
    raise SandboxError(f"{_RETRIES} free ports in a row were taken before they could be used: try again")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def _ephemeral_start() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 32_768
