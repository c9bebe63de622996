"""Triggers and rules that somebody put on the audit log by hand: they could lose, change or forge its entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from selvedge.core.unit import Risk
from tests.engines.postgres_support import engine, only, ready, rows, run, unit
from tests.engines.tables_support import stands
from tests.engines.test_postgres_audit import AUDIT, audited, first_partition

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint

pytestmark = pytest.mark.engines

BY_HAND = """
CREATE FUNCTION public.lose() RETURNS trigger LANGUAGE plpgsql AS 'begin return null; end';
CREATE FUNCTION public.tell() RETURNS trigger LANGUAGE plpgsql AS
  'begin perform pg_notify(''audit'', ''x''); return null; end';
CREATE TRIGGER "Lose it" BEFORE INSERT ON audit.database_operations FOR EACH ROW EXECUTE FUNCTION public.lose();
CREATE TRIGGER lose BEFORE INSERT ON {partition} FOR EACH ROW EXECUTE FUNCTION public.lose();
CREATE TRIGGER selvedge_tell AFTER INSERT ON audit.database_operations EXECUTE FUNCTION public.tell();
CREATE TRIGGER selvedge_audit_row BEFORE INSERT ON audit.audit_logs FOR EACH ROW EXECUTE FUNCTION public.lose();
CREATE RULE nothing AS ON INSERT TO audit.audit_logs DO INSTEAD NOTHING;
"""
HOOKS = """
SELECT c.relname, t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
 WHERE c.relnamespace = 'audit'::regnamespace AND NOT t.tgisinternal AND t.tgparentid = 0
UNION ALL SELECT c.relname, r.rulename FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
 WHERE c.relnamespace = 'audit'::regnamespace ORDER BY 1, 2
"""


async def test_a_trigger_or_rule_on_the_log_is_drift_and_goes(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    count = "SELECT count(*) FROM audit.database_operations"
    insert = "INSERT INTO shared.notes VALUES ('{}')"
    async with engine(postgres) as one:
        await stands(one, postgres, audited(name))
        assert rows(postgres, HOOKS, dbname=name) == [("audit_logs", "selvedge_audit_stamp")]
        run(postgres, insert.format(1), dbname=name)
        entries = rows(postgres, count, dbname=name)[0][0]
        partition = first_partition(postgres, name, "audit.database_operations")
        run(postgres, BY_HAND.replace("{partition}", partition), dbname=name)
        run(postgres, insert.format(2), dbname=name)
        assert rows(postgres, count, dbname=name) == [(entries,)], "an entry was lost"
        verified = audited(name, verified=True)
        planned = (await one.plan(unit(verified))).members[verified.uid]
        before = {change.statement: change.before for change in planned.pending}
        assert 'DROP TRIGGER "Lose it" ON "audit"."database_operations"' in before
        assert any(text.startswith("CREATE RULE nothing AS") for text in before.values()), "how to have it back"
        repaired = await ready(one, verified)
        assert {str(ref) for ref in repaired.drift} == {"audit audit"}
        assert {change.statement for change in repaired.applied} == set(before)
        assert len(before) == 5
        assert rows(postgres, HOOKS, dbname=name) == [("audit_logs", "selvedge_audit_stamp")]
        assert (await ready(one, verified)).applied == ()
        run(postgres, insert.format(3), dbname=name)
        assert rows(postgres, count, dbname=name) == [(entries + 1,)]


async def test_entries_go_by_their_retention_and_a_legal_hold_keeps_them(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    name, log = database_name, "audit.database_operations"
    old = (
        f"CREATE TABLE audit.old PARTITION OF {log} FOR VALUES FROM ('2001-01-01') TO ('2001-02-01'); "
        f"ALTER TABLE audit.old OWNER TO {name}_audit"
    )
    there = "SELECT to_regclass('audit.old') IS NOT NULL"
    async with engine(postgres) as one:
        await stands(one, postgres, audited(name, {**AUDIT, "legalHold": True}))
        run(postgres, old, dbname=name)
        held = await ready(one, audited(name, {**AUDIT, "legalHold": True}, verified=True))
        assert (held.applied, rows(postgres, there, dbname=name)) == ((), [(True,)])
        waits = await only(one, audited(name, generation=2))
        assert {change.risk for change in waits.pending} == {Risk.DESTRUCTIVE}, "to lift it is a person's to decide"
        assert rows(postgres, there, dbname=name) == [(True,)]
        await ready(one, audited(name, generation=2, approvedPlan=waits.digest))
        assert rows(postgres, there, dbname=name) == [(False,)]
