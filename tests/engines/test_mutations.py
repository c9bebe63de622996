"""The mutation list: what somebody changes by hand, of every kind that is managed, is found, named and put back.

One declaration of everything in one database. Each mutation is made on what was verified before, has to be named by the
objects of the declaration that it concerns and by no others, and has to be gone after one pass: the facts of the
database are those of before.
"""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import PostgresEndpoint
from tests.engines.fingerprint import Facts, changed, facts
from tests.engines.postgres_support import engine, member, only, ready, run
from tests.engines.rls_support import OWN_ROW

pytestmark = pytest.mark.engines

TABLES = """
SET ROLE {p}_owner;
CREATE TABLE app.users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email text, deleted_at timestamptz,
  updated_at timestamptz NOT NULL DEFAULT now(), version int NOT NULL DEFAULT 1);
CREATE TABLE app.orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);
CREATE TABLE app.readings (at timestamptz NOT NULL, value int) PARTITION BY RANGE (at);
CREATE VIEW app.totals AS SELECT count(*) FROM app.orders;
CREATE SEQUENCE app.numbers;
CREATE FUNCTION app.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION app.f(text) RETURNS int LANGUAGE sql AS 'SELECT 2';
CREATE TYPE app.mood AS ENUM ('sad', 'ok');
RESET ROLE;
"""


def declared(p: str) -> dict[str, Any]:
    read = [f"{p}_read"]
    return {
        "owner": f"{p}_owner",
        "settings": {"statement_timeout": "30s", "search_path": ["app", "public"]},
        "extensions": [{"name": "pgcrypto"}],
        "schemas": [{"name": "app", "comment": "of the shop"}],
        "roles": [
            {"name": f"{p}_owner"},
            {"name": f"{p}_read", "comment": "may read", "settings": {"lock_timeout": "5s"}, "connectionLimit": 9},
            {
                "name": f"{p}_write",
                "memberOf": [{"role": f"{p}_read"}],
                "databaseSettings": {"work_mem": "8MB"},
                "inherit": True,
                "validUntil": "2040-01-01T00:00:00Z",
            },
        ],
        "grantMode": "Authoritative",
        "grants": [
            {"name": "connect", "privileges": ["CONNECT"], "objects": {"database": True}, "to": read},
            {"name": "use", "privileges": ["USAGE"], "objects": {"schemas": ["app"]}, "to": read},
            {"name": "read", "privileges": ["SELECT"], "objects": {"tablesIn": ["app"]}, "to": read},
            {"name": "note", "privileges": ["UPDATE"], "objects": {"columns": [{"table": "app.orders",
             "columns": ["note"]}]}, "to": [f"{p}_write"]},
            {"name": "count", "privileges": ["USAGE"], "objects": {"sequences": ["app.numbers"]}, "to": read},
            {"name": "call", "privileges": ["EXECUTE"], "objects": {"functions": ["app.f(text)"]}, "to": read},
            {"name": "type", "privileges": ["USAGE"], "objects": {"types": ["app.mood"]}, "to": read},
            {"name": "language", "privileges": ["USAGE"], "objects": {"languages": ["sql"]}, "to": read},
            {"name": "no-call", "privileges": ["EXECUTE"], "objects": {"functions": ["app.f(integer)"]},
             "to": ["PUBLIC"], "ensure": "Absent"},
            {"name": "no-temp", "privileges": ["TEMPORARY"], "objects": {"database": True}, "to": ["PUBLIC"],
             "ensure": "Absent"},
        ],
        "defaultPrivileges": [
            {"name": "tables", "creators": [f"{p}_owner"], "schemas": ["app"], "objectType": "Tables",
             "privileges": ["SELECT"], "to": read},
            {"name": "functions", "creators": [f"{p}_owner"], "objectType": "Functions", "privileges": ["EXECUTE"],
             "to": ["PUBLIC"], "ensure": "Absent"},
        ],
        "rowLevelSecurity": [
            {"table": "app.users", "force": True,
             "policies": [{"name": "own", "to": [f"{p}_write"], "using": OWN_ROW}]},
        ],
        "audit": {"schema": "audit", "tables": [{"table": "app.orders"}]},
        "conventions": {
            "updatedAt": {"tablesIn": ["app"]},
            "version": {"tablesIn": ["app"]},
            "softDelete": {"tablesIn": ["app"]},
        },
        "partitions": [{"table": "app.readings", "by": "Time", "column": "at", "every": "Month", "ahead": 2}],
    }  # fmt: skip


_USERS = "rowLevelSecurity app.users"

