"""Results as JSON with the facts of the machine, and the few statistics that are used."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from sandbox.fetch import pins

_ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
_PACKAGES = ("selvedge", "kopf", "kubernetes", "psycopg", "pydantic", "aiohttp")


def machine() -> dict[str, Any]:
    """What a figure depends on; the load average shows who else was at work."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "git": _git("rev-parse", "--short=12", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--", "operator")),
        "cores": os.cpu_count(),
        "cpu": cpu,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kubernetes": pins()["kubernetes"]["version"],
        "packages": {name: version(name) for name in _PACKAGES},
        "load_average_before": load(),
    }


def load() -> list[float]:
    """The load average of 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def folder(scale: float = 1.0) -> Path:
    """Where results go: a first look with fewer units never takes the place of a full run."""
    return RESULTS if scale >= 1 else RESULTS / "scaled"


def write(name: str, facts: Mapping[str, Any], figures: Mapping[str, Any], scale: float = 1.0) -> Path:
    """Write ``NAME.json`` and print it; ``facts`` are what :func:`machine` said at the start."""
    document = {"name": name, "scale": scale, "machine": {**facts, "load_average_after": load()}, **figures}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    folder(scale).mkdir(parents=True, exist_ok=True)
    path = folder(scale) / f"{name}.json"
    path.write_text(text, encoding="utf-8")
    print(text, flush=True)
    return path


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median, maximum and number."""
    return {
        "min": round(min(values), 4),
        "p50": round(statistics.median(values), 4),
        "max": round(max(values), 4),
        "n": len(values),
    }


def medians(rounds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over rounds with the same figures."""
    rounds = list(rounds)
    return {key: round(statistics.median(one[key] for one in rounds), 3) for key in rounds[0]}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False).stdout.strip()
