"""Claims that somebody else owns, or hung code on: they are neither read nor written as the administrator."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox import PostgresEndpoint
from selvedge.core.errors import RefusedError
from tests.engines.postgres_support import converge, engine, member, ready, rows, run, unit

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("xml", [True, False], ids=["one statement", "without XML"])
@pytest.mark.parametrize("where", ["database", "maintenance"])
@pytest.mark.parametrize("what", ["schema", "view", "table", "foreign schema"])
async def test_claims_that_somebody_else_owns_are_never_read(
    postgres: PostgresEndpoint, database_name: str, what: str, where: str, xml: bool
) -> None:
    """Reading a view, or writing to a table with a trigger, would run its owner's code as the administrator."""
    role = f"{database_name}_evil"
    run(postgres, f"CREATE DATABASE {database_name}")
    run(postgres, f"CREATE ROLE {role}; GRANT CREATE ON DATABASE {database_name} TO {role}")
    run(
        postgres,
        f"""SET ROLE {role};
        CREATE SCHEMA selvedge;
        CREATE FUNCTION selvedge.take() RETURNS text LANGUAGE plpgsql AS
          $$ BEGIN EXECUTE 'ALTER ROLE {role} SUPERUSER'; RETURN ''; END $$""",
        database_name,
    )
    if what != "schema":
        kind = (
            "VIEW selvedge.claims AS SELECT selvedge.take() AS object"
            if what == "view"
            else (
                "TABLE selvedge.claims (object text PRIMARY KEY, cluster text, resource text, uid text, detail jsonb, "
                "since timestamptz DEFAULT now(), x text DEFAULT selvedge.take())"
            )
        )
        run(postgres, f"SET ROLE {role}; CREATE {kind}", database_name)
    if what == "foreign schema":  # the table is the administrator's, and the schema could be renamed under it
        run(postgres, "ALTER TABLE selvedge.claims OWNER TO CURRENT_USER", database_name)
    one = member(database_name, {"schemas": [{"name": "shared"}]}, adoption="Allow")
    known = replace(one, verified=True)
    maintenance = database_name if where == "maintenance" else "postgres"
    async with engine(postgres, maintenance_database=maintenance) as server:
        server.pool.shared.reads_xml = xml
        with pytest.raises(RefusedError, match=f"role {role} owns the operator's schema"):
            await converge(server, known)
        for _ in range(2):
            with pytest.raises(RefusedError, match=f"role {role} owns the operator's schema"):
                await converge(server, one)
        with pytest.raises(RefusedError):
            await server.plan(unit(one))
    assert rows(postgres, "SELECT rolsuper FROM pg_roles WHERE rolname = %s", role) == [(False,)]


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
async def test_claims_that_are_no_table_are_never_read(
    postgres: PostgresEndpoint, database_name: str, kind: str
) -> None:
    """Not even where the administrator owns them: what they call may be somebody else's."""
    run(postgres, f"CREATE DATABASE {database_name}")
    run(postgres, "CREATE SCHEMA selvedge; CREATE FUNCTION public.boom() RETURNS int LANGUAGE sql AS 'SELECT 1/0'",
        database_name)  # fmt: skip
    columns = "''::text AS object, ''::text AS cluster, ''::text AS resource, ''::text AS uid, public.boom() AS detail"
    end = " WITH NO DATA" if kind != "VIEW" else ""
    run(postgres, f"CREATE {kind} selvedge.claims AS SELECT {columns}{end}", database_name)
    one = member(database_name, {"schemas": [{"name": "shared"}]}, adoption="Allow")
    async with engine(postgres) as server:
        for single in (one, replace(one, verified=True)):
            with pytest.raises(RefusedError, match="claims there is no plain table"):
                await converge(server, single)
    made = "SELECT FROM pg_namespace WHERE nspname = 'shared'"
    assert rows(postgres, made, dbname=database_name) == [], "nothing was made"


CODE = {
    "has triggers": "CREATE TRIGGER t BEFORE INSERT ON selvedge.claims EXECUTE FUNCTION public.boom_trigger()",
    "has rules": "CREATE RULE r AS ON INSERT TO selvedge.claims DO ALSO SELECT public.boom()",
    "has tables that inherit": "CREATE TABLE public.child () INHERITS (selvedge.claims)",
    "has row-level security": "ALTER TABLE selvedge.claims ENABLE ROW LEVEL SECURITY",
}


@pytest.mark.parametrize("flaw", CODE)
async def test_claims_with_somebodys_code_are_not_written(postgres: PostgresEndpoint, database: str, flaw: str) -> None:
    """Who was given TRIGGER, or made the table that the administrator then took over."""
    one = member(database, {"schemas": [{"name": "shared"}]}, adoption="Allow")
    more = replace(one, spec=member(database, {"schemas": [{"name": "shared"}, {"name": "more"}]}).spec)
    async with engine(postgres) as server:
        await ready(server, one)
        run(postgres, "CREATE FUNCTION public.boom() RETURNS int LANGUAGE sql AS 'SELECT 1/0'", database)
        body = "CREATE FUNCTION public.boom_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''boom''; END'"
        run(postgres, body, database)
        run(postgres, CODE[flaw], database)
        for single in (more, replace(one, verified=True)):
            with pytest.raises(RefusedError, match=f"table claims there {flaw}"):
                await converge(server, single)
