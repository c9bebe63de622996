"""``selvedge migrate`` by an administrator as the clouds give him: CREATEROLE and CREATEDB, no superuser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from sandbox import PostgresEndpoint
from tests.engines.migrate_cli_support import Shop, fresh

pytestmark = pytest.mark.engines

WORD = "a word of his own"


@pytest.fixture
def shop(postgres: PostgresEndpoint, tmp_path: Path) -> Iterator[Shop]:
    with fresh(postgres, tmp_path / "migrations") as shop:
        yield shop


@pytest.fixture
def admin(shop: Shop) -> str:
    """He made the owner's role and the database himself."""
    name = f"{shop.name}_admin"
    with closing(shop.endpoint.connect()) as connection:
        for text in (
            "DROP DATABASE {db}",
            "DROP ROLE {owner}",
            f"CREATE ROLE {{admin}} LOGIN CREATEROLE CREATEDB PASSWORD '{WORD}'",
        ):
            connection.execute(sql.SQL(text).format(**_names(shop, name)))
    connecting = shop.endpoint.conninfo("postgres", user=name, password=WORD)
    with closing(psycopg.connect(connecting, autocommit=True)) as connection:
        for text in _made(shop):
            connection.execute(sql.SQL(text).format(**_names(shop, name)))
    return name


def _made(shop: Shop) -> list[str]:
    become = "GRANT {owner} TO {admin}" + (" WITH INHERIT FALSE, SET TRUE" if shop.endpoint.version != "15" else "")
    return ["CREATE ROLE {owner}", become, "CREATE DATABASE {db} OWNER {owner}"]


def _names(shop: Shop, admin: str) -> dict[str, sql.Identifier]:
    names = {"db": shop.name, "owner": shop.owner, "admin": admin}
    return {key: sql.Identifier(name) for key, name in names.items()}


def test_up_down_and_again(shop: Shop, admin: str) -> None:
    for command in (("status",), ("up",), ("down", "--yes"), ("up",), ("status",)):
        result = shop.migrate(*command, user=admin, password=WORD)
        assert result.exit_code in ((0, 2) if command == ("status",) else (0,)), (command, result.stderr, result.stdout)
    assert shop.versions() == ["20250101000000", "20250102000000"]
    assert shop.query("SELECT DISTINCT tableowner::text FROM pg_tables WHERE schemaname = 'public'") == [(shop.owner,)]
    login = f"{shop.name}_migrator"
    assert shop.query("SELECT DISTINCT applied_by::text FROM selvedge.history") == [(login,)]
    assert shop.query(f"SELECT rolcanlogin, rolcreaterole, rolinherit FROM pg_roles WHERE rolname = '{login}'") == [
        (False, False, False)
    ]
    members = "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = '{}'::regrole"
    assert shop.query(members.format(login)) == [(shop.owner,)]


def test_what_the_login_was_given_meanwhile_goes(shop: Shop, admin: str) -> None:
    """By the administrator himself, and by a superuser."""
    assert shop.migrate("up", user=admin, password=WORD).exit_code == 0
    login, given = f"{shop.name}_migrator", f"{shop.name}_given"
    connecting = shop.endpoint.conninfo("postgres", user=admin, password=WORD)
    with closing(psycopg.connect(connecting, autocommit=True)) as connection:
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(given)))
        connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(given), sql.Identifier(login)))
    assert shop.migrate("down", "--yes", user=admin, password=WORD).exit_code == 0
    members = f"SELECT roleid::regrole::text FROM pg_auth_members WHERE member = '{login}'::regrole"
    assert shop.query(members) == [(shop.owner,)]
    shop.query(f"GRANT {given} TO {login}; GRANT pg_read_all_data TO {login}")
    again = shop.migrate("up", user=admin, password=WORD)
    if shop.endpoint.version != "15":
        revokes = [
            f'REVOKE "{role}" FROM "{login}" GRANTED BY "{shop.endpoint.username}" CASCADE'
            for role in (given, "pg_read_all_data")
        ]
        assert all(revoke in again.stderr for revoke in revokes), again.stderr
        assert "WITH ADMIN OPTION" not in again.stderr
        shop.query("; ".join(revokes))
        again = shop.migrate("up", user=admin, password=WORD)
    assert again.exit_code == 0, again.stderr
    assert shop.query(members) == [(shop.owner,)]


def test_who_may_become_nobody_is_told_what_he_lacks(shop: Shop, admin: str) -> None:
    """A database of somebody else, and a role that he may give and not become: what a superuser made for him."""
    foreign = f"{shop.name}_foreign"
    shop.query(f"CREATE ROLE {foreign}; ALTER DATABASE {shop.name} OWNER TO {foreign}")
    shop.query(f"GRANT ALL ON SCHEMA public TO {shop.owner}")
    role = ("--role", shop.owner)
    lacking = shop.migrate("up", *role, user=admin, password=WORD)
    grant = f'GRANT CREATE ON DATABASE "{shop.name}" TO "{admin}"'
    assert f"login {admin} may not keep the migrations' history: permission denied" in lacking.stderr
    assert f"run {grant}" in lacking.stderr
    shop.query(grant)
    assert shop.migrate("up", *role, user=admin, password=WORD).exit_code == 0
    # it is his now, and needs that right no more
    shop.query(grant.replace("GRANT", "REVOKE").replace(" TO ", " FROM "))
    assert shop.migrate("down", *role, "--yes", user=admin, password=WORD).exit_code == 0


