"""Code of users that runs while a change is written down, with the rights of the log's writer: it gains nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engines.postgres_support import engine, ready, rows, run
from tests.engines.tables_support import application, migrate, stands
from tests.engines.test_postgres_audit import audited

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint

pytestmark = pytest.mark.engines

#: A row becomes JSON by its type's own cast, which the owner of the type writes.
SMUGGLED = """
SET ROLE {owner};
CREATE TABLE shared.tried (as_whom text, what text, error text);
GRANT INSERT ON shared.tried TO PUBLIC; GRANT USAGE ON SCHEMA shared TO PUBLIC;
CREATE TYPE shared.evil AS ENUM ('bait');
CREATE FUNCTION shared.evil_json(shared.evil) RETURNS json LANGUAGE plpgsql AS $$
DECLARE what text;
BEGIN
  FOREACH what IN ARRAY ARRAY[
    'DELETE FROM audit.database_operations', 'UPDATE audit.database_operations SET user_id = ''nobody''',
    'TRUNCATE audit.database_operations', 'DROP TABLE audit.database_operations',
    'ALTER TABLE audit.database_operations DISABLE TRIGGER ALL', 'SELECT 1 FROM audit.database_operations',
    'ALTER ROLE {owner} SUPERUSER', 'ALTER ROLE {app} CREATEROLE', 'GRANT {name}_audit TO {app}',
    'GRANT {name}_audit_writer TO {app}', 'SET ROLE postgres', 'SET LOCAL session_replication_role = replica',
    'SET SESSION AUTHORIZATION postgres', 'CREATE FUNCTION audit.more() RETURNS int LANGUAGE sql AS ''SELECT 1''',
    'COPY (SELECT 1) TO PROGRAM ''id'''] LOOP
    BEGIN
      EXECUTE what;
      INSERT INTO shared.tried VALUES (current_user, what, NULL);
    EXCEPTION WHEN OTHERS THEN INSERT INTO shared.tried VALUES (current_user, what, sqlerrm);
    END;
  END LOOP;
  BEGIN
    EXECUTE 'ALTER FUNCTION audit.record_changes() RESET ALL';
    EXECUTE 'ALTER FUNCTION audit.record_change() SECURITY INVOKER';
  EXCEPTION WHEN OTHERS THEN NULL;
  END;
  RETURN 'null';
END $$;
CREATE CAST (shared.evil AS json) WITH FUNCTION shared.evil_json(shared.evil);
CREATE TABLE shared.trap (id int PRIMARY KEY, bait shared.evil);
"""


async def test_code_in_a_row_neither_rises_nor_rewrites_the_log(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    log = "SELECT operation, record_id, user_id FROM audit.database_operations WHERE table_name = 'shared.trap'"
    async with engine(postgres) as one:
        await stands(one, postgres, audited(name))
        text = SMUGGLED.replace("{app}", f"{name}_app").replace("{name}", name)
        migrate(postgres, name, text)
        await ready(one, audited(name))
        run(postgres, "DELETE FROM audit.database_operations", dbname=name)
        with application(postgres, name, app__current_user_id="u-7") as app:
            app.execute("INSERT INTO shared.trap VALUES (1, 'bait')")
        tried = rows(postgres, "SELECT as_whom, what, error FROM shared.tried", dbname=name)
        assert len(tried) >= 15
        assert {whom for whom, _, _ in tried} == {f"{name}_audit_writer"}
        assert [what for _, what, error in tried if error is None] == [], "nothing of it was let through"
        assert rows(postgres, log, dbname=name) == [("INSERT", "1", "u-7")]
        powerful = "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) AND (rolsuper OR rolcreaterole)"
        assert rows(postgres, powerful, name) == []
        held = "SELECT pg_has_role(%s, %s, 'MEMBER')"
        for audit in ("audit", "audit_writer"):
            assert rows(postgres, held, f"{name}_app", f"{name}_{audit}") == [(False,)]
        # what the writer may do to its own functions is drift, and is put back
        repaired = await ready(one, audited(name, verified=True))
        assert {str(ref) for ref in repaired.drift} == {"audit audit"}
        assert (await ready(one, audited(name, verified=True))).applied == ()
