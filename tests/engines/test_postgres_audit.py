"""The audit of row changes on real servers: what is written down, and who can do what about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.engines.postgres_support import count, engine, member, only, ready, reasons, rows
from tests.engines.tables_support import application, declaration, migrate

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint
    from selvedge.engines.base import Member

AUDIT: dict[str, Any] = {
    "schema": "audit",
    "every": "Month",
    "retention": "365d",
    "actorSetting": "app.current_user_id",
    "tables": [{"table": "shared.users", "exclude": ["password_hash"]}],
    "tablesIn": ["shared"],
    "applicationLog": True,
}

LOG = "SELECT operation, record_id, user_id, session_role, old_values, new_values FROM audit.database_operations"


def audited(name: str, audit: dict[str, Any] | None = None, **fields: Any) -> Member:
    return member(name, declaration(name, audit=AUDIT if audit is None else audit), **fields)


async def test_each_change_is_written_down_with_its_actor(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        first = await only(one, audited(name))
        assert reasons(first)["audit shared.users"] == "WaitingForObjects"
        migrate(postgres, name)
        await ready(one, audited(name))
        count(one).taken()
        again = await ready(one, audited(name))
        assert (again.applied, count(one).taken()) == ((), ["snapshot"])

    with application(postgres, name, app__current_user_id="u-7") as app:
        app.execute("INSERT INTO shared.users (id, email, password_hash) VALUES (gen_random_uuid(), 'a@b', 'secret')")
        app.execute("UPDATE shared.users SET email = 'c@d'")
        app.execute("UPDATE shared.users SET email = email")
        app.execute("UPDATE shared.users SET password_hash = 'other secret'")
        app.execute("DELETE FROM shared.users")
        app.execute("TRUNCATE shared.users")
        app.execute("INSERT INTO shared.notes VALUES ('x')")
        app.execute("UPDATE shared.notes SET note = 'y'")

    found = rows(postgres, f"{LOG} WHERE table_name = 'shared.users' ORDER BY executed_at", dbname=name)
    assert [row[0] for row in found] == ["INSERT", "UPDATE", "UPDATE", "DELETE", "TRUNCATE"]
    assert {row[1] for row in found[:4]} == {found[0][5]["id"]}
    assert {row[2:4] for row in found} == {("u-7", f"{name}_login")}
    assert (found[1][4]["email"], found[1][5]["email"]) == ("a@b", "c@d")
    assert "secret" not in str(found)
    notes = rows(postgres, f"{LOG} WHERE table_name = 'shared.notes' ORDER BY executed_at", dbname=name)
    assert [(row[0], row[4], row[5]) for row in notes] == [
        ("INSERT", None, {"note": "x"}),
        ("UPDATE", {"note": "x"}, {"note": "y"}),
    ]
