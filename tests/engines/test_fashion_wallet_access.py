"""Who sees and changes what in Fashion Wallet: row-level security, audit, soft delete and encryption."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg import errors, sql

from sandbox.postgres import PostgresServer
from tests.engines.fashion_wallet import DESIGNER, KEY, USER, Wallet, become, declare, migrations, rows, seeded

if TYPE_CHECKING:
    from collections.abc import Iterator

#: One process of pytest-xdist has all of them, so that their servers start once.
pytestmark = pytest.mark.xdist_group("fashion-wallet-access")


@pytest.fixture(scope="module", params=["15", "18"])
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    with PostgresServer.launch(request.param) as running:
        yield running


@pytest.fixture(scope="module")
def wallet(server: PostgresServer) -> Wallet:
    return seeded(server)


def test_the_audit_trigger_lets_each_change_through_and_records_it(wallet: Wallet) -> None:
    with wallet.session(user=USER) as session:
        trail = """select operation, record_id::text, user_id::text, active_role, old_values, new_values, query
                   from audit.database_operations where table_name = %s and executed_at >= now() order by executed_at"""
        email = "insert into shared.users (id, email, password_hash) values (%s, 'new@example.com', repeat('x', 60))"
        new = "20000000-0000-4000-8000-000000000001"
        session.execute(email.encode(), (new,))
        session.execute("update shared.users set first_name = 'Ada' where id = %s", (new,))
        session.execute("delete from shared.users where id = %s", (new,))
        assert rows(session, "select from shared.users where id = %s", new) == []
        inserted, updated, deleted = rows(session, trail, "shared.users")
        assert [row[0] for row in (inserted, updated, deleted)] == ["INSERT", "UPDATE", "DELETE"]
        assert {row[1:4] for row in (inserted, updated, deleted)} == {(new, USER, "fw_owner")}
        assert inserted[4] is None
        assert inserted[5]["email"] == "new@example.com"
        assert (updated[4]["first_name"], updated[5]["first_name"]) == (None, "Ada")
        assert deleted[4]["first_name"] == "Ada"
        assert deleted[5] is None
        assert all("password_hash" not in (values or {}) for row in (inserted, updated, deleted) for values in row[4:6])
        assert {row[6] for row in (inserted, updated, deleted)} == {None}, "a query's literals can be secrets"
        session.execute("set local app.audit_query = 'on'")
        session.execute("truncate design.designs")
        ((operation, *_, query),) = rows(session, trail, "design.designs")
        assert (operation, query) == ("TRUNCATE", "truncate design.designs")


def test_a_cascade_is_audited_too(wallet: Wallet) -> None:
    with wallet.session() as session:
        session.execute("delete from shared.users where id = %s", (USER,))
        query = "select table_name, operation from audit.database_operations where executed_at >= now()"
        assert {("shared.users", "DELETE"), ("avatar.avatars", "DELETE"), ("design.designs", "DELETE")} <= {
            (table, operation) for table, operation in rows(session, query)
        }


def test_applications_can_neither_read_nor_write_the_trail(wallet: Wallet) -> None:
    for statement in ("select from audit.database_operations", "delete from audit.audit_logs"):
        with wallet.session("app_readwrite", USER) as session, pytest.raises(errors.InsufficientPrivilege):
            session.execute(statement.encode())
    with wallet.session("avatar_access", USER) as session:
        session.execute("select shared.write_audit_log('avatar', null, 'READ', null, null, null, 'curl')")
        become(session, "app_admin")
        assert rows(session, "select user_id::text, action, metadata from audit.audit_logs") == [(USER, "READ", {})]


def test_row_level_security_keeps_two_users_apart(wallet: Wallet) -> None:
    with wallet.session("app_readwrite") as session:
        assert rows(session, "select from shared.users") == [], "a fresh session is nobody"
        for user, email in ((USER, "user@fashionwallet.com"), (DESIGNER, "designer@fashionwallet.com")):
            become(session, "app_readwrite", user)
            assert rows(session, "select email from shared.users") == [(email,)]
            assert rows(session, "select email from shared.active_users") == [(email,)]
            assert session.execute("update shared.users set first_name = 'me'").rowcount == 1
            become(session, "avatar_access", user)
            assert rows(session, "select distinct user_id::text from avatar.avatars") == [(user,)]
        become(session, "avatar_access", "")
        assert rows(session, "select from avatar.avatars") == [], "a pooled session has '' where another had a user"
        become(session, "app_admin")
        assert rows(session, "select count(*) from shared.users") == [(3,)]
        become(session, "app_readonly", USER)
        assert rows(session, "select from shared.users") == []


def test_row_level_security_refuses_rows_of_another_user(wallet: Wallet) -> None:
    change = "insert into avatar.avatars (user_id, name) values (%s, 'stolen')"
    with wallet.session("avatar_access", USER) as session, pytest.raises(errors.InsufficientPrivilege):
        session.execute(change.encode(), (DESIGNER,))
    with wallet.session("avatar_access", USER) as session, pytest.raises(errors.InsufficientPrivilege):
        session.execute("update avatar.avatars set user_id = %s", (DESIGNER,))
    with wallet.session("design_access", USER) as session:
        assert session.execute("delete from design.designs where user_id = %s", (DESIGNER,)).rowcount == 0


def test_a_published_design_is_seen_by_everyone_and_changed_by_its_owner(wallet: Wallet) -> None:
    with wallet.session("app_readonly") as session:
        assert rows(session, "select name from design.active_designs") == [("Striped classic",)]
        become(session, "design_access", USER)
        visible = rows(session, "select name from design.active_designs order by 1")
        assert visible == [("Striped classic",), ("Summer draft",)]
        assert session.execute("update design.designs set name = 'mine' where status = 'published'").rowcount == 0
        become(session, "design_access", DESIGNER)
        assert session.execute("update design.designs set name = 'mine' where status = 'published'").rowcount == 1


def test_a_service_reaches_shared_and_its_own_schema_only(wallet: Wallet) -> None:
    for role, table in (("avatar_access", "design.designs"), ("design_access", "catalog.catalog_items")):
        with wallet.session(role, USER) as session, pytest.raises(errors.InsufficientPrivilege, match="for schema"):
            session.execute(sql.SQL("select from {}").format(sql.Identifier(*table.split("."))))
    with wallet.session("app_readonly") as session:
        assert rows(session, "select count(*) from catalog.catalog_items") == [(4,)]
        with pytest.raises(errors.InsufficientPrivilege, match="for table"):
            session.execute("delete from catalog.catalog_items")


def test_login_finds_a_user_whom_no_policy_shows(wallet: Wallet) -> None:
    with wallet.session("avatar_access") as session:
        query = "select user_id::text, length(password_hash), role::text from shared.find_login(%s)"
        assert rows(session, query, "USER@FashionWallet.com") == [(USER, 60, "user")]
    with wallet.session("app_readonly") as session, pytest.raises(errors.InsufficientPrivilege):
        session.execute("select shared.find_login('user@fashionwallet.com')")


def test_soft_delete_has_no_more_rights_than_its_caller(wallet: Wallet) -> None:
    call = "select shared.soft_delete(%s, %s, %s)"
    mine, theirs = "d0000000-0000-4000-8000-000000000001", "d0000000-0000-4000-8000-000000000002"
    with wallet.session("design_access", USER) as session:
        assert rows(session, call, "design.designs", theirs, USER) == [(False,)]
        assert rows(session, call, "design.designs", mine, USER) == [(True,)]
        assert rows(session, call, "design.designs", mine, USER) == [(False,)]
        assert rows(session, "select from design.active_designs where id = %s", mine) == []
        assert rows(session, "select deleted_by::text from design.designs where id = %s", mine) == [(USER,)]
    for target in ("design.designs set name = 'x' --", "pg_catalog.pg_class", "nothing"):
        with wallet.session("app_admin") as session, pytest.raises((errors.UndefinedTable, errors.InvalidName)):
            rows(session, call, target, mine, USER)


def test_personal_data_comes_back_with_the_key_and_not_without(wallet: Wallet) -> None:
    with wallet.session("app_readwrite", USER) as session:
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match=r"app\.encryption_key"), session.transaction():
            session.execute("select shared.encrypt_personal_data('x')")
        session.execute("select set_config('app.encryption_key', %s, true)", (KEY,))
        (sealed,) = rows(
            session,
            """insert into shared.user_personal_data (user_id, phone_encrypted, phone_digest)
               select %s, shared.encrypt_personal_data(phone), shared.digest_personal_data(phone)
               from (values ('+49 30 901820')) as given (phone) returning phone_encrypted""",
            USER,
        )
        assert b"901820" not in bytes(sealed[0])
        opened = """select shared.decrypt_personal_data(phone_encrypted) from shared.user_personal_data
                    where phone_digest = shared.digest_personal_data('+49 30 901820')"""
        assert rows(session, opened) == [("+49 30 901820",)]
        twice = """select shared.encrypt_personal_data('x') = shared.encrypt_personal_data('x'),
                          shared.encrypt_personal_data(null)"""
        assert rows(session, twice) == [(False, None)]
        session.execute("select set_config('app.encryption_key', %s, true)", (KEY[::-1],))
        assert rows(session, opened) == []
        with pytest.raises(errors.ExternalRoutineInvocationException), session.transaction():
            session.execute("select shared.decrypt_personal_data(phone_encrypted) from shared.user_personal_data")
        become(session, "app_admin")
        trail = "select new_values from audit.database_operations where table_name = 'shared.user_personal_data'"
        ((values,),) = rows(session, trail)
        assert not {name for name in values if name.startswith(("phone", "contact", "payment"))}


def test_measurements_are_sealed_in_batches(wallet: Wallet) -> None:
    with wallet.session("app_admin") as session:
        session.execute("select set_config('app.encryption_key', %s, true)", (KEY,))
        assert [rows(session, "select avatar.encrypt_measurements(1)")[0][0] for _ in range(3)] == [1, 1, 0]
        query = """select measurements, shared.decrypt_personal_data(measurements_encrypted)::jsonb ->> 'height'
                   from avatar.avatars"""
        assert sorted(rows(session, query), key=str) == [({}, "168"), ({}, "180")]


def test_the_way_back_is_refused_while_there_is_sealed_data(server: PostgresServer) -> None:
    made = declare(server, "sealed")
    upto = [m for m in migrations() if m.name < "20250909"]
    for migration in upto:
        made.run(migration.up)
    made.run(
        """insert into shared.users (email, password_hash) values ('a@example.com', repeat('x', 60));
        insert into shared.user_personal_data (user_id) select id from shared.users;"""
    )
    with pytest.raises(AssertionError, match="would be lost"):
        made.run(upto[-1].down)