#: What is done → what it is called.
MUTATIONS: dict[str, tuple[str, set[str]]] = {
    "database owner": ("ALTER DATABASE {p} OWNER TO CURRENT_USER", {"database {p}"}),
    "database setting changed": ("ALTER DATABASE {p} SET statement_timeout = '1s'", {"database {p}"}),
    "database setting reset": ("ALTER DATABASE {p} RESET search_path", {"database {p}"}),
    "schema owner": ("ALTER SCHEMA app OWNER TO CURRENT_USER", {"schema app"}),
    "schema comment": ("COMMENT ON SCHEMA app IS NULL", {"schema app"}),
    "extension dropped": ("DROP EXTENSION pgcrypto", {"extension pgcrypto"}),
    "role comment": ("COMMENT ON ROLE {p}_read IS 'x'", {"role {p}_read"}),
    "role setting changed": ("ALTER ROLE {p}_read SET lock_timeout = '1s'", {"role {p}_read"}),
    "role setting reset": ("ALTER ROLE {p}_read RESET lock_timeout", {"role {p}_read"}),
    "role setting in the database": ("ALTER ROLE {p}_write IN DATABASE {p} RESET work_mem", {"role {p}_write"}),
    "role connection limit": ("ALTER ROLE {p}_read CONNECTION LIMIT -1", {"role {p}_read"}),
    "role valid until": ("ALTER ROLE {p}_write VALID UNTIL 'infinity'", {"role {p}_write"}),
    "role without inherit": ("ALTER ROLE {p}_write NOINHERIT", {"role {p}_write"}),
    "role may log in": ("ALTER ROLE {p}_write LOGIN", {"role {p}_write"}),
    "role bypasses row-level security": ("ALTER ROLE {p}_write BYPASSRLS", {"role {p}_write"}),
    "role makes roles": ("ALTER ROLE {p}_read CREATEROLE", {"role {p}_read"}),
    "membership removed": ("REVOKE {p}_read FROM {p}_write", {"role {p}_write"}),
    "membership added": ("GRANT pg_read_all_data TO {p}_write", {"role {p}_write"}),
    "membership may be passed on": ("GRANT {p}_read TO {p}_write WITH ADMIN OPTION", {"role {p}_write"}),
    "grant on the database revoked": ("REVOKE CONNECT ON DATABASE {p} FROM {p}_read", {"grant connect"}),
    "grant on the database to PUBLIC": ("GRANT TEMPORARY ON DATABASE {p} TO PUBLIC", {"grant no-temp"}),
    "grant on a schema revoked": ("REVOKE USAGE ON SCHEMA app FROM {p}_read", {"grant use"}),
    "grant on a schema beyond": ("GRANT CREATE ON SCHEMA app TO {p}_write", {"role {p}_write"}),
    "grant on a table revoked": ("REVOKE SELECT ON app.orders FROM {p}_read", {"grant read"}),
    "grant on a view revoked": ("REVOKE SELECT ON app.totals FROM {p}_read", {"grant read"}),
    "grant on a table beyond": ("GRANT DELETE ON app.orders TO {p}_write", {"role {p}_write"}),
    "grant option": ("GRANT SELECT ON app.orders TO {p}_read WITH GRANT OPTION", {"grant read"}),
    "grant by a third party": (
        """GRANT INSERT ON app.orders TO {p}_by WITH GRANT OPTION; GRANT USAGE ON SCHEMA app TO {p}_by;
        SET ROLE {p}_by; GRANT INSERT ON app.orders TO {p}_write; RESET ROLE""",
        {"role {p}_write"},
    ),
    "grant on a column revoked": ("REVOKE UPDATE (note) ON app.orders FROM {p}_write", {"grant note"}),
    "grant on a column beyond": ("GRANT SELECT (email) ON app.users TO {p}_write", {"role {p}_write"}),
    "grant on a sequence revoked": ("REVOKE USAGE ON SEQUENCE app.numbers FROM {p}_read", {"grant count"}),
    "grant on an overload revoked": ("REVOKE EXECUTE ON FUNCTION app.f(text) FROM {p}_read", {"grant call"}),
    # Two entries take it away, as the owner's functions are nobody's by default: the last one names it.
    "grant on an overload to PUBLIC": (
        "GRANT EXECUTE ON FUNCTION app.f(integer) TO PUBLIC",
        {"defaultPrivilege functions"},
    ),
    "grant on a type revoked": ("REVOKE USAGE ON TYPE app.mood FROM {p}_read", {"grant type"}),
    "grant on a language revoked": ("REVOKE USAGE ON LANGUAGE sql FROM {p}_read", {"grant language"}),
    "default privileges revoked": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {p}_owner IN SCHEMA app REVOKE SELECT ON TABLES FROM {p}_read",
        {"defaultPrivilege tables"},
    ),
    "default privileges with grant option": (
        """ALTER DEFAULT PRIVILEGES FOR ROLE {p}_owner IN SCHEMA app
        GRANT SELECT ON TABLES TO {p}_read WITH GRANT OPTION""",
        {"defaultPrivilege tables"},
    ),
    "global default privileges of PUBLIC": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {p}_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        {"defaultPrivilege functions"},
    ),
    "row-level security disabled": ("ALTER TABLE app.users DISABLE ROW LEVEL SECURITY", {_USERS}),
    "row-level security not forced": ("ALTER TABLE app.users NO FORCE ROW LEVEL SECURITY", {_USERS}),
    "policy dropped": ("DROP POLICY own ON app.users", {_USERS}),
    "policy weakened": ("ALTER POLICY own ON app.users USING (true)", {_USERS}),
    "policy for everybody": ("ALTER POLICY own ON app.users TO PUBLIC", {_USERS}),
    "policy beside it": ("CREATE POLICY open ON app.users USING (true)", {_USERS}),
    "policy of another mode": (
        f"""DROP POLICY own ON app.users;
        CREATE POLICY own ON app.users AS RESTRICTIVE TO {{p}}_write USING ({OWN_ROW})""",
        {_USERS},
    ),
    "audit trigger disabled": ("ALTER TABLE app.orders DISABLE TRIGGER selvedge_audit_update", {"audit audit"}),
    "audit trigger dropped": ("DROP TRIGGER selvedge_audit_delete ON app.orders", {"audit audit"}),
    "audit log opened": ("GRANT DELETE ON audit.database_operations TO {p}_write", {"audit audit"}),
    "updated_at trigger dropped": ("DROP TRIGGER selvedge_updated_at ON app.users", {"updatedAt app.users"}),
    "soft delete view dropped": ("DROP VIEW app.active_users", {"softDelete app.active_users", "grant read"}),
    # A partition that is missing is made; that is no drift, as the same happens whenever time has passed.
    "partition dropped": (
        """DO $$ BEGIN EXECUTE (SELECT format('DROP TABLE %s', max(inhrelid::regclass::text)) FROM pg_inherits
        WHERE inhparent = 'app.readings'::regclass); END $$""",
        {"partitions app.readings"},
    ),
}  # fmt: skip


