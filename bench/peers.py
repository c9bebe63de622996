"""Selvedge on the work on which comparable operators were measured: one row for each figure, theirs beside ours.

Their figures were measured on a machine of the same size with Postgres 15, 300 connections and a real API server, each
operator a local process. They are fixed numbers here: only ours come from this run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench import drift, outage, units
from bench.results import folder, machine, write
from sandbox.progress import step

#: Row → what EasyMile 3.4.0, movetokube d11ec07, db-operator cd3ff8a and pgroles 0.10.0-alpha.1 showed.
PEERS: Mapping[str, tuple[float | None, ...]] = {
    "one unit, p50 s": (0.098, 0.107, 1.2, 0.28),
    "one unit, max s": (0.20, 0.15, 2.4, 0.44),
    "200 units at once, all ready, s": (24, 17.5, 307, 564),
    "200 units: CPU s of the operator": (2.0, 2.6, 60, 54),
    "200 units: peak MiB of the operator": (45, 51, 61, 106),
    "200 units: logins": (201, 1011, 28356, 2323),
    "200 units: statements": (4684, 5458, 28344, 17968),
    "200 units: peak connections": (221, 2, 4, 298),
    "200 units: API writes": (422, 403, 12146, 5690),
    # movetokube never looks again: its 0 is no figure to be measured by
    "200 units idle: statements a minute": (4834, None, 7504, 783),
    "200 units idle: logins a minute": (134, None, 7502, 161),
    "200 units idle: API writes a minute": (222, None, 902, 87),
    "restart with 200 units, settled s": (9.9, 13.4, None, None),
    "restart with 200 units: API writes": (220, 220, 4790, None),
    "Postgres away 30 s, all right after s": (6, 18, 73, 25),
    "kill -9 amid 50 creations, all right after s": (7, 15, None, 13),
    "drift not repaired, of 8 kinds": (4, 8, 6, 3),
    "drift repaired after at most s": (109, None, None, 210),
    "50 units in one database, all ready, s": (None, None, None, 18.6),
}
#: The most that design allows ourselves, whatever the others need; what is for each unit is times 200 here.
LIMITS: Mapping[str, float] = {
    "one unit, p50 s beyond CREATE DATABASE": 0.1,
    "200 units at once, all ready, s": 15,
    "200 units: CPU s of the operator": 10,
    "200 units: peak MiB of the operator": 120,
    "200 units: logins": 400,
    "200 units: statements": 3000,
    "200 units: peak connections": 10,
    "200 units: API writes": 600,
    "200 units idle: statements per unit and interval": 1,
    "200 units idle: logins per unit and interval": 1,
    "200 units idle: API writes a minute": 0,
    "restart with 200 units, settled s": 5,
    "restart with 200 units: API writes": 0,
    "Postgres away 30 s, all right after s": 6,
    "kill -9 amid 50 creations, all right after s": 7,
    "drift not repaired, of 8 kinds": 0,
    "drift repaired after at most s": 30,
}
_NAMES = ("EasyMile 3.4.0", "movetokube d11ec07", "db-operator cd3ff8a", "pgroles 0.10.0-alpha.1")

Figures = dict[str, Any]
_PARTS: Mapping[str, Callable[[float], Figures]] = {
    "single": units.single,
    "fleet": units.fleet,
    "settled": units.settled,
    "one_database": units.one_database,
    "killed": outage.killed,
    "drift": drift.repaired,
}


def measure(scale: float = 1.0, part: str = "") -> None:
    """Every row, or those of one part; writes peers_<part>.json, and peers.json from the newest of each.

    Below full scale the rows of 200 units are of fewer, and no comparison is made.
    """
    if part and part not in _PARTS:
        raise ValueError(f"peers has no part {part}: write one of {', '.join(_PARTS)}")
    for name in [part] if part else _PARTS:
        facts = machine()
        with step(f"peers.{name}"):
            found = _PARTS[name](scale)
        write(f"peers_{name}", facts, {"rows": found.pop("rows"), "details": found}, scale)
        _merge(folder(scale))
    print("\n".join(_lines(_merge(folder(scale)), compare=scale >= 1)), flush=True)


def _merge(results: Path) -> dict[str, float]:
    """One table of the newest result of each part; the rows, by name."""
    rows: dict[str, float] = {}
    parts: Figures = {}
    for name in _PARTS:
        path = results / f"peers_{name}.json"
        if path.is_file():
            one = json.loads(path.read_text(encoding="utf-8"))
            rows |= one["rows"]
            parts[name] = {"scale": one["scale"], **one["machine"]}
    compare = all(one["scale"] >= 1.0 for one in parts.values())
    document = {"name": "peers", "parts": parts, "rows": _table(rows, compare=compare)}
    (results / "peers.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return rows


def _table(rows: Mapping[str, float], *, compare: bool) -> list[Figures]:
    table = []
    for name, ours in rows.items():
        theirs = PEERS.get(name, ())
        known = [value for value in theirs if value is not None]
        row: Figures = {"row": name, "selvedge": ours, "peers": dict(zip(_NAMES, theirs, strict=False))}
        if compare and name in LIMITS:
            row |= {"limit": LIMITS[name], "within_limit": ours <= LIMITS[name]}
        if compare and known:
            row["first"] = ours <= min(known)
            row["ratio_to_best_peer"] = round(ours / min(known), 2) if min(known) else None
        table.append(row)
    return table


def _lines(rows: Mapping[str, float], *, compare: bool) -> list[str]:
    words = {True: "yes", False: "NO", None: ""}
    head = f"{'row':52}" + "".join(f"{name.split()[0]:>12}" for name in _NAMES)
    lines = [f"{head}{'Selvedge':>10}{'limit':>8}  within  first"]
    for row in _table(rows, compare=compare):
        cells = [row["peers"].get(name) for name in _NAMES]
        text = "".join(f"{'–' if cell is None else cell:>12}" for cell in cells)
        limit = row.get("limit", "–")
        verdict = f"{words[row.get('within_limit')]:>6}  {words[row.get('first')]}"
        lines.append(f"{row['row']:52}{text}{row['selvedge']:>10}{limit:>8}  {verdict}")
    return lines
