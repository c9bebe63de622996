"""Which of several operators answers for a DatabaseServer, and with it for everything on that server; pure.

A server is never divided: its databases, logins and runs wake each other, and its connections are one budget.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

#: More than anybody needs: each shard watches every resource, so many of them cost the API server more than they save.
MOST = 64

_TEXT = re.compile(r"(\d{1,3})/(\d{1,3})")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of ``count`` parts of all DatabaseServers, counted from 0."""

    index: int
    count: int

    def __post_init__(self) -> None:
        """Check the two numbers. Raises ValueError, with what to write."""
        if not 1 <= self.count <= MOST or not 0 <= self.index < self.count:
            raise ValueError(f"write INDEX/COUNT with a count from 1 to {MOST} and an index below it, such as 0/3")

    def __str__(self) -> str:
        """As it is written in the settings."""
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard | None:
        """From ``0/3``; None for ``0/1``, since one part is the whole. Raises ValueError, with what to write."""
        match = _TEXT.fullmatch(text)
        shard = cls(int(match[1]), int(match[2])) if match else cls(-1, 1)
        return shard if shard.count > 1 else None

    def owns(self, namespace: str, name: str) -> bool:
        """Whether the DatabaseServer ``namespace/name``, there or not, belongs to this part."""
        return shard_of(namespace, name, self.count) == self.index


@lru_cache(maxsize=65536)
def shard_of(namespace: str, name: str, count: int) -> int:
    """The part, from 0 to ``count`` - 1, to which a DatabaseServer belongs: the same in every process and version.

    Jump consistent hashing (Lamping and Veach, 2014): of n parts each gets the n-th part of the servers, and with one
    part more a server stays where it is or goes to the new one.
    """
    # A namespace and a name hold no slash. Not hash(): that is another one in each process.
    state = int.from_bytes(hashlib.sha256(f"{namespace}/{name}".encode()).digest()[:8], "big")
    chosen, jump = -1, 0
    while jump < count:
        chosen = jump
        state = (state * 2862933555777941757 + 1) % 2**64
        jump = int((chosen + 1) * (2**31 / ((state >> 33) + 1)))
    return chosen
