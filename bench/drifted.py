"""A thousand objects changed by hand: from the request to look until all are put back, proven and told.

Once all in one database, which two DatabaseSchemas share, and once in eight databases at the same time. Of ten objects
one is a schema (a privilege revoked), five are tables (a privilege revoked, or one given that is not declared), one is
a policy (weakened), one a trigger (switched off), and two are roles (a setting, a membership). The operator is asked by
the annotation `selvedge.dev/reconcile-now`. Its time ends when Ready, which was False meanwhile, is True again for each
DatabaseSchema, and what the databases then hold is compared with what they held before.

psql runs the statements of the operator's own plan on the same damage in the same minute: one psql with one transaction
for each database, eight of them at once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from psycopg import sql

from bench import manifests
from bench.counters import Meter
from bench.inspect import Nobody, target
from bench.results import machine, medians, write
from bench.world import NAMESPACE, World, world
from sandbox.progress import step
from selvedge.api.databaseschema import DatabaseSchemaSpec
from selvedge.engines.base import Member, Unit
from selvedge.engines.postgres.engine import PostgresEngine

Figures = dict[str, Any]
_ROUNDS = 5
_DATABASES = 8
_GROUPS = 100
_OBJECTS_OF_A_GROUP = 10
#: A DatabaseSchema declares at most 200 roles, and a group has two.
_GROUPS_OF_ONE = 50
_TABLES = 7
_OWN_ROWS = "owner_id = (SELECT nullif(current_setting('app.user_id', true), '')::bigint)"
#: What is managed here, as sorted text.
_FACTS = """
SELECT 'schema', nspname, concat_ws(' ', a.grantee::regrole, a.privilege_type, a.is_grantable)
  FROM pg_namespace CROSS JOIN aclexplode(nspacl) a WHERE nspname LIKE 'g%'
UNION ALL
SELECT 'privilege', c.relname, concat_ws(' ', a.grantee::regrole, a.privilege_type, a.is_grantable)
  FROM pg_class c CROSS JOIN aclexplode(c.relacl) a WHERE c.relnamespace::regnamespace::text LIKE 'g%'
UNION ALL
SELECT 'policy', polname || polrelid::regclass, pg_get_expr(polqual, polrelid) FROM pg_policy
UNION ALL
SELECT 'trigger', tgname || tgrelid::regclass, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'setting', rolname, s.setconfig::text FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole
 WHERE s.setdatabase = 0 AND starts_with(rolname, current_database())
UNION ALL
SELECT 'member', roleid::regrole::text, member::regrole::text FROM pg_auth_members
 WHERE starts_with(roleid::regrole::text, current_database())
