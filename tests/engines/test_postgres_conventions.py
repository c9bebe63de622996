"""The time of the last change, the version, soft delete: on real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.engines.postgres_support import afresh, count, engine, member, only, ready, reasons, rows, run
from tests.engines.tables_support import application, declaration, migrate, stands

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint
    from selvedge.engines.base import Member

CONVENTIONS: dict[str, Any] = {
    "updatedAt": {"tablesIn": ["shared"]},
    "version": {"tablesIn": ["shared"]},
    "softDelete": {"byColumn": "deleted_by", "tablesIn": ["shared"]},
}
AUDIT = {"schema": "audit", "actorSetting": "app.current_user_id", "tables": []}


def kept(name: str, conventions: dict[str, Any] | None = None, **fields: Any) -> Member:
    declared = declaration(name, conventions=CONVENTIONS if conventions is None else conventions, audit=AUDIT)
    return member(name, declared, **fields)


@pytest.mark.own_postgres
async def test_they_do_what_they_say(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        await stands(one, postgres, kept(name))
        await afresh(one)
        assert (await ready(one, kept(name))).applied == ()
        assert count(one).taken() == ["snapshot"]
    with application(postgres, name, app__current_user_id="u-7") as app:
        app.execute("INSERT INTO shared.users (email, updated_at) VALUES ('a', '2001-01-01'), ('b', '2001-01-01')")
        app.execute("UPDATE shared.users SET email = email")
        assert app.execute("SELECT DISTINCT version, updated_at < '2002-01-01' FROM shared.users").fetchall() == [
            (1, True)
        ]
        app.execute("UPDATE shared.users SET email = email || '!', version = 9")
        assert app.execute(
            "SELECT DISTINCT version, updated_at > now() - interval '1 minute' FROM shared.users"
        ).fetchall() == [(2, True)]
        assert app.execute("DELETE FROM shared.active_users WHERE email = 'a!'").rowcount == 1
        assert app.execute("SELECT email FROM shared.active_users").fetchall() == [("b!",)]
        assert app.execute("SELECT deleted_by, deleted_at IS NOT NULL FROM shared.users ORDER BY email").fetchall() == [
            ("u-7", True), (None, False)]  # fmt: skip
        app.execute("UPDATE shared.active_users SET email = 'c'")
        app.execute("INSERT INTO shared.active_users (email) VALUES ('d')")
        assert app.execute("SELECT count(*) FROM shared.users").fetchone() == (3,)


DRIFTS = {
    "updatedAt": ("DROP TRIGGER selvedge_updated_at ON shared.users",
                  "ALTER TABLE shared.users DISABLE TRIGGER selvedge_updated_at"),
    "version": (("CREATE OR REPLACE TRIGGER selvedge_version BEFORE INSERT ON shared.users FOR EACH ROW "
                "EXECUTE FUNCTION selvedge.count_version()"),),
    "conventions": (("CREATE OR REPLACE FUNCTION selvedge.set_updated_at() RETURNS trigger LANGUAGE plpgsql AS "
                    "'begin return new; end'"),
                    "ALTER FUNCTION selvedge.count_version() SECURITY DEFINER"),
    "softDelete": ("DROP VIEW shared.active_users",
                   "ALTER VIEW shared.active_users RESET (security_invoker)",
                   "DROP TRIGGER selvedge_soft_delete ON shared.active_users",
                   ("DROP VIEW shared.active_users; CREATE VIEW shared.active_users WITH (security_invoker) AS "
                   "SELECT * FROM shared.users")),
}  # fmt: skip


async def test_each_drift_is_found_named_and_repaired(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        await stands(one, postgres, kept(name))
        for kind, statements in DRIFTS.items():
            for statement in statements:
                run(postgres, statement, dbname=name)
                repaired = await ready(one, kept(name, verified=True))
                assert kind in {ref.kind for ref in repaired.drift}, statement
                assert (await ready(one, kept(name, verified=True))).applied == ()


async def test_a_new_column_reaches_the_view_and_a_new_table_gets_all(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    name = database_name
    async with engine(postgres) as one:
        await stands(one, postgres, kept(name))
        more = """SET ROLE {owner}; ALTER TABLE shared.users ADD COLUMN phone text;
        CREATE TABLE shared.teams
          (id int PRIMARY KEY, deleted_at timestamptz, version bigint, data json, place point);"""
        migrate(postgres, name, more)
        await ready(one, kept(name, verified=True))
        assert (await ready(one, kept(name, verified=True))).applied == ()
    # Types without equality, and an owner whose functions nobody else would find.
    run(
        postgres,
        "INSERT INTO shared.teams VALUES (1, null, 1, '{}', '(1,2)'); UPDATE shared.teams SET id = 2",
        dbname=name,
    )
    assert rows(postgres, "SELECT version FROM shared.active_teams", dbname=name) == [(2,)]
    assert rows(postgres, "SELECT phone FROM shared.active_users", dbname=name) == []


async def test_views_read_with_the_readers_rights(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        await stands(one, postgres, kept(name))
    run(postgres, f"CREATE ROLE {name}_reader; GRANT USAGE ON SCHEMA shared TO {name}_reader; "
        f"GRANT SELECT ON shared.active_users TO {name}_reader", dbname=name)  # fmt: skip
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(postgres, f"SET ROLE {name}_reader; SELECT * FROM shared.active_users", dbname=name)


async def test_a_view_of_somebody_else_is_left_alone(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        await only(one, kept(name))
        migrate(postgres, name)
        migrate(postgres, name, "SET ROLE {owner}; CREATE VIEW shared.active_users AS SELECT id FROM shared.users")
        assert reasons(await only(one, kept(name))) == {"softDelete shared.active_users": "AdoptionRequired"}
        await ready(one, kept(name, {**CONVENTIONS, "softDelete": {"views": "living_{table}", "tablesIn": ["shared"]}}))


async def test_what_leaves_the_declaration_goes(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        await stands(one, postgres, kept(name))
        await ready(one, kept(name, {"version": {"tablesIn": ["shared"]}}))
        triggers = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'shared.users'::regclass AND NOT tgisinternal"
        assert rows(postgres, triggers, dbname=name) == [("selvedge_version",)]
        assert rows(postgres, "SELECT to_regclass('shared.active_users')", dbname=name) == [(None,)]
        without = member(name, declaration(name))
        await ready(one, without)
        assert rows(postgres, triggers, dbname=name) == []
        assert (await ready(one, without)).applied == ()
