"""Migrations as real teams write them, from a seed: a set that goes up, all the way down, and up again.

``generate(250, seed=1)`` are files of a directory: both of our styles, Diesel's directories and goose's markers; small
ones and some of 20 KB; versions of 10, 14 and 18 digits; what is written into them is in ``migrations_changes``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.migrations_changes import Change, State, next_change

_PG_DUMP_HEADER = """--
-- PostgreSQL database dump
--

SET statement_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET client_min_messages = warning;
SET row_security = off;

"""
_NOTES = (
    "-- Don't run this by hand; it isn't idempotent.",
    "/* see the ticket; /* nested */ and a quote ' */",
    '-- "quoted" -- twice; and $$ dollars $$',
    "-- built CONCURRENTLY last time, no longer",
    "",
    "",
    "",
)
STYLES = ("markers", "markers", "pair", "pair", "diesel", "goose")


def generate(count: int, seed: int, *, plain: str = "") -> dict[str, str]:
    """The files of ``count`` migrations: path within the directory → text. The same seed makes the same files.

    ``plain`` names one style (markers or pair), in which everything is left out that other runners cannot run.
    """
    choice = random.Random(seed)
    state = State(choice, plain=bool(plain))
    files: dict[str, str] = {}
    for digits, moment in _versions(count, choice):
        change = next_change(state)
        files |= _plain(change, plain, moment) if plain else _written(change, digits, moment, choice)
    return files


def write(files: dict[str, str], directory: Path) -> None:
    """Write generated files below a directory, byte for byte."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


def _versions(count: int, choice: random.Random) -> Iterator[tuple[int, datetime]]:
    """How many digits each version has, and its time: epochs first, then times of day, with counters between them."""
    moment = datetime(2020, 1, 6, 8, 0, tzinfo=UTC)
    for index in range(count):
        moment += timedelta(seconds=choice.randrange(2000, 400_000))
        yield (10 if index < count // 5 else choice.choice((14, 14, 18))), moment


def _written(change: Change, digits: int, moment: datetime, choice: random.Random) -> dict[str, str]:
    style = choice.choice([style for style in STYLES if digits != 10 or style != "diesel"])
    stamp = moment.strftime("%Y%m%d%H%M%S")
    version = str(int(moment.timestamp())) if digits == 10 else stamp + f"{choice.randrange(10000):04}" * (digits == 18)
    up = _script(change.up, change, choice)
    down = _script(change.down, change, choice)
    marker = change.no_transaction and choice.random() < 0.5
    if style == "diesel":
        directory = f"{moment:%Y-%m-%d-%H%M%S}_{change.name}"
        found = {f"{directory}/up.sql": up, f"{directory}/down.sql": down}
        if change.no_transaction:
            found[f"{directory}/metadata.toml"] = "run_in_transaction = false\n"
        return found
    if style == "pair":
        header = "-- transaction: false\n" if marker else ""
        return {
            f"{version}_{change.name}.up.sql": _ended(header + up, choice),
            f"{version}_{change.name}.down.sql": header + down,
        }
    if style == "goose":
        none = "-- +goose NO TRANSACTION\n" if change.no_transaction else ""
        text = f"{none}-- +goose Up\n{_goose(up)}\n-- +goose Down\n{_goose(down)}\n"
        return {f"{version}_{change.name}.sql": text}
    option = " transaction:false" if marker else ""
    text = f"-- migrate:up{option}\n{up}\n-- migrate:down{option}\n{down}\n"
    return {f"{version}_{change.name}.sql": _ended(text, choice)}


def _plain(change: Change, style: str, moment: datetime) -> dict[str, str]:
    up, down, stem = "\n".join(change.up), "\n".join(change.down), f"{moment:%Y%m%d%H%M%S}_{change.name}"
    if style == "pair":
        return {f"{stem}.up.sql": f"{up}\n", f"{stem}.down.sql": f"{down}\n"}
    return {f"{stem}.sql": f"-- migrate:up\n{up}\n\n-- migrate:down\n{down}\n"}


def _goose(script: str) -> str:
    """What goose cannot split by itself stands between markers."""
    if "$" not in script:
        return script
    return f"-- +goose StatementBegin\n{script}\n-- +goose StatementEnd"


def _script(statements: list[str], change: Change, choice: random.Random) -> str:
    lines = []
    for statement in statements:
        note = choice.choice(_NOTES)
        lines.append(f"{note}\n{statement}" if note else statement)
    text = ("\n\n" if choice.random() < 0.7 else "\n").join(lines)
    if not change.no_transaction and choice.random() < 0.2:
        text = f"BEGIN;\n{text}\n{choice.choice(('COMMIT', 'commit', 'END', 'COMMIT TRANSACTION'))};"
    elif not change.no_transaction and choice.random() < 0.1:
        text = _PG_DUMP_HEADER + text
    return text


def _ended(text: str, choice: random.Random) -> str:
    """As editors leave files: with line ends of Windows, a byte order mark, or no line end at all."""
    kind = choice.random()
    if kind < 0.06:
        return text.replace("\n", "\r\n")
    if kind < 0.1:
        return "\ufeff" + text
    return text.rstrip("\n") if kind < 0.2 else text