def test_another_administrator_is_told_what_he_has_to_be_given(shop: Shop, admin: str) -> None:
    """On 16 and newer he who made a role administers it, and nobody else: a login of the operator's that took over."""
    assert shop.migrate("up", user=admin, password=WORD).exit_code == 0
    other, login = f"{shop.name}_another", f"{shop.name}_migrator"
    shop.query(f"CREATE ROLE {other} LOGIN CREATEROLE PASSWORD '{WORD}'")
    refused = shop.migrate("down", "--yes", user=other, password=WORD).stderr
    assert f"schema selvedge in database {shop.name} belongs to role {admin}" in refused
    given = refused.partition(f"give it to {other} (")[2].partition(")")[0]
    assert given.count(f'OWNER TO "{other}"') == 3, refused
    shop.query(given)
    if shop.endpoint.version != "15":
        refused = shop.migrate("down", "--yes", user=other, password=WORD).stderr
        for role in (login, shop.owner):
            grant = f'GRANT "{role}" TO "{other}" WITH ADMIN OPTION'
            assert grant in refused
            shop.query(grant)
    down = shop.migrate("down", "--yes", user=other, password=WORD)
    assert down.exit_code == 0, down.stderr


def test_a_database_of_his_own(shop: Shop, admin: str) -> None:
    """As a service's master user has it: he runs the migrations himself."""
    shop.query(f"ALTER DATABASE {shop.name} OWNER TO {admin}")
    for command in (("up",), ("to", "0", "--yes")):
        result = shop.migrate(*command, user=admin, password=WORD)
        assert result.exit_code == 0, (command, result.stderr)
    assert shop.query(f"SELECT count(*) FROM pg_roles WHERE rolname = '{shop.name}_migrator'") == [(0,)]


def test_a_history_in_public_is_the_database_owners(shop: Shop, admin: str) -> None:
    """Whose public is, says whose the database is."""
    place = ("--history-schema", "public", "--history-table", "ran")
    assert f"schema public in database {shop.name} belongs to role {shop.owner}" in shop.migrate("up", *place).stderr
    shop.query(f"ALTER DATABASE {shop.name} OWNER TO {shop.endpoint.username}; GRANT ALL ON SCHEMA public TO PUBLIC")
    up = shop.migrate("up", "--role", shop.owner, *place)
    assert up.exit_code == 0, up.stderr
    assert shop.query("SELECT count(*) FROM public.ran") == [(2,)]


def test_a_schema_that_is_there_has_to_let_the_login_in(shop: Shop) -> None:
    """A right on the database would not help: the schema needs not be made."""
    deployer, place = f"{shop.name}_deployer", ("--history-schema", "public", "--history-table", "ran")
    shop.query(f"CREATE ROLE {deployer} LOGIN PASSWORD '{WORD}'; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    lacking = shop.migrate("up", *place, user=deployer, password=WORD).stderr
    statement = f'GRANT USAGE, CREATE ON SCHEMA "public" TO "{deployer}"'
    assert lacking.strip().endswith(f"run {statement}"), lacking
    shop.query(statement)
    up = shop.migrate("up", *place, user=deployer, password=WORD)
    assert up.exit_code == 0, up.stderr


def test_the_operators_schema_is_no_place_for_a_logins_own_history(shop: Shop) -> None:
    deployer = f"{shop.name}_deployer"
    shop.query("CREATE SCHEMA selvedge; CREATE TABLE selvedge.claims (id int)")
    shop.query(f"CREATE ROLE {deployer} LOGIN PASSWORD '{WORD}'; GRANT CREATE ON DATABASE {shop.name} TO {deployer}")
    lacking = shop.migrate("up", user=deployer, password=WORD).stderr
    assert "an operator keeps its claims in schema selvedge" in lacking, lacking
    assert "name another schema" in lacking
    assert "GRANT" not in lacking
    shop.query(f"GRANT ALL ON SCHEMA public TO {deployer}")
    up = shop.migrate("up", "--history-schema", "ran", user=deployer, password=WORD)
    assert up.exit_code == 0, up.stderr


def test_an_administrator_writes_the_operators_history_without_owning_it(shop: Shop, admin: str) -> None:
    """What he is told to be given does not make the schema his, in which the operator's claims are."""
    shop.query("CREATE SCHEMA selvedge; CREATE TABLE selvedge.claims (id int)")
    assert shop.migrate("up").exit_code == 0
    login = f"{shop.name}_migrator"
    shop.query(f"GRANT USAGE ON SCHEMA selvedge TO {admin}; GRANT SELECT ON selvedge.history TO {admin}")
    if shop.endpoint.version != "15":
        for role in (login, shop.owner):
            shop.query(f"GRANT {role} TO {admin} WITH ADMIN TRUE, INHERIT FALSE")
    lacking = shop.migrate("down", "--yes", user=admin, password=WORD).stderr
    assert "OWNER TO" not in lacking
    statements = lacking.partition("; run ")[2].strip()
    assert statements.count("WITH GRANT OPTION") == 2, lacking
    shop.query(statements)
    down = shop.migrate("down", "--yes", user=admin, password=WORD)
    assert down.exit_code == 0, down.stderr
