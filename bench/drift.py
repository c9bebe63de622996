"""Eight kinds of damage by hand, each to a unit of its own, all at once: found and repaired within the interval?"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from bench import manifests
from bench.results import load
from bench.world import World, world

Figures = dict[str, Any]
_INTERVAL = "30s"
_INTERVAL_SECONDS = 30.0
#: Status and event follow the repair; a kind of which nothing is told by then counts as not told.
_TOLD_SECONDS = 2.0
#: Between two looks at everything that was damaged: each look is load on the server that is measured.
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Damage:
    """How to do it to the unit whose names start with ``prefix``, and how to see that it is undone."""

    kind: str
    statements: tuple[str, ...]
    intact: str
    inside: bool = field(default=True)


_MEMBER = (
    "SELECT count(*) = 1 FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member"
    " WHERE r.rolname = '{p}_reader' AND u.rolname = '{p}_writer'"
)
_DAMAGES = (
    Damage("membership", ('REVOKE "{p}_reader" FROM "{p}_writer"',), _MEMBER),
    Damage("extension", ("DROP EXTENSION pg_trgm",), "SELECT count(*) = 1 FROM pg_extension WHERE extname = 'pg_trgm'"),
    Damage(
        "role",
        ('DROP OWNED BY "{p}_writer"', 'DROP ROLE "{p}_writer"'),
        "SELECT has_schema_privilege('{p}_writer', 'app', 'CREATE')"
        " AND pg_has_role('{p}_writer', '{p}_reader', 'MEMBER')",
    ),
    Damage(
        "schema usage",
        ('REVOKE USAGE ON SCHEMA app FROM "{p}_reader"',),
        "SELECT has_schema_privilege('{p}_reader', 'app', 'USAGE')",
    ),
    Damage(
        "extra grant",
        ('GRANT CREATE ON SCHEMA app TO "{p}_reader"',),
        "SELECT NOT has_schema_privilege('{p}_reader', 'app', 'CREATE')",
    ),
    Damage(
        "extra pg_read_all_data",
        ('GRANT pg_read_all_data TO "{p}_reader"',),
        "SELECT NOT pg_has_role('{p}_reader', 'pg_read_all_data', 'MEMBER')",
    ),
    Damage(
        "schema owner",
        ("ALTER SCHEMA app OWNER TO postgres",),
        "SELECT pg_get_userbyid(nspowner) = '{p}_owner' FROM pg_namespace WHERE nspname = 'app'",
    ),
    Damage(
        "database gone",
        ('DROP DATABASE "{p}" WITH (FORCE)',),
        "SELECT has_schema_privilege('{p}_reader', 'app', 'USAGE')",
        inside=False,
    ),
)


def repaired(scale: float = 1.0) -> Figures:
    """Each damage: seconds until the database is right again, whether Ready was False meanwhile, and the event."""
    del scale
    with world() as here:
        documents = {}
        for index, damage in enumerate(_DAMAGES):
            document = manifests.unit(f"drift-{index}", interval=_INTERVAL)
            # Extra grants are drift where the declaration says that it names all of them.
            document["spec"]["postgres"]["grantMode"] = "Authoritative"
            documents[damage.kind] = document
        here.watch.wait_ready(here.api.create_all(list(documents.values())), 60)
        here.operator.settle(20)
        found = _damage_all(here)
    within = [one for one in found if one["repaired_after_seconds"] is not None]
    return {
        "rows": {
            "drift not repaired, of 8 kinds": len(_DAMAGES) - len(within),
            "drift repaired after at most s": max((one["repaired_after_seconds"] for one in within), default=-1.0),
            "drift: kinds with Ready False meanwhile": sum(one["ready_was_false"] for one in found),
            "drift: kinds with an event": sum(one["event"] for one in found),
        },
        "interval_seconds": _INTERVAL_SECONDS,
        "kinds": found,
        "load": load(),
    }


def _damage_all(here: World) -> list[Figures]:
    history_start = len(here.watch.history)
    started = time.monotonic()
    for index, damage in enumerate(_DAMAGES):
        prefix = f"drift_{index}"
        with here.sql(prefix if damage.inside else "postgres") as connection:
            for statement in damage.statements:
                connection.execute(_named(statement, prefix))
    repaired_at: dict[str, float] = {}
    deadline = started + 3 * _INTERVAL_SECONDS
    while len(repaired_at) < len(_DAMAGES) and time.monotonic() < deadline:
        for index, damage in enumerate(_DAMAGES):
            if damage.kind not in repaired_at and _intact(here, f"drift_{index}", damage.intact):
                repaired_at[damage.kind] = time.monotonic() - started
        time.sleep(_POLL_SECONDS)
    time.sleep(_TOLD_SECONDS)
    events = here.api.events()
    seen = here.watch.history[history_start:]
    result = []
    for index, damage in enumerate(_DAMAGES):
        name = f"drift-{index}"
        told = [e for e in events if e["regarding"]["name"] == name and e["reason"].startswith("Drift")]
        after = repaired_at.get(damage.kind)
        result.append(
            {
                "kind": damage.kind,
                "repaired_after_seconds": None if after is None else round(after, 2),
                "ready_was_false": any(sight.name == name and not sight.ready for sight in seen),
                "event": bool(told),
                "message": told[0]["note"] if told else "",
            }
        )
    return result


def _intact(here: World, database: str, query: str) -> bool:
    try:
        with here.sql(database) as connection:
            row = connection.execute(_named(query, database)).fetchone()
    except (psycopg.OperationalError, psycopg.errors.UndefinedObject, psycopg.errors.InvalidSchemaName):
        return False  # the database, the role or the schema is not there
    return row is not None and row[0] is True


def _named(text: str, prefix: str) -> sql.SQL:
    """A statement of this file with the unit's own names; both are constants of ours."""
    replaced: Any = text.replace("{p}", prefix)
    return sql.SQL(replaced)
