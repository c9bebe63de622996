"""The audit log against everybody who has a say in the database: other declarations, grants by hand, earlier tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.engines.postgres_support import converge, engine, member, only, ready, reasons, rows, run, unit
from tests.engines.tables_support import application, declaration, migrate, stands
from tests.engines.test_postgres_audit import AUDIT, audited, first_partition

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint
    from selvedge.engines.base import Member

pytestmark = pytest.mark.engines

#: Who holds what on the logs, their partitions and all columns of these, besides the owner.
ACCESS = """
SELECT l.relname, c.relname = l.relname, a.attname, e.grantee::regrole::text, e.privilege_type, e.is_grantable
FROM pg_class l CROSS JOIN LATERAL pg_partition_tree(l.oid) t JOIN pg_class c ON c.oid = t.relid
CROSS JOIN LATERAL (SELECT NULL AS attname, c.relacl AS acl UNION ALL
  SELECT attname, attacl FROM pg_attribute WHERE attrelid = c.oid AND attacl IS NOT NULL) a,
  aclexplode(a.acl) e
WHERE l.relnamespace = 'audit'::regnamespace AND l.relkind = 'p' AND e.grantee <> c.relowner ORDER BY 1, 2, 3, 4, 5
"""
OWNERS = """SELECT DISTINCT c.relowner::regrole::text FROM pg_class l CROSS JOIN LATERAL pg_partition_tree(l.oid) t
JOIN pg_class c ON c.oid = t.relid WHERE l.relnamespace = 'audit'::regnamespace AND l.relkind = 'p'"""


def grant(name: str, words: str, objects: dict[str, Any], *to: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "privileges": words.split(), "objects": objects, "to": list(to), **more}


def another(name: str, *grants: dict[str, Any]) -> Member:
    """A DatabaseSchema of another team on the same database."""
    return member(name, {"roles": [{"name": f"{name}_other"}], "grants": list(grants)}, name="other", namespace="team")


async def test_no_declaration_of_others_opens_the_log(postgres: PostgresEndpoint, database_name: str) -> None:
    """Each grant is refused by name with the next step; what is beside the log in it is given."""
    name, other, app = database_name, f"{database_name}_other", f"{database_name}_app"
    log, events = "audit.database_operations", "audit.audit_logs"
    own = declaration(name, audit=AUDIT)
    own["grants"] += [
        grant("reads", "SELECT", {"tables": [log]}, app),
        grant("some", "SELECT", {"columns": [{"table": events, "columns": ["action"]}]}, app),
        grant("purges", "DELETE TRUNCATE", {"tables": [log, "shared.notes"]}, app),
    ]
    async with engine(postgres) as one:
        await only(one, member(name, own))
        migrate(postgres, name)
        run(postgres, "CREATE TABLE audit.beside (id int)", dbname=name)
        await only(one, member(name, own))
        partition = "audit." + first_partition(postgres, name, log).removeprefix("audit.")
        theirs = another(
            name,
            grant("update", "UPDATE", {"tables": [log]}, other),
            grant("read", "SELECT", {"tables": [log]}, other),
            grant("all", "SELECT INSERT UPDATE DELETE", {"tablesIn": ["audit"]}, other),
            grant("column", "UPDATE", {"columns": [{"table": events, "columns": ["user_id"]}]}, other),
            grant("pass-on", "INSERT", {"tables": [events]}, f"{name}_owner", grantOption=True),
            grant("partition", "SELECT", {"tables": [partition]}, other),
            grant("event", "INSERT", {"tables": [events]}, other),
            grant("forge", "EXECUTE", {"functions": ["audit.record_changes()"]}, other),
            grant("functions", "EXECUTE", {"functionsIn": ["audit"]}, other),
        )
        result = await converge(one, member(name, own), theirs)
        mine, found = result.members[member(name, own).uid], result.members[theirs.uid]
        again = await converge(one, member(name, own), theirs)
        assert [each.applied for each in again.members.values()] == [(), ()]
    assert reasons(mine) == {"grant purges": "Conflict"}
    assert "DELETE, TRUNCATE on audit.database_operations" in mine.problems[0].message
    assert set(reasons(found)) == {f"grant {x}" for x in ("update", "read", "column", "pass-on", "partition", "forge")}
    assert {problem.reason.value for problem in found.problems} == {"Conflict"}
    messages = {problem.ref.name: problem.message for problem in found.problems}
    assert "DatabaseSchema shop/shop" in messages["read"]
    assert "declare the grant there" in messages["read"]
    assert "leave grantOption out" in messages["pass-on"]
    assert any("covers schema audit" in text and "DELETE" in text for text in found.advice)
    writer = f"{name}_audit_writer"
    assert rows(postgres, ACCESS, dbname=name) == [
        ("audit_logs", True, "action", app, "SELECT", False),
        ("audit_logs", True, None, writer, "INSERT", False),
        ("audit_logs", True, None, other, "INSERT", False),
        ("database_operations", True, None, app, "SELECT", False),
        ("database_operations", True, None, writer, "INSERT", False),
    ]
    executed = "SELECT bool_or(has_function_privilege(%s, oid, 'EXECUTE')) FROM pg_proc WHERE pronamespace = "
    assert rows(postgres, f"{executed} 'audit'::regnamespace", other, dbname=name) == [(False,)]
    held = rows(postgres, "SELECT has_table_privilege(%s, 'audit.beside', 'DELETE')", other, dbname=name)
    assert held == [(True,)]


BY_HAND = """
GRANT SELECT ON audit.database_operations TO {app};
GRANT UPDATE (user_id), SELECT (old_values) ON audit.database_operations TO {app};
GRANT DELETE ON {partition} TO PUBLIC;
GRANT UPDATE (new_values) ON {partition} TO {app};
ALTER TABLE {partition} OWNER TO {app};
GRANT INSERT ON audit.audit_logs TO {app} WITH GRANT OPTION;
GRANT USAGE ON SCHEMA audit TO {app};
GRANT DELETE ON audit.audit_logs TO {name}_third WITH GRANT OPTION;
GRANT USAGE ON SCHEMA audit TO {name}_third;
SET ROLE {name}_third;
GRANT DELETE ON audit.audit_logs TO {app};
RESET ROLE;
GRANT {name}_audit TO {name}_third WITH ADMIN OPTION;
SET ROLE {name}_third;
GRANT {name}_audit TO {app};
RESET ROLE;
GRANT {name}_audit_writer TO {app};
REVOKE DELETE ON audit.audit_logs FROM {name}_third CASCADE;
"""


async def test_what_is_given_by_hand_is_drift_whoever_gave_it(postgres: PostgresEndpoint, database_name: str) -> None:
    """On the log, its partitions and columns, by third parties, and memberships by third parties."""
    name = database_name
    async with engine(postgres) as one:
        await stands(one, postgres, audited(name))
        before, owners = rows(postgres, ACCESS, dbname=name), rows(postgres, OWNERS, dbname=name)
        partition = first_partition(postgres, name, "audit.database_operations")
        words = {"{app}": f"{name}_app", "{partition}": partition, "{name}": name}
        statements = f"CREATE ROLE {name}_third;" + BY_HAND
        for word, value in words.items():
            statements = statements.replace(word, value)
        run(postgres, statements, dbname=name)
        assert len(rows(postgres, ACCESS, dbname=name)) > len(before)
        verified = audited(name, verified=True)
        planned = (await one.plan(unit(verified))).members[verified.uid]
        repaired = await ready(one, verified)
        assert "audit" in {ref.kind for ref in repaired.drift}
        assert {x.statement for x in repaired.applied} <= {x.statement for x in planned.pending}
        assert (await ready(one, verified)).applied == ()
    assert rows(postgres, ACCESS, dbname=name) == before
    assert rows(postgres, OWNERS, dbname=name) == owners == [(f"{name}_audit",)]
    for role in (f"{name}_app", f"{name}_third"):
        for audit in ("audit", "audit_writer"):
            held = rows(postgres, "SELECT pg_has_role(%s, %s, 'MEMBER')", role, f"{name}_{audit}")
            assert held == [(False,)], (role, audit)


async def test_default_privileges_do_not_open_a_new_log(postgres: PostgresEndpoint, database_name: str) -> None:
    """Neither those of the operator's login, which makes the tables, nor for one moment."""
    name = database_name
    async with engine(postgres) as one:
        await only(one, member(name, declaration(name)))
        run(postgres, f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {name}_app", dbname=name)
        migrate(postgres, name)
        first = await ready(one, audited(name))
        assert not any(f'FROM "{name}_app"' in change.statement for change in first.applied)
        assert (await ready(one, audited(name))).applied == ()
    grantees = {row[3] for row in rows(postgres, ACCESS, dbname=name)}
    assert grantees == {f"{name}_audit_writer"}


async def test_a_log_that_was_made_beforehand_is_not_believed(postgres: PostgresEndpoint, database_name: str) -> None:
    """The right columns are not enough: whoever made it may have put a trigger on it that loses entries."""
    name = database_name
    planted = """SET ROLE {owner}; CREATE SCHEMA audit;
    CREATE TABLE audit.database_operations (id uuid DEFAULT gen_random_uuid(), executed_at timestamptz DEFAULT now(),
      transaction_id bigint, table_name text, operation text, record_id text, user_id text, session_role text,
      active_role text, application_name text, ip_address inet, old_values jsonb, new_values jsonb)
      PARTITION BY RANGE (executed_at);
    CREATE FUNCTION audit.lose() RETURNS trigger LANGUAGE plpgsql AS 'begin return null; end';
    CREATE TRIGGER lose BEFORE INSERT ON audit.database_operations FOR EACH ROW EXECUTE FUNCTION audit.lose()"""
    async with engine(postgres) as one:
        await ready(one, member(name, declaration(name)))
        run(postgres, f"GRANT CREATE ON DATABASE {name} TO {name}_owner", dbname=name)
        migrate(postgres, name)
        migrate(postgres, name, planted)
        without_events = {**AUDIT, "applicationLog": False}
        for _ in range(2):
            result = await only(one, audited(name, without_events))
            assert reasons(result) == {"audit audit": "Conflict"}
            assert f"{name}_owner owns it" in result.problems[0].message
        run(postgres, "DROP TABLE audit.database_operations", dbname=name)
        await ready(one, audited(name, without_events))
    with application(postgres, name) as app:
        app.execute("INSERT INTO shared.notes VALUES ('x')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("SELECT FROM audit.database_operations")
    assert rows(postgres, "SELECT count(*) FROM audit.database_operations", dbname=name) == [(1,)]