ORDER BY 1, 2, 3
"""


def measure(scale: float = 1.0) -> None:
    """Five rounds of each layout on one server; writes drifted.json."""
    facts, groups = machine(), max(_DATABASES, int(_GROUPS * scale))
    figures: Figures = {"objects": groups * _OBJECTS_OF_A_GROUP}
    with world() as here:
        for layout, number in (("one_database", 1), ("eight_databases", _DATABASES)):
            with step(f"{groups * _OBJECTS_OF_A_GROUP} objects in {number} databases to Ready"):
                shops = [_Shop(here, f"{layout}_{index}", len(range(index, groups, number))) for index in range(number)]
                names = [name for shop in shops for name in shop.make()]
                here.watch.wait_ready(names, 300)
                here.operator.settle(30)
            figures[layout] = _rounds(here, shops, names)
    write("drifted", facts, figures, scale)


def _rounds(here: World, shops: list[_Shop], names: list[str]) -> Figures:
    before = [shop.facts() for shop in shops]
    bare, ours = [], []
    statements: list[int] = []
    for turn in range(_ROUNDS):
        with step(f"round {turn + 1} of {_ROUNDS}"):
            for shop in shops:
                shop.damage()
            plans = [asyncio.run(shop.plan()) for shop in shops]
            statements.append(sum(len(plan) for plan in plans))
            bare.append(_by_psql(shops, plans))
            _same(before, shops, "psql's statements")
            for shop in shops:
                shop.damage()
            ours.append(_by_operator(here, names))
            _same(before, shops, "the operator")
    seconds = medians({"psql": one, "ours": other["seconds"]} for one, other in zip(bare, ours, strict=True))
    return {
        "databases": len(shops),
        "database_schemas": len(names),
        "seconds": seconds["ours"],
        "psql_seconds": seconds["psql"],
        "psql_statements": statements[0],
        "ratio_to_psql": round(seconds["ours"] / seconds["psql"], 2),
        "median": medians(ours),
        "rounds": ours,
        "psql_rounds": bare,
    }


def _same(before: list[set[Any]], shops: list[_Shop], who: str) -> None:
    for known, shop in zip(before, shops, strict=True):
        differing = known ^ shop.facts()
        if differing:
            raise RuntimeError(f"{who} left {len(differing)} facts of {shop.name} different: {min(differing)}")


def _by_psql(shops: list[_Shop], plans: list[list[str]]) -> float:
    """Seconds until the last of them has run the statements of its plan."""
    with ThreadPoolExecutor(len(shops)) as pool:
        started = time.monotonic()
        scripts = ["BEGIN;\n" + ";\n".join(plan) + ";\nCOMMIT;" for plan in plans]
        list(pool.map(lambda shop, script: shop.here.postgres.psql(script, shop.name), shops, scripts))
        return time.monotonic() - started


def _by_operator(here: World, names: list[str]) -> dict[str, float]:
    here.operator.settle(20)
    repaired = here.operator.sample("selvedge_drift_repaired_total")
    meter = Meter(here)
    started = time.monotonic()
    asked = {"metadata": {"annotations": {"selvedge.dev/reconcile-now": str(started)}}}
    for name in names:
        here.api.patch(name, asked)
    ready = here.watch.wait_again(names, started, 120)
    seconds = max(ready.values()) - started
    here.operator.settle(20)
    use = meter.read().document()
    return {
        "seconds": round(seconds, 3),
        "objects_named": here.operator.sample("selvedge_drift_repaired_total") - repaired,
        **use,
    }


class _Shop:
    """One database with ``groups`` groups of ten objects."""

    def __init__(self, here: World, name: str, groups: int) -> None:
        self.here = here
        self.name = name
        self.groups = groups

    def make(self) -> list[str]:
        """The tables, and the DatabaseSchemas; their names."""
        here, owner = self.here, sql.Identifier(f"{self.name}_owner")
        here.create_databases([self.name])
        with here.sql(self.name) as connection, connection.transaction():
            connection.execute(sql.SQL("CREATE ROLE {}").format(owner))
            for group in range(self.groups):
                connection.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(_schema(group), owner))
                for table in range(_TABLES):
                    statement = "CREATE TABLE {} (id bigint PRIMARY KEY, owner_id bigint, updated_at timestamptz)"
                    connection.execute(sql.SQL(statement).format(_table(group, table)))
                    connection.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(_table(group, table), owner))
        documents = list(self._documents())
        here.api.create_all(documents)
        return [document["metadata"]["name"] for document in documents]

    def _documents(self) -> Iterator[manifests.Document]:
        for first in range(0, self.groups, _GROUPS_OF_ONE):
            groups = range(first, min(first + _GROUPS_OF_ONE, self.groups))
            schemas = [f"g{group}" for group in groups]
            roles: list[manifests.Document] = [{"name": f"{self.name}_owner"}] if first == 0 else []
            grants = []
            for group in groups:
                reader = f"{self.name}_reader{group}"
                member = f"{self.name}_member{group}"
                roles.append({"name": reader, "settings": {"lock_timeout": "5s"}})
                roles.append({"name": member, "memberOf": [{"role": reader}]})
                grants.append(manifests.grant(f"use-{group}", ["USAGE"], {"schemas": [f"g{group}"]}, [reader]))
                grants.append(manifests.grant(f"read-{group}", ["SELECT"], {"tablesIn": [f"g{group}"]}, [reader]))
            policy = {"name": "own", "to": [f"{self.name}_reader{first}"], "using": _OWN_ROWS}
            postgres = {
                "schemas": [{"name": name, "owner": f"{self.name}_owner"} for name in schemas],
                "roles": roles,
                "grantMode": "Authoritative",
                "grants": grants,
                "rowLevelSecurity": [{"table": f"g{group}.g{group}_t5", "policies": [policy]} for group in groups],
                "conventions": {"updatedAt": {"tablesIn": schemas}},
            }
            name = f"{self.name}-{first}".replace("_", "-")
            yield manifests.database_schema(name, postgres, self.name, "1h", "Allow")

    def damage(self) -> None:
        """By hand: ten objects of each group."""
        text = sql.SQL(
            "REVOKE USAGE ON SCHEMA {schema} FROM {reader};"
            "REVOKE SELECT ON {t0}, {t1}, {t2} FROM {reader}; GRANT DELETE ON {t3}, {t4} TO {reader};"
            "ALTER POLICY own ON {t5} USING (true); ALTER TABLE {t6} DISABLE TRIGGER selvedge_updated_at;"
            "ALTER ROLE {reader} SET lock_timeout TO '1s'; REVOKE {reader} FROM {member}"
        )
        with self.here.sql(self.name) as connection, connection.transaction():
            for group in range(self.groups):
                names = {f"t{table}": _table(group, table) for table in range(_TABLES)}
                reader = sql.Identifier(f"{self.name}_reader{group}")
                member = sql.Identifier(f"{self.name}_member{group}")
                connection.execute(text.format(schema=_schema(group), reader=reader, member=member, **names))

    def facts(self) -> set[Any]:
        """What stands there of what is managed."""
        with self.here.sql(self.name) as connection:
            return set(connection.execute(_FACTS.encode()).fetchall())

    async def plan(self) -> list[str]:
        """The statements with which the operator would repair it."""
        listed = self.here.api.get("databaseschemas")["items"]
        members = tuple(_member(item) for item in listed if item["spec"]["database"] == self.name)
        cluster = json.loads(self.here.api.text("GET", "/api/v1/namespaces/kube-system"))["metadata"]["uid"]
        engine = PostgresEngine(target(self.here.postgres), Nobody())
        try:
            result = await engine.plan(Unit(self.name, members, cluster))
        finally:
            await engine.close()
        pending = [change for member in result.members.values() for change in member.pending]
        return list(dict.fromkeys(change.statement for change in pending))


def _member(item: manifests.Document) -> Member:
    about = item["metadata"]
    spec = DatabaseSchemaSpec.model_validate(item["spec"])
    created = about["creationTimestamp"]
    return replace(Member(about["uid"], NAMESPACE, about["name"], about["generation"], created, spec), verified=True)


def _schema(group: int) -> sql.Identifier:
    return sql.Identifier(f"g{group}")


def _table(group: int, table: int) -> sql.Identifier:
    return sql.Identifier(f"g{group}", f"g{group}_t{table}")
