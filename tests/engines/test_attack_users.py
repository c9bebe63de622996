"""The attacker's list in every field of a DatabaseUser that becomes SQL, and as passwords: each stands literally."""

from __future__ import annotations

import uuid
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from psycopg import sql
from pydantic import ValidationError

from sandbox import PostgresEndpoint
from selvedge.api.databaseuser import DatabaseUserSpec
from selvedge.core.errors import SelvedgeError
from selvedge.core.names import check_identifier
from selvedge.core.postgres.settings import LIST_SETTINGS
from selvedge.core.users import Account, Credentials, pair
from selvedge.reconcile.accounts import account_of, base_of, wish_of
from tests.engines.login_support import converge, logs_in
from tests.engines.postgres_support import cluster, engine, lead, rows, run
from tests.engines.test_attack_identifiers import VALUES, drop_all, places, powerful, put, string_fields

if TYPE_CHECKING:
    from selvedge.reconcile.accounts import Place
    from selvedge.reconcile.context import Context

pytestmark = pytest.mark.engines

#: Names and contents of Kubernetes' objects, which no database sees; and MongoDB's.
ELSEWHERE = ("schemaRef", "password.secretRef", "secret", "roles[].database")


def whole(p: str) -> dict[str, Any]:
    """A declaration that uses every text field that becomes SQL."""
    return {
        "schemaRef": {"name": "shop"},
        "username": f"{p}_app",
        "roles": [{"role": f"{p}_rw"}],
        "validUntil": "2099-01-01T00:00:00Z",
        "settings": {"search_path": ["app"], "app.tenant": "one", "timezone": "UTC"},
        "rotation": {"every": "30d"},
        "interval": "1h",
        "adoption": "Allow",
    }


FIELDS = {path: keys for path, keys in places(whole("{p}")) if not path.startswith(ELSEWHERE)}


def test_every_text_field_of_a_user_is_attacked() -> None:
    known = {path for path in string_fields(DatabaseUserSpec) if not path.startswith(ELSEWHERE)}
    assert known - FIELDS.keys() == set(), "add the new field to whole()"
    assert FIELDS.keys() >= {"username", "roles[].role", "settings{}", "settings.*", "validUntil"}


def account(document: dict[str, Any], database: str, password: str) -> Account | None:
    """As the operator makes it of a resource; None where it is refused when it is read."""
    try:
        spec = DatabaseUserSpec.model_validate(document)
    except ValidationError:
        return None
    resource = {"metadata": {"namespace": "shop", "name": "app", "uid": "u", "generation": 1}, "status": {}}
    context = cast("Context", SimpleNamespace(cluster=cluster()))
    place = cast("Place", SimpleNamespace(mongodb=False, database=database))
    try:
        base = check_identifier(base_of(resource, spec), "username")
        wish = wish_of(resource, spec, password)
        published = Credentials(base, password, cast("Any", None), rotating=True)
        return account_of(context, resource, spec, place, wish, published, may_retire=True, verified=False)
    except SelvedgeError:
        return None


async def test_no_text_of_a_user_runs(own_postgres18: PostgresEndpoint, request: pytest.FixtureRequest) -> None:
    """All values in all fields with ``--long``; else each field with a sixth of them. Made, rotated and removed."""
    p = "atk" + uuid.uuid4().hex[:9]
    every = request.config.getoption("--long")
    tried: dict[str, int] = {}
    run(own_postgres18, f"CREATE DATABASE {p}")
    try:
        async with engine(own_postgres18) as server:
            roles = powerful(own_postgres18)
            for place, (path, keys) in enumerate([*sorted(FIELDS.items(), key=str), ("password", ())]):
                for number, value in enumerate(VALUES):
                    if not every and (place + number) % 6:
                        continue
                    text = value.replace("{p}", p)
                    password = text if path == "password" else "correct-horse-7"
                    wanted = account(put(whole(p), keys, text) if keys else whole(p), p, password)
                    if wanted is None or not password or "\0" in password:
                        continue
                    _make_roles(own_postgres18, wanted)
                    tried[path] = tried.get(path, 0) + 1
                    await _life(own_postgres18, server, wanted, path)
                    assert powerful(own_postgres18) == roles, f"{path} with {value!r} was run"
                    _drop_roles(own_postgres18, wanted)
        assert tried.keys() >= {"username", "roles[].role", "settings{}", "settings.*", "password"}
        assert tried["username"] > 1
    finally:
        drop_all(own_postgres18, p)


def _make_roles(postgres: PostgresEndpoint, wanted: Account) -> None:
    for role in wanted.roles:
        if not rows(postgres, "SELECT FROM pg_roles WHERE rolname = %s", role.role):
            with postgres.connect() as connection:
                connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role.role)))


def _drop_roles(postgres: PostgresEndpoint, wanted: Account) -> None:
    with postgres.connect() as connection:
        for role in wanted.roles:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role.role)))


async def _life(postgres: PostgresEndpoint, server: Any, wanted: Account, path: str) -> None:
    """From its birth to its end; each text stands on the server as it was declared."""
    try:
        await converge(server, wanted)
    except SelvedgeError:
        assert rows(postgres, "SELECT FROM pg_roles WHERE rolname = %s", wanted.base) == [], "nothing half done"
        if path.startswith("settings"):
            return  # a value that the server refuses for the setting
        raise  # half of a name may have been run and rolled back
    if not any(name in LIST_SETTINGS for name in wanted.settings) or path != "settings.*":
        assert logs_in(postgres, wanted.base, wanted.password, wanted.database), path
    live = rows(
        postgres,
        "SELECT coalesce((SELECT array_agg(c) FROM pg_db_role_setting s, unnest(s.setconfig) c "
        "WHERE s.setrole = r.oid), '{}'), (SELECT array_agg(pg_get_userbyid(roleid)::text) FROM pg_auth_members "
        "WHERE member = r.oid) FROM pg_roles r WHERE rolname = %s",
        wanted.base,
    )
    assert live[0][1] == [role.role for role in wanted.roles]
    for name, value in wanted.settings.items():
        if name not in LIST_SETTINGS:
            assert any(entry.lower().startswith(f"{name}=") and entry.endswith(f"={value}") for entry in live[0][0])
    assert (await converge(server, wanted)).applied == (), "it is as declared"
    await converge(server, replace(wanted, current=pair(wanted.base)[1], password="second-password-2"))
    removal = await server.logins().remove(wanted, lead)
    assert wanted.base in removal.removed
