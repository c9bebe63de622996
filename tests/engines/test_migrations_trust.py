"""A history that somebody else made, or put code on, is neither read nor written by whoever has more rights than he."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import PostgresEndpoint
from tests.engines.migrate_cli_support import Shop, fresh
from tests.engines.migrations_support import SERVERS, server

pytestmark = pytest.mark.engines

#: What the tenant's code does, as far as it may: a superuser's session makes him one.
PAYLOAD = """
CREATE FUNCTION public.payload() RETURNS text LANGUAGE plpgsql AS $$
BEGIN EXECUTE 'ALTER ROLE {tenant} SUPERUSER'; RETURN ''; EXCEPTION WHEN insufficient_privilege THEN RETURN ''; END $$;
CREATE FUNCTION public.payload_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM public.payload(); RETURN NEW; END $$;
"""
COLUMNS = """
  scope text NOT NULL DEFAULT '', key text NOT NULL, version numeric(20) NOT NULL, name text NOT NULL,
  kind text NOT NULL DEFAULT 'Versioned', checksum_up text NOT NULL, checksum_down text, up_text text NOT NULL,
  down_text text, state text NOT NULL, direction text NOT NULL DEFAULT 'up', statements_done integer NOT NULL,
  statements_total integer NOT NULL, cursor_hash text NOT NULL DEFAULT '', started boolean NOT NULL DEFAULT false,
  transaction_mode text NOT NULL, applied_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  duration_ms bigint, applied_by text NOT NULL DEFAULT session_user, run_uid text NOT NULL DEFAULT '',
  tool_version text NOT NULL, error text{more}, PRIMARY KEY (scope, key)"""
EVENTS = """
CREATE TABLE selvedge.events (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  scope text NOT NULL DEFAULT '', version numeric(20), name text NOT NULL DEFAULT '', event text NOT NULL,
  checksum text NOT NULL DEFAULT '', actor text NOT NULL DEFAULT session_user, run_uid text NOT NULL DEFAULT '',
  message text NOT NULL DEFAULT '', key text NOT NULL DEFAULT '');
