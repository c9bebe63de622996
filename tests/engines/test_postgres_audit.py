"""The audit of row changes on real servers: what is written down, and who can do what about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.engines.postgres_support import afresh, count, engine, member, only, ready, reasons, rows, run, unit
from tests.engines.tables_support import application, declaration, migrate, stands

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint
    from selvedge.engines.base import Member

AUDIT: dict[str, Any] = {
    "schema": "audit",
    "every": "Month",
    "retention": "365d",
    "actorSetting": "app.current_user_id",
    "tables": [{"table": "shared.users", "exclude": ["password_hash"]}],
    "tablesIn": ["shared"],
    "applicationLog": True,
}

LOG = "SELECT operation, record_id, user_id, session_role, old_values, new_values FROM audit.database_operations"


def first_partition(endpoint: PostgresEndpoint, name: str, table: str) -> str:
    query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass ORDER BY 1 LIMIT 1"
    return str(rows(endpoint, query, table, dbname=name)[0][0])


def audited(name: str, audit: dict[str, Any] | None = None, **fields: Any) -> Member:
    return member(name, declaration(name, audit=AUDIT if audit is None else audit), **fields)


@pytest.mark.own_postgres
async def test_each_change_is_written_down_with_its_actor(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        first = await only(one, audited(name))
        assert reasons(first)["audit shared.users"] == "WaitingForObjects"
        migrate(postgres, name)
        await ready(one, audited(name))
        await afresh(one)
        again = await ready(one, audited(name))
        assert (again.applied, count(one).taken()) == ((), ["snapshot"])

    with application(postgres, name, app__current_user_id="u-7") as app:
        app.execute("INSERT INTO shared.users (id, email, password_hash) VALUES (gen_random_uuid(), 'a@b', 'secret')")
        app.execute("UPDATE shared.users SET email = 'c@d'")
        app.execute("UPDATE shared.users SET email = email")
        app.execute("UPDATE shared.users SET password_hash = 'other secret'")
        app.execute("DELETE FROM shared.users")
        app.execute("TRUNCATE shared.users")
        app.execute("INSERT INTO shared.notes VALUES ('x')")
        app.execute("UPDATE shared.notes SET note = 'y'")

    found = rows(postgres, f"{LOG} WHERE table_name = 'shared.users' ORDER BY executed_at", dbname=name)
    assert [row[0] for row in found] == ["INSERT", "UPDATE", "UPDATE", "DELETE", "TRUNCATE"]
    assert {row[1] for row in found[:4]} == {found[0][5]["id"]}
    assert {row[2:4] for row in found} == {("u-7", f"{name}_login")}
    assert (found[1][4]["email"], found[1][5]["email"]) == ("a@b", "c@d")
    assert "secret" not in str(found)
    notes = rows(postgres, f"{LOG} WHERE table_name = 'shared.notes' ORDER BY executed_at", dbname=name)
    assert [(row[0], row[4], row[5]) for row in notes] == [
        ("INSERT", None, {"note": "x"}),
        ("UPDATE", {"note": "x"}, {"note": "y"}),
    ]


TAMPERING = (
    "INSERT INTO audit.database_operations (transaction_id, table_name, session_role) VALUES (1, 'x', 'z')",
    "UPDATE audit.database_operations SET user_id = 'somebody'",
    "DELETE FROM audit.database_operations",
    "TRUNCATE audit.database_operations",
    "DROP TABLE audit.database_operations",
    "SELECT * FROM audit.database_operations",
    "ALTER TABLE audit.database_operations DISABLE TRIGGER ALL",
    "DROP TRIGGER selvedge_audit_insert ON shared.users",
    "ALTER TABLE shared.users DISABLE TRIGGER ALL",
    "ALTER TABLE shared.users DISABLE TRIGGER selvedge_audit_insert",
    "SET session_replication_role = replica",
    "CREATE OR REPLACE FUNCTION audit.record_changes() RETURNS trigger LANGUAGE plpgsql AS 'begin return null; end'",
    "ALTER FUNCTION audit.record_changes() OWNER TO CURRENT_USER",
    "DROP SCHEMA audit CASCADE",
)


async def test_t34_an_application_cannot_tamper_with_the_log(postgres: PostgresEndpoint, database_name: str) -> None:
    """T34."""
    name = database_name
    async with engine(postgres) as one:
        await stands(one, postgres, audited(name))
    partition = first_partition(postgres, name, "audit.database_operations")
    with application(postgres, name) as app:
        app.execute("INSERT INTO shared.users (email) VALUES ('a@b')")
        for statement in (*TAMPERING, f"DELETE FROM {partition}", f"DROP TABLE {partition}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement.encode())
        # The owner of the table may switch triggers off; nobody may become the audit's own roles.
        for role in (f"{name}_audit", f"{name}_audit_writer"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(f"SET ROLE {role}".encode())
    assert len(rows(postgres, LOG, dbname=name)) == 1
    # Migrations run as the owner: they neither write nor empty the log, and the schema is not theirs to drop.
    for statement in ("DELETE FROM audit.database_operations", "DROP TABLE audit.database_operations"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(postgres, f"SET ROLE {name}_owner; {statement}", dbname=name)


DRIFTS = (
    "ALTER TABLE shared.users DISABLE TRIGGER selvedge_audit_update",
    "ALTER TABLE shared.users ENABLE TRIGGER selvedge_audit_update",
    "DROP TRIGGER selvedge_audit_delete ON shared.users",
    (
        "CREATE OR REPLACE TRIGGER selvedge_audit_delete AFTER DELETE ON shared.users "
        "REFERENCING OLD TABLE AS selvedge_old FOR EACH STATEMENT EXECUTE FUNCTION audit.record_changes('{id}', '{}')"
    ),
    "DROP TRIGGER selvedge_audit_row ON shared.notes",
    "CREATE OR REPLACE FUNCTION audit.record_changes() RETURNS trigger LANGUAGE plpgsql AS 'begin return null; end'",
    "ALTER FUNCTION audit.record_change() SECURITY INVOKER",
    "ALTER FUNCTION audit.record_change() RESET search_path",
    "ALTER FUNCTION audit.record_change() OWNER TO CURRENT_USER",
    "GRANT EXECUTE ON FUNCTION audit.record_change() TO PUBLIC",
    "GRANT DELETE ON audit.database_operations TO {app}",
    "GRANT UPDATE ON audit.audit_logs TO PUBLIC",
    "REVOKE INSERT ON audit.database_operations FROM {name}_audit_writer",
    "REVOKE USAGE ON SCHEMA audit FROM {name}_audit_writer",
    "ALTER TABLE audit.database_operations OWNER TO {name}_owner",
    "GRANT {name}_audit TO {app}",
    "DROP TRIGGER selvedge_audit_stamp ON audit.audit_logs",
)


async def test_each_drift_is_found_named_and_repaired(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        await stands(one, postgres, audited(name))
        for statement in DRIFTS:
            run(postgres, statement.replace("{app}", f"{name}_app").replace("{name}", name), dbname=name)
            planned = (await one.plan(unit(audited(name, verified=True)))).members[audited(name).uid]
            assert planned.pending, statement
            repaired = await ready(one, audited(name, verified=True))
            assert "audit" in {ref.kind for ref in repaired.drift}, statement
            assert (await ready(one, audited(name, verified=True))).applied == ()


async def test_t33_partitioned_tables_are_audited_by_any_name(postgres: PostgresEndpoint, database_name: str) -> None:
    """T33: statement triggers are not cloned to partitions, row triggers are; TRUNCATE has no row trigger."""
    name = database_name
    declared = declaration(
        name,
        audit=AUDIT,
        partitions=[{"table": "shared.readings", "by": "Time", "column": "at", "every": "Day", "ahead": 1}],
    )
    async with engine(postgres) as one:
        await stands(one, postgres, member(name, declared))
    partition = first_partition(postgres, name, "shared.readings")
    run(
        postgres,
        f"INSERT INTO shared.readings VALUES (1, now(), 5); UPDATE {partition} SET value = 6; TRUNCATE {partition}; "
        f"ALTER TABLE shared.readings DETACH PARTITION {partition}; INSERT INTO {partition} VALUES (2, now(), 7)",
        dbname=name,
    )
    query = "SELECT operation, table_name FROM audit.database_operations ORDER BY executed_at"
    found = rows(postgres, query, dbname=name)
    assert found == [
        ("INSERT", "shared.readings"),
        ("UPDATE", "shared.readings"),
        ("TRUNCATE", "shared.readings"),
    ]


ODD = "odd %s; $$ table"


async def test_t32_columns_named_like_words_of_the_function(postgres: PostgresEndpoint, database_name: str) -> None:
    """T32: columns named like variables, aliases and keywords; names with quotes, dots and backslashes."""
    name = database_name
    awkward = (
        "n",
        "new",
        "old",
        "r",
        "keys",
        "hidden",
        "selvedge_row",
        "select",
        "id",
        "a.b",
        "it's",
        "back\\slash",
        "Ü",
    )
    columns = ", ".join(f'"{column}" text' for column in awkward)
    tables = f'SET ROLE {name}_owner; CREATE TABLE shared."{ODD}" ({columns}, PRIMARY KEY ("it\'s", "back\\slash"))'
    audit = {
        **AUDIT,
        "tables": [{"table": f"shared.{ODD}", "exclude": ["a.b", "select", "Ü"]}],
        "tablesIn": [],
    }
    async with engine(postgres) as one:
        await only(one, audited(name, audit))
        migrate(postgres, name, tables)
        await ready(one, audited(name, audit))
        assert (await ready(one, audited(name, audit))).applied == ()
    values = ", ".join("'secret'" if column in ("a.b", "select", "Ü") else "'v'" for column in awkward)
    run(
        postgres,
        f'INSERT INTO shared."{ODD}" VALUES ({values}); UPDATE shared."{ODD}" SET n = \'w\', "it\'s" = \'z\'',
        dbname=name,
    )
    found = rows(postgres, f"{LOG} ORDER BY executed_at, new_values IS NOT NULL", dbname=name)
    assert "secret" not in str(found)
    assert [row[0] for row in found] == ["INSERT", "UPDATE", "UPDATE"]  # the key changed: one went and one came
    assert sorted(found[0][5]) == sorted(set(awkward) - {"a.b", "select", "Ü"})


async def test_t35_a_replicas_session_is_audited_too(postgres: PostgresEndpoint, database_name: str) -> None:
    """T35."""
    name = database_name
    async with engine(postgres) as one:
        await stands(one, postgres, audited(name))
    run(postgres, "SET session_replication_role = replica; INSERT INTO shared.notes VALUES ('x')", dbname=name)
    assert len(rows(postgres, LOG, dbname=name)) == 1


async def test_a_column_that_is_not_there_is_not_left_out_by_mistake(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    name = database_name
    audit = {**AUDIT, "tablesIn": [], "tables": [{"table": "shared.users", "exclude": ["pasword_hash"]}]}
    async with engine(postgres) as one:
        await only(one, audited(name, audit))
        migrate(postgres, name)
        assert reasons(await only(one, audited(name, audit))) == {"audit shared.users": "WaitingForObjects"}
        key = {**AUDIT, "tablesIn": [], "tables": [{"table": "shared.users", "exclude": ["id"]}]}
        assert reasons(await only(one, audited(name, key))) == {"audit shared.users": "InvalidSpec"}
    run(postgres, "INSERT INTO shared.users (email) VALUES ('x')", dbname=name)
    assert rows(postgres, LOG, dbname=name) == []


async def test_what_leaves_the_declaration_is_audited_no_more_and_the_log_stays(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    name = database_name
    without = member(name, declaration(name))
    async with engine(postgres) as one:
        await stands(one, postgres, audited(name))
        run(postgres, "INSERT INTO shared.notes VALUES ('x')", dbname=name)
        less = {**AUDIT, "tablesIn": []}
        await ready(one, audited(name, less))
        run(postgres, "INSERT INTO shared.notes VALUES ('y')", dbname=name)
        await ready(one, without)
        assert (await ready(one, without)).applied == ()
    run(postgres, "INSERT INTO shared.users (email) VALUES ('x')", dbname=name)
    assert len(rows(postgres, LOG, dbname=name)) == 1


async def test_applications_write_events_and_cannot_change_them(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    declared = declaration(name, audit=AUDIT)
    app_role = f"{name}_app"
    declared["grants"] += [
        {"name": "use-audit", "privileges": ["USAGE"], "objects": {"schemas": ["audit"]}, "to": [app_role]},
        {"name": "log", "privileges": ["INSERT"], "objects": {"tables": ["audit.audit_logs"]}, "to": [app_role]},
    ]
    async with engine(postgres) as one:
        await stands(one, postgres, member(name, declared))
    into = "INSERT INTO audit.audit_logs (entity_type, action, "
    insert = into + "session_role, user_id) VALUES ('user', 'READ', 'forged', %s)"
    with application(postgres, name, app__current_user_id="u-7") as app:
        app.execute(insert, ["u-8"])
        for statement in ("UPDATE audit.audit_logs SET action = 'x'", "DELETE FROM audit.audit_logs"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement.encode())
        with pytest.raises(psycopg.errors.DatetimeFieldOverflow, match="is of now"):
            app.execute(into + "created_at) VALUES ('user', 'READ', now() + '1 day')")
    assert rows(postgres, "SELECT session_role, user_id FROM audit.audit_logs", dbname=name) == [
        (f"{name}_login", "u-7")
    ]


async def test_a_table_of_somebody_else_is_not_used_as_the_log(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        await ready(one, member(name, declaration(name, schemas=[{"name": "shared"}, {"name": "audit"}])))
        migrate(postgres, name)
        run(postgres, "CREATE TABLE audit.database_operations (id int)", dbname=name)
        result = await only(one, audited(name))
    assert reasons(result) == {"audit audit": "Conflict"}
