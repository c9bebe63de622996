"""``selvedge export`` of live Postgres databases: its plan is empty, and nothing is dropped in silence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from psycopg import sql

from sandbox import PostgresEndpoint, Sandbox
from selvedge.core.postgres.export import Exported
from selvedge.engines.postgres import export as engine_export
from selvedge.engines.postgres.export import export_server
from tests.engines import export_support as support
from tests.engines.export_support import DATABASES, export, fill, plan, specs
from tests.engines.postgres_support import engine, rows, run


def renamed(text: str, **changes: Any) -> str:
    document = yaml.safe_load(text)
    document["spec"].update(changes)
    return yaml.safe_dump(document, allow_unicode=True)


@pytest.mark.parametrize("kind", DATABASES)
def test_the_plan_is_empty_and_another_database_becomes_equal(
    postgres: PostgresEndpoint, database_name: str, tmp_path: Path, kind: str
) -> None:
    roles, objects, access = DATABASES[kind]
    fill(postgres, database_name, roles, objects, access)
    before = export(postgres, database_name)
    assert "is left out, since" not in before.stderr
    path = tmp_path / "exported.yaml"
    path.write_text(before.stdout, encoding="utf-8")
    planned = plan(postgres, path)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert plan(postgres, path, "verify").returncode == 0
    assert export(postgres, database_name).stdout == before.stdout

    twin = f"{database_name}_twin"
    try:
        fill(postgres, twin, objects, roles_of=database_name)
        path.write_text(renamed(before.stdout, database=twin), encoding="utf-8")
        # Row-level security comes before the schemas' owners change, whom it acts as: it waits for a second pass.
        waiting = [plan(postgres, path, "apply", "--yes") for _ in range(2)][-1]
        # The database was there before: what its own defaults give to PUBLIC is taken away after an approval.
        (digest,) = re.findall(r"--approve (sha256:[0-9a-f]{64})", waiting.stdout)
        applied = plan(postgres, path, "apply", "--yes", "--approve", digest)
        assert applied.returncode == 0, applied.stdout + applied.stderr
        expected = yaml.safe_load(before.stdout)["spec"] | {"database": twin}
        assert specs(postgres, twin) == [expected]
    finally:
        with postgres.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(twin)))


@pytest.fixture
def other(request: pytest.FixtureRequest, postgres: PostgresEndpoint, database_name: str) -> Iterator[PostgresEndpoint]:
    """A server of another version."""
    if postgres.version not in ("15", "18"):
        pytest.skip("needs a second server, and only one was named")
    sandbox: Sandbox = request.getfixturevalue("sandbox")
    server = sandbox.postgres["15" if postgres.version == "18" else "18"]
    yield server
    with server.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database_name)))
        for (role,) in rows(server, "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", database_name):
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.mark.parametrize("kind", ["plain", "grown"])
def test_an_empty_server_of_another_version_becomes_equal(
    postgres: PostgresEndpoint, other: PostgresEndpoint, database_name: str, tmp_path: Path, kind: str
) -> None:
    roles, objects, access = DATABASES[kind]
    fill(postgres, database_name, roles, objects, access)
    path = tmp_path / "exported.yaml"
    path.write_text(export(postgres, database_name).stdout, encoding="utf-8")
    login = "legacy" if kind == "grown" else "app"
    run(other, f'CREATE ROLE "{database_name}_{login}" LOGIN')
    # Database, roles and schemas come from the manifest; then the migrations, and what waited for them.
    first = plan(other, path, "apply", "--yes")
    assert first.returncode == 2, first.stdout + first.stderr
    assert "WaitingForObjects" in first.stdout
    fill(other, database_name, objects.replace("CREATE EXTENSION", "CREATE EXTENSION IF NOT EXISTS"), create=False)
    applied = plan(other, path, "apply", "--yes")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    # Whose members logins are is none of a DatabaseSchema's.
    assert specs(other, database_name) == specs(postgres, database_name)


def test_what_cannot_be_declared_is_named(postgres: PostgresEndpoint, database_name: str) -> None:
    fill(postgres, database_name, *DATABASES["ugly"])
    result = export(postgres, database_name)
    assert "hunter2" not in result.stdout + result.stderr
    comments = " ".join(result.stdout.replace("\n#", " ").split())
    for text in (
        f"login {database_name}_login: logins are DatabaseUsers",
        f'role {database_name}_qu"ote is not declared: its name has a quote',
        f"role {database_name}_super is not declared: it is a superuser",
        f"role {database_name}_a granted privileges on 1 object that it does not own",
        "a comment, connection limit 77",
        "event triggers: et 1",
        "publications: pub 1",
        f"(they hold passwords): srv 1 for {database_name}_login",
        "privileges on large objects: 4711",
        "in system catalogs that were changed: pg_catalog.pg_ls_waldir",
        "PUBLIC lacks EXECUTE on function Odd Schema.pa(ren()",
        "Ro'le has INSERT on table Odd Schema.do.t, Odd Schema.qu\"oted: the API does not take such a name",
        f'{database_name}_b has SELECT on column Odd Schema.Table One.co"l',
        "on tables, INSERT: größe.owned_by_b would be given it too",
        f"of role {database_name}_a, setting app.jwt_secret: its value may be a secret",
        f"of role {database_name}_b, setting app.backend: its value may be a secret",
        f"of role {database_name}_b, setting log_statement is a superuser's",
        f"of role {database_name}_b, setting role changes who a session is",
        "privileges of role pg_monitor on größe.parts: names that begin with pg_ belong to Postgres",
        'schema dot.ted, quo"te: the API does not take the name',
        "the owner has not DELETE on Odd Schema.two",
        f"the right to create databases of role {database_name}_a",
    ):
        assert text in result.stderr, text
        assert text in comments, text


def test_what_a_whole_schema_has_is_said_of_the_schema(postgres: PostgresEndpoint, database_name: str) -> None:
    fill(postgres, database_name, *DATABASES["grown"])
    [spec] = specs(postgres, database_name)
    p = database_name
    grants = {
        (tuple(grant["privileges"]), *map(str, grant["objects"].items())): grant for grant in spec["postgres"]["grants"]
    }
    assert grants[("SELECT",), "('tablesIn', ['shop', 'stock'])"]["to"] == [f"{p}_reader", f"{p}_reports"]
    assert grants[("INSERT", "UPDATE", "DELETE"), "('tablesIn', ['shop'])"]["to"] == [f"{p}_writer"]
    assert grants[("USAGE", "SELECT"), "('sequencesIn', ['shop'])"]["to"] == [f"{p}_writer"]
    functions = [grant for grant in spec["postgres"]["grants"] if "functionsIn" in grant["objects"]]
    assert [(grant.get("ensure"), grant["to"]) for grant in functions] == [
        (None, [f"{p}_writer"]),
        ("Absent", ["PUBLIC"]),
    ]
    assert "owner" not in spec["postgres"]  # the login's own
    schemas = {schema["name"]: schema["owner"] for schema in spec["postgres"]["schemas"]}
    assert schemas == {"shop": f"{p}_owner", "stock": f"{p}_legacy"}
    assert len(spec["postgres"]["defaultPrivileges"]) == 4


def test_row_level_security_and_partitions(postgres: PostgresEndpoint, database_name: str) -> None:
    fill(postgres, database_name, *DATABASES["grown"])
    [spec] = specs(postgres, database_name)
    lines, orders = spec["postgres"]["rowLevelSecurity"]
    assert lines == {"table": "shop.lines"}
    assert (orders["table"], orders["force"]) == ("shop.orders", True)
    restrictive, own = orders["policies"]
    assert restrictive == {
        "name": "all of it",
        "command": "Update",
        "mode": "Restrictive",
        "to": ["PUBLIC"],
        "using": "true",
        "withCheck": "(total > (0)::numeric)",
    }
    assert (own["to"], "withCheck" in own) == ([f"{database_name}_reader"], False)
    assert "current_setting" in own["using"]
    assert spec["postgres"]["partitions"] == [{"table": "stock.hashed", "by": "Hash", "column": "id", "count": 2}]
    assert "partitions by range of table stock.moves: they are no whole" in export(postgres, database_name).stderr


@pytest.mark.newest
def test_partitions_by_time_are_declared_as_they_stand(postgres: PostgresEndpoint, database_name: str) -> None:
    fill(postgres, database_name, *DATABASES["ugly"])
    exported = export(postgres, database_name)
    partitions = {one["table"]: one for one in yaml.safe_load(exported.stdout)["spec"]["postgres"]["partitions"]}
    assert partitions == {
        "größe.by day": {"table": "größe.by day", "by": "Time", "column": "at it", "every": "Day", "ahead": 4},
        "größe.by_month": {"table": "größe.by_month", "by": "Time", "column": "day", "every": "Month", "ahead": 2},
        "größe.by_hash": {"table": "größe.by_hash", "by": "Hash", "column": "id", "count": 1},
    }
    assert "partitions by range of table größe.crooked, größe.parts: they are no whole hours" in exported.stderr


@pytest.mark.newest
def test_audit_and_conventions_of_an_ugly_database_come_back_as_they_were_declared(
    postgres: PostgresEndpoint, database_name: str, tmp_path: Path
) -> None:
    fill(postgres, database_name, *DATABASES["ugly"], support.KEPT_OBJECTS)
    path = tmp_path / "exported.yaml"
    document = yaml.safe_load(export(postgres, database_name).stdout)
    assert not {"audit", "conventions"} & document["spec"]["postgres"].keys()
    document["spec"]["postgres"] |= support.KEPT
    for one in document["spec"]["postgres"]["partitions"]:
        one |= {"retention": "36500d"} if one["by"] == "Time" else {}
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    applied = [plan(postgres, path, "apply", "--yes") for _ in range(2)][-1]
    assert applied.returncode == 0, applied.stdout + applied.stderr
    again = export(postgres, database_name)
    assert "is left out, since" not in again.stderr
    found = yaml.safe_load(again.stdout)["spec"]["postgres"]
    assert found["audit"] == support.KEPT["audit"]
    assert found["conventions"] == support.KEPT["conventions"]
    assert found["partitions"] == document["spec"]["postgres"]["partitions"]
    assert "trail" not in {schema["name"] for schema in found["schemas"]}
    path.write_text(again.stdout, encoding="utf-8")
    planned = plan(postgres, path)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    # What stands in part only is named: to declare the rest would take it away, or put it where it is not.
    run(postgres, 'DROP TRIGGER selvedge_updated_at ON "kept ö".plain', dbname=database_name)
    half = export(postgres, database_name)
    assert "conventions" not in yaml.safe_load(half.stdout)["spec"]["postgres"]
    assert "updatedAt of table kept ö.it's" in half.stderr
    assert "updatedAt kept ö.it's is left out, since the database would not stay as it is" in half.stderr


def test_two_databases_declare_a_role_once(postgres: PostgresEndpoint, database_name: str, tmp_path: Path) -> None:
    names = (database_name, f"{database_name}_two")
    try:
        fill(postgres, names[0], support.PLAIN_ROLES, support.PLAIN_OBJECTS, support.PLAIN_ACCESS)
        fill(postgres, names[1], support.PLAIN_OBJECTS, support.PLAIN_ACCESS, roles_of=database_name)
        run(postgres, f"ALTER ROLE {database_name}_rw IN DATABASE {names[1]} SET work_mem = '1MB'")
        exported = export(postgres, *names, more=("-n", "shop"))
        documents = list(yaml.safe_load_all(exported.stdout))
        declared = [{role["name"] for role in one["spec"]["postgres"].get("roles", ())} for one in documents]
        assert not declared[0] & declared[1]
        assert f"{database_name}_rw" in declared[1]  # where it has settings
        assert [one["metadata"]["namespace"] for one in documents] == ["shop", "shop"]
        path = tmp_path / "exported.yaml"
        path.write_text(exported.stdout, encoding="utf-8")
        planned = plan(postgres, path)
        assert planned.returncode == 0, planned.stdout + planned.stderr
    finally:
        with postgres.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(names[1])))


def test_a_database_that_somebody_keeps_says_whose_it_is(
    postgres: PostgresEndpoint, database_name: str, tmp_path: Path
) -> None:
    fill(postgres, database_name, *DATABASES["plain"])
    path = tmp_path / "exported.yaml"
    path.write_text(export(postgres, database_name, more=("-n", "shop", "--name", "wallet")).stdout, encoding="utf-8")
    assert plan(postgres, path, "apply", "--yes").returncode == 0
    again = export(postgres, database_name)
    assert "kept by DatabaseSchema shop/wallet of cluster cli already" in again.stderr
    assert yaml.safe_load(again.stdout)["spec"] == yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]


def test_wrong_options_are_one_sentence(postgres: PostgresEndpoint) -> None:
    def call(*arguments: str) -> str:
        result = support.selvedge(
            "export", "--url", support.url_of(postgres), *arguments, environ={"PGPASSWORD": postgres.password}
        )
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        return result.stderr

    assert "--server" in call()
    assert "database nowhere_at_all does not exist" in call("--server", "main", "--database", "nowhere_at_all")
    assert "--server Main is no name" in call("--server", "Main")
    assert "--name x_y is no name" in call("--server", "main", "--name", "x_y", "--database", "postgres")


def test_json_is_a_list_that_plan_takes(postgres: PostgresEndpoint, database_name: str, tmp_path: Path) -> None:
    fill(postgres, database_name, *DATABASES["plain"])
    result = export(postgres, database_name, more=("-o", "json"))
    document = json.loads(result.stdout)
    assert "logins are DatabaseUsers" in document["items"][0]["metadata"]["annotations"]["selvedge.dev/left-out"]
    path = tmp_path / "exported.json"
    path.write_text(result.stdout, encoding="utf-8")
    assert plan(postgres, path).returncode == 0


async def test_an_entry_that_would_change_something_is_taken_out_and_named(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """Whatever a converter gets wrong: the engine has the last word."""
    fill(postgres, database_name, *DATABASES["plain"])
    async with engine(postgres) as one:
        [exported], errors = await export_server(one, [database_name])
        assert errors == []
        found = await engine_export._read(one, database_name)
        wrong = {"name": "wrong", "privileges": ["DELETE"], "objects": {"tablesIn": ["shared"]}, "to": ["PUBLIC"]}
        wider = exported.specs[0] | {"grants": [*exported.specs[0]["grants"], wrong], "schemas": [{"name": "nowhere"}]}
        proven = await engine_export._proven(one, found, Exported(database_name, (wider,)))
    assert proven.specs[0]["grants"] == exported.specs[0]["grants"]
    assert "schemas" not in proven.specs[0]
    assert any(note.startswith("grant wrong is left out") and "GRANT DELETE" in note for note in proven.notes)
    assert any(note.startswith("schema nowhere is left out") for note in proven.notes)
