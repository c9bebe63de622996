"""Logins and memberships in the manifests of ``selvedge export``, and an export by a login that may do little."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import yaml

from sandbox import PostgresEndpoint
from tests.engines import export_support as support
from tests.engines.export_support import DATABASES, drop, export, fill, plan, specs
from tests.engines.postgres_support import run


@pytest.mark.newest
def test_logins_are_exported_on_demand_with_a_password_that_stays_somebody_elses(
    postgres: PostgresEndpoint, database_name: str, tmp_path: Path
) -> None:
    p = database_name
    fill(postgres, database_name, *DATABASES["plain"])
    run(
        postgres,
        f"CREATE ROLE {p}_maker LOGIN CREATEDB IN ROLE {p}_ro; CREATE ROLE {p}_root LOGIN SUPERUSER IN ROLE {p}_ro;"
        f"CREATE ROLE {p}_admin LOGIN; GRANT {p}_ro TO {p}_admin WITH ADMIN OPTION;"
        f"ALTER ROLE {p}_app SET work_mem = '8MB' CONNECTION LIMIT 5 VALID UNTIL '2030-02-03 04:05:06+02'".replace(
            " CONNECTION", f"; ALTER ROLE {p}_app CONNECTION"
        ),
    )
    exported = export(postgres, database_name, more=("--users", "-n", "shop"))
    schema, user = yaml.safe_load_all(exported.stdout)
    assert user["metadata"] == {"name": f"{p}_app".replace("_", "-"), "namespace": "shop"}
    assert (user["kind"], user["spec"]) == (
        "DatabaseUser",
        {
            "schemaRef": {"name": schema["metadata"]["name"]},
            "username": f"{p}_app",
            "roles": [{"role": f"{p}_rw"}],
            "connectionLimit": 5,
            "validUntil": "2030-02-03T02:05:06Z",
            "settings": {"work_mem": "8MB"},
            "password": {"management": "External"},
            "adoption": "Allow",
            "deletionPolicy": "Retain",
        },
    )
    assert f"login {p}_maker is left out, since it would not stay as it is: AlterLogin" in exported.stderr
    assert (
        f"login {p}_admin is left out, since it would not stay as it is: GrantRole, RevokeMembership" in exported.stderr
    )
    assert f"login {p}_app" not in exported.stderr
    path = tmp_path / "exported.yaml"
    path.write_text(exported.stdout, encoding="utf-8")
    planned = plan(postgres, path)
    assert planned.returncode == 0, planned.stdout + planned.stderr


def test_options_of_memberships_survive(postgres18: PostgresEndpoint, tmp_path: Path) -> None:
    """On a server that has neither role, one that inherits nothing by itself is still a member that inherits."""
    name = f"db_{uuid.uuid4().hex[:12]}"
    roles = (f"{name}_group", f"{name}_member")
    try:
        fill(
            postgres18,
            name,
            "CREATE ROLE {p}_group; CREATE ROLE {p}_member NOINHERIT;"
            "GRANT {p}_group TO {p}_member WITH ADMIN FALSE, INHERIT TRUE, SET FALSE;"
            "GRANT CONNECT ON DATABASE {p} TO {p}_group",
        )
        path = tmp_path / "exported.yaml"
        path.write_text(export(postgres18, name).stdout, encoding="utf-8")
        before = specs(postgres18, name)
        assert before[0]["postgres"]["roles"][1]["memberOf"] == [{"role": roles[0], "set": False}]
        text = path.read_text(encoding="utf-8").replace("set: false", "set: true")
        for manifest in (path.read_text(encoding="utf-8"), text):
            drop(postgres18, name, roles)
            path.write_text(manifest, encoding="utf-8")
            applied = plan(postgres18, path, "apply", "--yes")
            assert applied.returncode == 0, applied.stdout + applied.stderr
    finally:
        drop(postgres18, name, roles)


def test_a_login_without_superuser_exports_too(postgres: PostgresEndpoint, database_name: str, tmp_path: Path) -> None:
    fill(postgres, database_name, *DATABASES["plain"])
    login = f"{database_name}_reader"
    # The operator keeps another database: its claims on this server are nobody else's to read.
    kept = {"name": "kept", "namespace": "shop"}, {"serverRef": {"name": "main"}, "database": f"{database_name}_kept"}
    manifest = {"apiVersion": "selvedge.dev/v1alpha1", "kind": "DatabaseSchema", "metadata": kept[0]}
    path = tmp_path / "kept.yaml"
    path.write_text(yaml.safe_dump(manifest | {"spec": kept[1] | {"postgres": {}}}), encoding="utf-8")
    assert plan(postgres, path, "apply", "--yes").returncode == 0
    drop(postgres, f"{database_name}_kept", ())
    run(postgres, f"CREATE ROLE {login} LOGIN PASSWORD 'only-reads-12' IN ROLE {database_name}_ro")
    result = support.selvedge(
        *("export", "--url", support.url_of(postgres, login), "--server", "main", "--database", database_name),
        environ={"PGPASSWORD": "only-reads-12"},
    )
    assert result.returncode == 0, result.stderr
    theirs = yaml.safe_load(result.stdout)["spec"]
    assert theirs["postgres"] == specs(postgres, database_name)[0]["postgres"]
    assert "it was not planned against the database, as this login may not" in result.stderr
