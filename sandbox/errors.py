"""What can go wrong in the sandbox: always one sentence that says what to do."""

from __future__ import annotations


class SandboxError(Exception):
    """The sandbox cannot do what was asked; the message is one sentence and names the next step."""


class PortTakenError(SandboxError):
    """A server found its port in use; a port that the sandbox itself chose is simply chosen again."""
