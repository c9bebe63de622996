"""Grants on each kind of object, on a real server."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import PostgresEndpoint
from tests.engines.postgres_support import converge, engine, member, only, ready, reasons, rows, run

pytestmark = pytest.mark.engines

OBJECTS = """
CREATE TABLE shared.users (id int GENERATED ALWAYS AS IDENTITY, email text, secret text);
CREATE VIEW shared.emails AS SELECT email FROM shared.users;
CREATE MATERIALIZED VIEW shared.counts AS SELECT count(*) FROM shared.users;
CREATE SEQUENCE shared.numbers;
CREATE TABLE shared.log (at date) PARTITION BY RANGE (at);
CREATE TABLE shared.log_2026 PARTITION OF shared.log FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TYPE shared.status AS ENUM ('on');
CREATE FUNCTION shared.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION shared.f(text, numeric) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION shared.f(shared.status) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION shared."Upper"(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE shared.p(int) LANGUAGE sql AS 'SELECT 1';
REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA shared FROM PUBLIC;
"""


def grant(name: str, role: str, privileges: list[str], **objects: Any) -> dict[str, Any]:
    return {"name": name, "privileges": privileges, "objects": objects, "to": [role]}


async def test_grants_on_each_kind_of_object(postgres: PostgresEndpoint, database_name: str) -> None:
    role, all_role = f"{database_name}_a", f"{database_name}_all"
    grants = [
        grant("t", role, ["SELECT"], tables=["shared.emails", "shared.counts"]),
        grant("c", role, ["SELECT", "UPDATE"], columns=[{"table": "shared.users", "columns": ["id", "email"]}]),
        grant("s", role, ["USAGE"], sequences=["shared.numbers"]),
        grant(
            "f",
            role,
            ["EXECUTE"],
            functions=["shared.f(text, numeric)", "shared.f(shared.status)", "shared.p(int)", "shared.Upper(integer)"],
        ),
        grant("all-t", all_role, ["SELECT"], tablesIn=["shared"]),
        grant("all-s", all_role, ["USAGE"], sequencesIn=["shared"]),
        grant("all-f", all_role, ["EXECUTE"], functionsIn=["shared"]),
        grant("u", role, ["USAGE"], schemas=["shared"]),
    ]
    spec = {"schemas": [{"name": "shared"}], "roles": [{"name": role}, {"name": all_role}], "grants": grants}
    one = member(database_name, spec)
    async with engine(postgres) as server:
        waiting = await only(server, one)
        assert reasons(waiting) == dict.fromkeys(("grant t", "grant c", "grant s", "grant f"), "WaitingForObjects")
        assert waiting.provisioned
        run(postgres, OBJECTS, database_name)
        await ready(server, one)
        assert (await ready(server, one)).applied == ()

        def ask(function: str, who: str, *names: str, privilege: str) -> list[bool]:
            query = f"SELECT pg_catalog.{function}(%s, %s, %s)"
            return [rows(postgres, query, who, name, privilege, dbname=database_name)[0][0] for name in names]

        tables = ("shared.users", "shared.emails", "shared.counts", "shared.log", "shared.log_2026")
        assert ask("has_table_privilege", role, *tables, privilege="SELECT") == [False, True, True, False, False]
        assert ask("has_table_privilege", all_role, *tables, privilege="SELECT") == [True, True, True, True, False]
        functions = (
            "shared.f(int)",
            "shared.f(text,numeric)",
            "shared.f(shared.status)",
            'shared."Upper"(int)',
            "shared.p(int)",
        )
        assert ask("has_function_privilege", role, *functions, privilege="EXECUTE") == [False, True, True, True, True]
        assert ask("has_function_privilege", all_role, *functions, privilege="EXECUTE") == [True] * 5
        sequences = ("shared.numbers", "shared.users_id_seq")
        assert ask("has_sequence_privilege", role, *sequences, privilege="USAGE") == [True, False]
        assert ask("has_sequence_privilege", all_role, *sequences, privilege="USAGE") == [True, True]
        query = (
            "SELECT a, has_column_privilege(%s, 'shared.users', a, 'UPDATE') FROM unnest(ARRAY['email', 'secret']) a"
        )
        assert rows(postgres, query, role, dbname=database_name) == [("email", True), ("secret", False)]

        fewer = [entry for entry in grants if entry["name"] not in ("c", "f", "all-f")]
        await ready(server, member(database_name, {**spec, "grants": fewer}))
        assert rows(postgres, query, role, dbname=database_name) == [("email", False), ("secret", False)]
        assert ask("has_function_privilege", role, *functions, privilege="EXECUTE") == [False] * 5
        assert ask("has_function_privilege", all_role, *functions, privilege="EXECUTE") == [False] * 5
        assert ask("has_sequence_privilege", role, *sequences, privilege="USAGE") == [True, False]


async def test_columns_keep_their_privileges_when_the_table_loses_one(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """A REVOKE on the table takes the columns' privileges with it."""
    role = f"{database_name}_a"
    spec = {
        "schemas": [{"name": "shared"}],
        "roles": [{"name": role}],
        "grantMode": "Authoritative",
        "grants": [grant("c", role, ["SELECT"], columns=[{"table": "shared.users", "columns": ["id"]}])],
    }
    one = member(database_name, spec)
    async with engine(postgres) as server:
        await only(server, one)
        run(postgres, "CREATE TABLE shared.users (id int, email text)", database_name)
        await ready(server, one)
        run(postgres, f"GRANT SELECT ON shared.users TO {role}", database_name)
        await ready(server, one)
    query = "SELECT a, has_column_privilege(%s, 'shared.users', a, 'SELECT') FROM unnest(ARRAY['id', 'email']) a"
    assert rows(postgres, query, role, dbname=database_name) == [("id", True), ("email", False)]


async def test_the_same_name_of_a_grant_in_two_members(postgres: PostgresEndpoint, database_name: str) -> None:
    """Each is told of its own; and one that waits for approval is not made by the other's."""

    a, b = f"{database_name}_a", f"{database_name}_b"
    old = member(
        database_name,
        {
            "schemas": [{"name": "shared"}],
            "roles": [{"name": a}, {"name": b}],
            "grants": [grant("read", a, ["SELECT"], tables=["shared.x"])],
        },
        name="old",
    )
    new = member(
        database_name,
        {"grants": [grant("read", a, ["SELECT"], tables=["shared.y"])]},
        name="new",
        created="2026-02-01T00:00:00Z",
        apply="OnApproval",
    )
    async with engine(postgres) as server:
        await converge(server, old)
        run(postgres, "CREATE TABLE shared.y (id int)", database_name)
        result = await converge(server, old, new)
        assert reasons(result.members[old.uid]) == {"grant read": "WaitingForObjects"}
        assert reasons(result.members[new.uid]) == {}
        run(postgres, "CREATE TABLE shared.x (id int)", database_name)
        result = await converge(server, old, new)
        assert result.members[old.uid].verified
        assert len(result.members[new.uid].pending) == 1
    query = "SELECT t, has_table_privilege(%s, t, 'SELECT') FROM unnest(ARRAY['shared.x', 'shared.y']) t"
    assert rows(postgres, query, a, dbname=database_name) == [("shared.x", True), ("shared.y", False)]


async def test_what_a_member_of_the_owner_gave_is_named_and_holds_nothing_else_up(
    postgres: PostgresEndpoint, database_name: str, database: str
) -> None:
    """The server takes such a grantor for the owner: neither of them can take back what he gave before."""
    owner, writer, reader = (f"{database_name}_{name}" for name in ("owner", "writer", "reader"))
    run(
        postgres,
        f"CREATE ROLE {owner}; CREATE ROLE {writer}; CREATE ROLE {reader}; CREATE SCHEMA s; "
        f"GRANT USAGE ON SCHEMA s TO {writer} WITH GRANT OPTION; SET ROLE {writer}; "
        f"GRANT USAGE ON SCHEMA s TO {reader}",
        database,
    )
    spec = {
        "schemas": [{"name": "s", "owner": owner}, {"name": "more"}],
        "roles": [{"name": reader}, {"name": writer, "memberOf": [{"role": owner}]}],
        "grantMode": "Authoritative",
    }
    one = member(database, spec, adoption="Allow", destructive="Allow")
    async with engine(postgres) as server:
        result = await only(server, one)
        assert reasons(result) == {f"role {reader}": "Unsupported"}
        assert f"was given to {reader} by {writer}" in result.problems[0].message
        assert rows(postgres, "SELECT count(*) FROM pg_namespace WHERE nspname = 'more'", dbname=database) == [(1,)]
        assert reasons(await only(server, one)) == {f"role {reader}": "Unsupported"}, "it stays so, and says so"
        run(  # what the message says
            postgres,
            f"REVOKE {owner} FROM {writer}; GRANT USAGE ON SCHEMA s TO {writer} WITH GRANT OPTION; "
            f"REVOKE USAGE ON SCHEMA s FROM {writer} CASCADE",
            database,
        )
        await ready(server, one)
        query = "SELECT has_schema_privilege(%s, 's', 'USAGE')"
        assert rows(postgres, query, reader, dbname=database) == [(False,)]