"""
MARK = "COMMENT ON TABLE selvedge.history IS 'selvedge: migrations, shape 4, works for 3';"
TABLE = f"CREATE TABLE selvedge.history ({COLUMNS.format(more='')});{EVENTS}{MARK}"
TRIGGER = "BEFORE INSERT OR UPDATE ON selvedge.{} FOR EACH ROW EXECUTE FUNCTION public.payload_trigger();"
#: The same where an index or a column wants what never changes.
STEADY = (
    "CREATE FUNCTION public.steady() RETURNS text IMMUTABLE LANGUAGE plpgsql "
    "AS $$ BEGIN RETURN public.payload(); END $$;"
)

#: What a tenant with CREATE on the database makes before the history is made.
MADE: dict[str, str] = {
    "the schema alone": "",
    "a plain table": TABLE,
    "a view": "CREATE VIEW selvedge.history AS SELECT ''::text AS scope, ''::text AS key, 1::numeric AS version, "
    "public.payload() AS name, ''::text AS kind, ''::text AS checksum_up, ''::text AS checksum_down, "
    "''::text AS up_text, ''::text AS down_text, 'Applied'::text AS state, 'up'::text AS direction, "
    "1 AS statements_done, 1 AS statements_total, ''::text AS cursor_hash, false AS started, "
    f"now() AS applied_at, 1::bigint AS duration_ms, ''::text AS applied_by;{EVENTS}",
    "a trigger": f"{TABLE}CREATE TRIGGER t {TRIGGER.format('history')}",
    "a trigger on events": f"{TABLE}CREATE TRIGGER t {TRIGGER.format('events')}",
    "a rule": f"{TABLE}CREATE RULE r AS ON INSERT TO selvedge.history DO ALSO SELECT public.payload();",
    "a default": TABLE + "ALTER TABLE selvedge.history ALTER COLUMN error SET DEFAULT public.payload();",
    "a check": f"{TABLE}ALTER TABLE selvedge.history ADD CHECK (public.payload() = '');",
    "an index": f"{TABLE}{STEADY}CREATE INDEX ON selvedge.history ((public.steady() || name));",
    "a generated column": f"{STEADY}CREATE TABLE selvedge.history ("
    + COLUMNS.format(more=", more text GENERATED ALWAYS AS (public.steady() || name) STORED")
    + f");{EVENTS}{MARK}",
    "a domain": "CREATE DOMAIN public.word AS text CHECK (public.payload() = '');"
    f"CREATE TABLE selvedge.history ({COLUMNS.format(more=', more public.word')});{EVENTS}{MARK}",
    "row-level security": f"{TABLE}CREATE POLICY p ON selvedge.history USING (public.payload() = '');"
    "ALTER TABLE selvedge.history ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;",
    "a table that inherits": f"{TABLE}CREATE TABLE public.child (more text) INHERITS (selvedge.history);"
    "CREATE TRIGGER t BEFORE INSERT ON public.child FOR EACH ROW EXECUTE FUNCTION public.payload_trigger();",
    "a foreign key": f"{TABLE}CREATE TABLE public.child (scope text, key text, "
    "FOREIGN KEY (scope, key) REFERENCES selvedge.history ON DELETE CASCADE);",
}
#: The same on a history that an administrator owns, because it was given to him: what still runs somebody's code.
GIVEN = sorted(set(MADE) - {"the schema alone", "a plain table"})


@pytest.fixture
def shop(postgres: PostgresEndpoint, tmp_path: Path) -> Iterator[Shop]:
    with fresh(postgres, tmp_path / "migrations") as shop:
        yield shop


@pytest.fixture(params=SERVERS)
def newest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    with fresh(server(request), tmp_path / "migrations") as shop:
        yield shop


def prepare(shop: Shop, made: str) -> str:
    """A tenant who may create schemas, and what he makes."""
    tenant = f"{shop.name}_tenant"
    shop.query(f"CREATE ROLE {tenant}; GRANT CREATE ON DATABASE {shop.name} TO {tenant}")
    shop.query("GRANT CREATE ON SCHEMA public TO PUBLIC")
    shop.query(f"SET ROLE {tenant}; {PAYLOAD.format(tenant=tenant)} CREATE SCHEMA selvedge; {made}")
    return tenant


def untouched(shop: Shop, tenant: str) -> None:
    assert shop.query(f"SELECT rolsuper FROM pg_roles WHERE rolname = '{tenant}'") == [(False,)]
    assert shop.query("SELECT to_regclass('public.users')") == [(None,)]


@pytest.mark.parametrize("made", MADE)
def test_what_a_tenant_made_beforehand_is_refused(shop: Shop, made: str) -> None:
    tenant = prepare(shop, MADE[made])
    for command in (("status",), ("plan",), ("up",), ("repair", "--mark-applied", "all", "--reason", "x", "--yes")):
        result = shop.migrate(*command)
        untouched(shop, tenant)
        assert result.exit_code == 1, (command, result.stdout)
        assert f"schema selvedge in database {shop.name} belongs to role {tenant}" in result.stderr, command
        assert f"if what is in it is yours, run this as {tenant}; if not, drop it" in result.stderr
        assert "OWNER TO" not in result.stderr, "a superuser needs not have it"
    if made == "the schema alone":
        # not even the table is his: who owns the schema may drop it, and put something else in its place
        shop.query("CREATE TABLE selvedge.history (id int)")
        assert shop.migrate("up").exit_code == 1


def test_an_operators_claims_are_not_given_away(newest: Shop) -> None:
    """The schema in which they lie is not to be another administrator's, even if the history is."""
    shop = newest
    tenant, other = prepare(shop, TABLE), f"{shop.name}_other"
    shop.query(f"CREATE ROLE {other} LOGIN CREATEROLE PASSWORD 'word'; GRANT CREATE ON DATABASE {shop.name} TO {other}")
    said = shop.migrate("status", user=other, password="word").stderr
    assert f'run this as {tenant}, or give it to {other} (ALTER SCHEMA "selvedge" OWNER TO "{other}"; ' in said
    shop.query("CREATE TABLE selvedge.claims (id int)")
    said = shop.migrate("status", user=other, password="word").stderr
    assert f"run this as {tenant}; if not, drop it" in said
    assert "OWNER TO" not in said