#: Facts about a role, whose name comes first in the key; a setting of the database itself names none.
_OF_ROLES = {"role", "role comment", "member", "default", "setting"}


async def test_every_mutation_is_found_named_and_repaired(postgres: PostgresEndpoint, database_name: str) -> None:
    assert len(MUTATIONS) >= 40
    p = database_name
    run(postgres, f"CREATE ROLE {p}_by")
    one = member(p, declared(p))
    known = member(p, declared(p), verified=True)
    wrong: dict[str, Any] = {}
    async with engine(postgres) as server:
        await only(server, one)
        run(postgres, TABLES.replace("{p}", p), p)
        await ready(server, one)
        assert ((again := await ready(server, known)).drift, again.applied) == ((), ())
        before = look(postgres, p)
        for what, (statements, names) in MUTATIONS.items():
            run(postgres, statements.replace("{p}", p), p)
            assert changed(before, look(postgres, p)), f"{what}: nothing was changed"
            found = await only(server, known)
            named = {str(change.ref) for change in found.applied}
            drift = {str(ref) for ref in found.drift}
            again = await only(server, known)
            left = changed(before, look(postgres, p))
            if what == "grant by a third party":  # what the third party itself got is not declared
                left = {fact: values for fact, values in left.items() if f"{p}_by" not in fact.key}
                run(postgres, f"REVOKE ALL ON app.orders, app.users FROM {p}_by CASCADE; "
                              f"REVOKE ALL ON SCHEMA app FROM {p}_by", p)  # fmt: skip
            expected = {name.replace("{p}", p) for name in names}
            problems = [str(problem.message) for problem in (*found.problems, *again.problems)]
            told = drift <= named and bool(drift or what == "partition dropped")
            if (named, told, again.applied, problems, left) != (expected, True, (), [], {}):
                wrong[what] = {
                    "named": named,
                    "drift": drift,
                    "twice": again.applied,
                    "problems": problems,
                    "left": left,
                }
    for what, found_wrong in wrong.items():
        print(what, found_wrong)
    assert list(wrong) == []


def look(endpoint: PostgresEndpoint, name: str) -> Facts:
    """The facts of the database and of this test's roles: others work on the same server.

    Without the operator's own logins, whose end moves on with each use.
    """
    with endpoint.connect(name) as connection:
        found = facts(connection, "")
    own = {f"{name}_{purpose}" for purpose in ("probe", "policies", "partitions")}
    return {
        fact: value
        for fact, value in found.items()
        if not own & set(fact.key) and (fact.kind not in _OF_ROLES or not fact.key[0] or fact.key[0].startswith(name))
    }
