"""Fashion Wallet's migrations: each way back, the data change, indexes, partitions, seeds and names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from psycopg import errors

from sandbox.postgres import PostgresServer
from tests.engines.fashion_wallet import MIGRATIONS, ROOT, USER, Wallet, declare, migrations, rows, seeded

if TYPE_CHECKING:
    from collections.abc import Iterator

#: One process of pytest-xdist has all of them, so that their servers start once.
pytestmark = pytest.mark.xdist_group("fashion-wallet-sql")


@pytest.fixture(scope="module", params=["15", "18"])
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    with PostgresServer.launch(request.param) as running:
        yield running


@pytest.fixture(scope="module")
def wallet(server: PostgresServer) -> Wallet:
    return seeded(server)


@pytest.mark.parametrize("server", [pytest.param("15", marks=pytest.mark.long), "18"], indirect=True)
def test_every_down_undoes_its_up(server: PostgresServer) -> None:
    made = declare(server, "up_down_up")
    empty = made.dump()
    states = [empty]
    for migration in migrations():
        made.run(migration.up)
        states.append(made.dump())
        assert states[-1] != states[-2], f"{migration.name} changes nothing"
    for migration in reversed(migrations()):
        states.pop()
        made.run(migration.down)
        assert made.dump() == states[-1], f"the down of {migration.name} leaves something behind"
    for migration in migrations():
        made.run(migration.up)
    full = made.dump()
    for migration in reversed(migrations()):
        made.run(migration.down)
    assert made.dump() == empty
    for migration in migrations():
        made.run(migration.up)
    assert made.dump() == full


def test_the_data_change_fills_old_rows_and_is_checked_afterwards(server: PostgresServer) -> None:
    made = declare(server, "data_change")
    before = [m for m in migrations() if m.name < "20250624100000"]
    for migration in before:
        made.run(migration.up)
    made.run("insert into catalog.catalog_items (name, type, category) values ('Denim', 'fabric', 'other')")
    for migration in migrations()[len(before) :]:
        made.run(migration.up)
    with made.session() as session:
        assert rows(session, "select category_path::text, version from catalog.catalog_items") == [("other.fabric", 2)]
        with pytest.raises(errors.NotNullViolation):
            session.execute("insert into catalog.catalog_items (name, type, category) values ('x', 'fabric', 'other')")


def test_every_kind_of_index_is_there_and_valid(wallet: Wallet) -> None:
    with wallet.session() as session:
        found = rows(
            session,
            """select am.amname, i.indisunique, i.indpred is not null, i.indexprs is not null, i.indnkeyatts > 1,
                      i.indisvalid
               from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am am on am.oid = c.relam
               join pg_namespace n on n.oid = c.relnamespace
               where n.nspname in ('shared', 'avatar', 'catalog', 'design', 'audit', 'analytics')""",
        )
        assert all(valid for *_, valid in found)
        assert {kind for kind, *_ in found} == {"btree", "gin", "gist", "hash", "brin"}
        unique, partial, expression, several = (
            any(row[position] and (position != 3 or row[1]) for row in found) for position in (1, 2, 3, 4)
        )
        assert unique
        assert partial
        assert expression, "no unique index on an expression"
        assert several


def test_names_follow_the_conventions(wallet: Wallet) -> None:
    """Of what the migrations name; partitions get theirs from the server."""
    with wallet.session() as session:
        named = rows(
            session,
            """select con.contype::text, con.conname from pg_constraint con
               join pg_class c on c.oid = con.conrelid join pg_namespace n on n.oid = c.relnamespace
               where n.nspname in ('shared', 'avatar', 'catalog', 'design', 'audit', 'analytics')
                 and not c.relispartition and con.contype in ('p', 'f', 'c', 'u', 'x')
               union all
               select case when i.indisunique then 'ui' else 'i' end, c.relname from pg_index i
               join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid
               join pg_namespace n on n.oid = c.relnamespace
               where n.nspname in ('shared', 'avatar', 'catalog', 'design', 'audit', 'analytics')
                 and not t.relispartition and not exists (select from pg_constraint where conindid = i.indexrelid)""",
        )
    prefixes = {"p": "pk_", "f": "fk_", "c": "chk_", "u": "unq_", "x": "exc_", "ui": "uidx_", "i": "idx_"}
    assert [(kind, name) for kind, name in named if not name.startswith(prefixes[kind])] == []
    assert {kind for kind, _ in named} == set(prefixes)


def test_an_update_counts_the_version_and_one_that_changes_nothing_does_not(wallet: Wallet) -> None:
    with wallet.session() as session:
        session.execute("select pg_sleep(0.01)")
        session.execute("update design.designs set name = 'Winter' where user_id = %s", (USER,))
        query = "select version, updated_at > created_at, updated_at > now() from design.designs where user_id = %s"
        (row,) = rows(session, query, USER)
        assert row[0] >= 2
        assert row[1:] == (True, True)
        session.execute("update design.designs set name = name")
        assert rows(session, "select version from design.designs where user_id = %s", USER) == [(row[0],)]


def test_rows_find_their_partition(wallet: Wallet) -> None:
    with wallet.session() as session:
        assert rows(session, "select shared.ensure_partitions('audit.audit_logs', 'month', 12)") == [(0,)]
        assert rows(session, "select shared.ensure_partitions('audit.audit_logs', 'month', 13)") == [(1,)]
        request = "insert into analytics.api_requests (method, route, status, duration_ms) values ('GET', '/', 200, 1)"
        session.execute(request)
        session.execute("insert into analytics.usage_metrics (name, value, labels) values ('logins', 1, 'region=>DE')")
        session.execute("insert into analytics.user_activity (user_id, activity) select id, 'login' from shared.users")
        price = """insert into catalog.regional_prices (catalog_item_id, region, currency, price)
                   select id, %s, 'EUR', 1 from catalog.catalog_items"""
        session.execute(price.encode(), ("DE",))
        assert rows(session, "select distinct tableoid::regclass::text from catalog.regional_prices") == [
            ("catalog.regional_prices_europe",)
        ]
        with pytest.raises(errors.CheckViolation, match="no partition"):
            session.execute(price.encode(), ("XX",))


def test_promotions_of_one_item_do_not_overlap(wallet: Wallet) -> None:
    with wallet.session() as session, pytest.raises(errors.ExclusionViolation):
        session.execute(
            """insert into catalog.promotions (catalog_item_id, name, discount_percent, active_range)
               select id, 'sale', 10, tstzrange(now(), now() + interval '1 day')
               from catalog.catalog_items, generate_series(1, 2)"""
        )


def test_seeds_are_the_same_after_the_second_time(wallet: Wallet) -> None:
    with wallet.session() as session:
        counts = """select (select count(*) from shared.users), (select count(*) from avatar.avatars),
                           (select count(*) from catalog.catalog_items), (select count(*) from design.designs)"""
        assert rows(session, counts) == [(3, 2, 4, 2)]


@pytest.mark.parametrize("environment", ["production", "''", "prod"])
def test_seeds_are_refused_in_production(wallet: Wallet, environment: str) -> None:
    for seed in (MIGRATIONS / "seeds").glob("*.sql"):
        with pytest.raises(AssertionError, match="seeds are refused"):
            wallet.run(seed.read_text(), settings=f"-c app.environment={environment}")


@pytest.mark.parametrize(("engine", "suffix"), [("postgres", ".sql"), ("mongodb", ".json")])
def test_the_config_map_holds_every_migration(engine: str, suffix: str) -> None:
    directory = ROOT / "migrations" / engine
    (generator,) = yaml.safe_load((directory / "kustomization.yaml").read_text())["configMapGenerator"]
    assert generator["files"] == sorted(path.name for path in directory.glob(f"*{suffix}"))
    assert sum((directory / name).stat().st_size for name in generator["files"]) < 2**20