def test_a_table_in_a_schema_of_ours(shop: Shop) -> None:
    """Somebody was let into the schema, and was there first."""
    tenant = prepare(shop, "")
    shop.query(f"ALTER SCHEMA selvedge OWNER TO {shop.endpoint.username}; GRANT ALL ON SCHEMA selvedge TO {tenant}")
    shop.query(f"SET ROLE {tenant}; {TABLE}")
    for table, other in (("history", "events"), ("events", "history")):
        shop.query(f"ALTER TABLE selvedge.{other} OWNER TO {shop.endpoint.username}")
        result = shop.migrate("up")
        assert result.exit_code == 1
        assert f"table selvedge.{table} in database {shop.name} belongs to role {tenant}" in result.stderr
        shop.query(f"ALTER TABLE selvedge.{other} OWNER TO {tenant}")


@pytest.mark.parametrize("made", GIVEN)
def test_what_was_given_to_an_administrator_still_runs_the_tenants_code(newest: Shop, made: str) -> None:
    shop = newest
    tenant = prepare(shop, MADE[made])
    me = shop.endpoint.username
    shop.query(f"ALTER SCHEMA selvedge OWNER TO {me}; ALTER TABLE selvedge.history OWNER TO {me}")
    shop.query(f"ALTER TABLE selvedge.events OWNER TO {me}")
    for command in ("status", "up"):
        result = shop.migrate(command)
        untouched(shop, tenant)
        assert result.exit_code == 1, result.stdout
        assert f"database {shop.name}" in result.stderr
        assert "table selvedge." in result.stderr


def test_a_login_without_rights_goes_on_with_what_it_trusts(shop: Shop) -> None:
    """The history of the database's owner, of an administrator, of a role that it is a member of; of nobody else."""
    tenant = prepare(shop, TABLE)
    deployer = f"{shop.name}_deployer"
    shop.query(f"CREATE ROLE {deployer} LOGIN PASSWORD 'word'; GRANT CREATE ON DATABASE {shop.name} TO {deployer}")
    shop.query(f"GRANT USAGE ON SCHEMA selvedge TO {deployer}; GRANT ALL ON SCHEMA public TO {deployer}")
    shop.query(f"GRANT ALL ON ALL TABLES IN SCHEMA selvedge TO {deployer}")

    def up(*arguments: str) -> tuple[int, str]:
        result = shop.migrate(*(arguments or ("up",)), user=deployer, password="word")
        return result.exit_code, result.stderr

    assert shop.migrate("status", user=deployer, password="word").exit_code == 2, "reading a plain table is harmless"
    code, said = up()
    assert (code, f"schema selvedge in database {shop.name} belongs to role {tenant}" in said) == (1, True), said
    untouched(shop, tenant)
    for trust, distrust in (
        (f"ALTER DATABASE {shop.name} OWNER TO {tenant}", f"ALTER DATABASE {shop.name} OWNER TO {shop.owner}"),
        (f"ALTER ROLE {tenant} CREATEROLE", f"ALTER ROLE {tenant} NOCREATEROLE"),
        (f"GRANT {tenant} TO {deployer}", f"REVOKE {tenant} FROM {deployer}"),
    ):
        shop.query(trust)
        assert up()[0] == 0, trust
        assert up("to", "0", "--yes")[0] == 0
        shop.query(distrust)
        assert up()[0] == 1
    # what would run somebody's code is refused from everybody
    shop.query(f"ALTER ROLE {tenant} CREATEROLE; SET ROLE {tenant}; CREATE TRIGGER t {TRIGGER.format('history')}")
    for command in ("status", "up"):
        assert "table selvedge.history in database" in shop.migrate(command, user=deployer, password="word").stderr


def test_default_privileges_do_not_open_the_history(shop: Shop) -> None:
    """Who was let into the schema to wait for a version could write the history, and hang a trigger on it."""
    app = f"{shop.name}_app"
    shop.query(f"CREATE ROLE {app}; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {app}, PUBLIC")
    assert shop.migrate("up").exit_code == 0
    for table in ("history", "events"):
        acl = shop.query(f"""SELECT coalesce(r.rolname, 'PUBLIC')::text FROM pg_class c,
          aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
          WHERE c.oid = 'selvedge.{table}'::regclass GROUP BY 1""")
        assert sorted(acl) == sorted([(shop.endpoint.username,), (f"{shop.name}_migrator",)])
