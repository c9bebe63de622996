"""A MigrationRun whose author wants more than the migrations' role may do gains nothing: through the whole operator."""

from __future__ import annotations

import pytest

from tests.cluster.world import World

ESCAPES = ("", "RESET ROLE;\n", "SELECT set_config('role', 'none', false);\n")
ATTACKS = {
    "superuser": 'ALTER ROLE "{login}" SUPERUSER;',
    "owner-superuser": 'ALTER ROLE "{owner}" SUPERUSER;',
    "program": "COPY (SELECT 1) TO PROGRAM 'touch /tmp/{login}';",
    "administrator": "SET ROLE {administrator};",
    "authorization": "SET SESSION AUTHORIZATION {administrator};",
    "membership": 'GRANT {administrator} TO "{login}";',
    "new-role": "CREATE ROLE {login}_evil SUPERUSER LOGIN;",
    "claims": "UPDATE selvedge.claims SET uid = 'mine';",
    # going back takes rows out of the history; what was done stands in the events, which only grow
    "events": "DELETE FROM selvedge.events;",
    "definer": "CREATE FUNCTION shop.f() RETURNS void LANGUAGE sql SECURITY DEFINER"
    " AS 'ALTER ROLE \"{login}\" SUPERUSER';\nSELECT shop.f();",
}
TRIGGER = """-- migrate:up
CREATE FUNCTION shop.steal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM set_config('role', 'none', false); EXECUTE 'ALTER ROLE "{login}" SUPERUSER'; RETURN NULL; END $$;
CREATE TABLE shop.bait (id int);
CREATE TRIGGER steal AFTER INSERT ON shop.bait FOR EACH STATEMENT EXECUTE FUNCTION shop.steal();
CREATE VIEW shop.lure AS SELECT set_config('role', 'none', false) FROM shop.bait;
"""


@pytest.mark.newest  # both versions: tests/engines/test_migrations_attack.py
@pytest.mark.usefixtures("postgres")
def test_hostile_migrations_gain_nothing(world: World):
    owner, login = world.role("owner"), f"{world.name}_migrator"
    names = {"owner": owner, "login": login, "administrator": world.endpoint.username}
    postgres = {"owner": owner, "roles": [{"name": owner}], "schemas": [{"name": "shop", "owner": owner}]}
    world.schema("shop", migrations=world.trigger(), postgres=postgres)
    world.ready("DatabaseSchema", "shop")
    for number, escape in enumerate(ESCAPES):
        for name, attack in ATTACKS.items():
            text = f"-- migrate:up\nCREATE TABLE shop.t (id int);\n{escape}{attack.format(**names)}\n"
            run = f"{name}-{number}"
            source = {"inline": {"files": {"20250101000000_x.sql": text}}}
            # whoever attacks has no scruples about losing data either
            spec = {"schemaRef": {"name": "shop"}, "destructive": "Allow", "source": source}
            world.api.apply({"kind": "MigrationRun", "metadata": {"name": run}, "spec": spec})
    for number in range(len(ESCAPES)):
        for name in ATTACKS:
            failed = world.until("MigrationRun", f"{name}-{number}", "False", "StatementFailed", timeout=60)
            error = failed["status"]["migrations"][0]["error"]
            assert error["file"] == "20250101000000_x.sql", name
            assert failed["status"]["phase"] == "Failed", name
    assert world.ask("SELECT to_regclass('shop.t')") is None
    gained = world.sql(
        f"SELECT rolname FROM pg_roles WHERE starts_with(rolname, '{world.name}')"
        " AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication)"
    )
    assert gained == []
    assert world.ask(f"SELECT count(*) FROM pg_roles WHERE rolname = '{login}_evil'") == 0
    assert world.ask("SELECT count(*) FROM selvedge.history WHERE state = 'Applied'") == 0
    assert world.ask("SELECT count(*) FROM selvedge.claims WHERE uid = 'mine'") == 0
    assert world.ask(f"SELECT rolcanlogin FROM pg_roles WHERE rolname = '{login}'") is False, "it lives for one run"
    # What was left lying about for the administrator is not stepped into by his next passes.
    spec = {
        "schemaRef": {"name": "shop"},
        "source": {"inline": {"files": {"20250102000000_bait.sql": TRIGGER.format(**names)}}},
    }
    world.api.apply({"kind": "MigrationRun", "metadata": {"name": "bait"}, "spec": spec})
    world.ready("MigrationRun", "bait")
    world.look()
    world.ready("DatabaseSchema", "shop")
    assert world.ask(f"SELECT rolsuper FROM pg_roles WHERE rolname = '{login}'") is False
