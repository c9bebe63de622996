"""The statements in docs/guide/security.md make a login with which the operator does its work.

The cloud services are not here: their administrators are roles without superuser that have what the manuals give them.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql

from sandbox import PostgresEndpoint
from tests.cluster.docs_support import ROOT, blocks
from tests.cluster.user_support import bound, logs_in, user
from tests.cluster.world import World, wait_for

_PAGE = ROOT / "docs" / "guide" / "security.md"
#: The group of a service's administrators; the server of one's own has a superuser.
_SERVICES = {"plain": "", "rds": "rds_superuser", "cloudsql": "cloudsqlsuperuser", "azure": "azure_pg_admin"}
_PASSWORD = "of-the-operator"


def statements(service: str) -> list[list[str]]:
    """The blocks of the page for one service, statement by statement."""
    texts = [block.text for block in blocks(_PAGE) if block.language == "sql"]
    found = [text for text in texts if text.startswith(f"-- {service}:")]
    return [[part.strip() for part in text.partition("\n")[2].split(";") if part.strip()] for text in found]


def test_every_block_is_of_a_service_that_is_tried():
    texts = [block.text for block in blocks(_PAGE) if block.language == "sql"]
    assert sum(len(statements(service)) for service in _SERVICES) == len(texts) >= len(_SERVICES)


@dataclass(frozen=True)
class Service:
    """A server whose administrator is no superuser, unless it is one's own."""

    endpoint: PostgresEndpoint
    name: str
    admin: str
    maintenance: str

    def run(self, text: str) -> None:
        """Run a statement of the page as the administrator, with the names of this test."""
        login = f"{self.name}_selvedge"
        text = text.replace("selvedge", login).replace("DATABASE postgres", f"DATABASE {self.maintenance}")
        password = {"user": self.admin, "password": "x"} if self.admin else {}
        with self.endpoint.connect(self.maintenance, **password) as connection:
            connection.execute(text.replace("'…'", f"'{_PASSWORD}'").encode())


@pytest.fixture(params=[pytest.param(name, marks=() if name == "rds" else pytest.mark.long) for name in _SERVICES])
def service(request: pytest.FixtureRequest, postgres: PostgresEndpoint, bare: World) -> Service:
    """The service's administrator, as its manual has him, and a maintenance database that is his."""
    group, name = _SERVICES[request.param], bare.name
    admin, maintenance = f"{name}_master" if group else "", f"{name}_m"
    with postgres.connect() as connection:
        made = sql.Identifier(f"{name}_{group}")
        if group:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(made))
            for role in ("pg_monitor", "pg_signal_backend"):
                connection.execute(sql.SQL("GRANT {} TO {} WITH ADMIN OPTION").format(sql.Identifier(role), made))
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN CREATEROLE CREATEDB PASSWORD 'x' IN ROLE {}").format(
                    sql.Identifier(admin), made
                )
            )
        owner = sql.Identifier(admin or "postgres")
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(maintenance), owner))
    bare.databases.add(maintenance)
    return Service(postgres, name, admin, maintenance)


def test_the_operator_works_with_the_login_of_the_page(service: Service, bare: World, request: pytest.FixtureRequest):
    world, login = bare, f"{service.name}_selvedge"
    for block in statements(request.node.callspec.params["service"]):
        for statement in block:
            service.run(statement)
    with world.endpoint.connect() as connection:
        attributes = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [login]).fetchone()
    assert attributes == (False,)
    world.server(login=(login, _PASSWORD), postgres={"maintenanceDatabase": service.maintenance})
    server = world.ready("DatabaseServer", "main")
    assert not server["status"].get("missingPrivileges")
    files = {"20250101000000_a.sql": "CREATE TABLE shop.a (id int);"}
    owner, reader = world.role("owner"), world.role("reader")
    world.schema(
        "shop",
        migrations={"source": {"inline": {"files": files}}},
        postgres={
            "owner": owner,
            "roles": [{"name": owner}, {"name": reader}],
            "schemas": [{"name": "shop", "owner": owner}],
            "grants": [
                {"name": "use", "privileges": ["USAGE"], "objects": {"schemas": ["shop"]}, "to": [reader]},
                {"name": "read", "privileges": ["SELECT"], "objects": {"tablesIn": ["shop"]}, "to": [reader]},
            ],
        },
    )
    world.ready("DatabaseSchema", "shop", 60)
    assert world.ask("SELECT has_table_privilege(%L, 'shop.a', 'SELECT')".replace("%L", f"'{reader}'"))
    user(world, "app", roles=[{"role": reader}])
    data = bound(world, "app")
    assert logs_in(world, data)
    # what was changed by hand is put back, and a login that goes is gone
    world.sql(f"REVOKE SELECT ON shop.a FROM {reader}")
    world.now("DatabaseSchema", "shop")
    wait_for(lambda: world.ask(f"SELECT has_table_privilege('{reader}', 'shop.a', 'SELECT')"))
    world.api.delete("DatabaseUser", "app")
    wait_for(lambda: not logs_in(world, data))
    # until the login is dropped the operator may be a member of it, to hand over what it owns
    wait_for(lambda: world.api.get("DatabaseUser", "app") is None)
    # on 15 a login with CREATEROLE is as good as a superuser, as the page says
    if int(world.endpoint.version) >= 16:
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege),
            world.endpoint.connect(world.name, user=login, password=_PASSWORD) as connection,
        ):
            connection.execute("SELECT * FROM shop.a")
