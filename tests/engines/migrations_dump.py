"""The schema of a shop's database as ``pg_dump`` writes it, with owners, rights, constraints, bodies and comments."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

from sandbox import tools

if TYPE_CHECKING:
    from tests.engines.migrations_support import Shop

# pg_dump writes another random word at each run
_RANDOM = re.compile(r"^\\(?:un)?restrict .*$", re.MULTILINE)


def dump(shop: Shop, *options: str) -> str:
    """The schema as pg_dump writes it; ``options`` are more of its own."""
    endpoint = shop.endpoint
    command = [tools.postgres_client() / "pg_dump", "--schema-only", *options]
    command += ["--dbname", endpoint.conninfo(shop.database, password=None)]
    environment = {**os.environ, "PGPASSWORD": endpoint.password}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    return _RANDOM.sub("", found.stdout)
