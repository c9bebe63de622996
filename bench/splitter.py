"""Splitting scripts into statements: megabytes a second, beside postgast's parser and scanner on the same texts.

Nothing of it needs a server.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from typing import Any

import postgast

from bench.results import machine, spread, write
from selvedge.migrate import load
from selvedge.migrate.splitter import split
from tests.migrations_generator import generate

Figures = dict[str, Any]
_BYTES = 3_000_000
_ROUNDS = 7
_BUDGET_SECONDS = 1.0


def measure(scale: float = 1.0) -> None:
    """Texts of 3 MB of three kinds; writes splitter.json."""
    facts, figures = machine(), {}
    for name, text in _texts(int(_BYTES * scale)).items():
        figures[name] = {
            "megabytes": round(len(text.encode()) / 1e6, 2),
            "statements": len(split(text)),
            "ours": _timed(split, text),
            "postgast_parser": _timed(postgast.split, text),
            "postgast_scanner": _timed(lambda given: postgast.split(given, method="scanner"), text),
        }
    write(
        "splitter",
        {**facts, "postgast": importlib.metadata.version("postgast")},
        {"budget_seconds_for_3_mb": _BUDGET_SECONDS, **figures},
        scale,
    )


def _texts(size: int) -> dict[str, str]:
    """Real migrations one after the other, many short statements, and a single long one."""
    scripts = [";".join(one.text for one in each.script.statements if not one.data) for each in load(generate(250, 1))]
    migrations = ";\n".join(scripts) + ";\n"
    row = "INSERT INTO orders (id, note, at) VALUES (1, 'it''s; a note', now()), (2, $$b; c$$, NULL); -- comment\n"
    values = ",\n".join(f"({index}, 'order {index}', now(), true)" for index in range(size // 35))
    return {
        "migrations": migrations * (size // len(migrations) + 1),
        "short_statements": row * (size // len(row)),
        "one_statement": f"INSERT INTO orders VALUES\n{values};\n",
    }


def _timed(call: Callable[[str], Any], text: str) -> Figures:
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        call(text)
        seconds.append(time.perf_counter() - started)
    found = spread(seconds)
    return {"seconds": found, "megabytes_a_second": round(len(text.encode()) / 1e6 / found["p50"], 1)}
