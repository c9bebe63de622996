"""``destructive: Refuse``, of a DatabaseSchema or as the floor of its DatabaseServer, is stronger than an approval."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectState
from tests.engines.postgres_support import engine, member, only, ready, rows, run
from tests.engines.tables_support import migrate
from tests.engines.test_postgres_partitions import CHILDREN, DAILY, OLD, partitioned

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint
    from selvedge.core.unit import MemberResult, ObjectStatus

pytestmark = pytest.mark.engines

SERVER = "fashion/main"
THERE = (
    "SELECT nspname::text FROM pg_namespace WHERE nspname IN ('app', 'old', 'new') "
    "UNION SELECT extname::text FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1"
)


def refusal(result: MemberResult, ref: str) -> ObjectStatus:
    """What is said of the one object that is refused."""
    assert not result.verified
    (found,) = [problem for problem in result.problems if problem.reason is Reason.DESTRUCTIVE_REFUSED]
    assert (str(found.ref), found.state) == (ref, ObjectState.PENDING)
    return found


async def test_what_is_refused_stays_whoever_approved_it_and_the_rest_of_the_plan_is_made(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    name = database_name
    async with engine(postgres) as one:
        await ready(one, member(name, {"schemas": [{"name": "app"}], "extensions": [{"name": "pgcrypto"}]}))
        asked = {"prune": "Owned", "apply": "OnApproval"}
        spec = {"schemas": [{"name": "app"}, {"name": "new"}]}
        whole = await only(one, member(name, spec, **asked))
        assert {(str(x.ref), x.risk.value) for x in whole.pending} == {
            ("extension pgcrypto", "Destructive"),
            ("schema new", "Additive"),
        }
        asked["approvedPlan"] = whole.digest
        result = await only(one, member(name, spec, **asked, destructive="Refuse"))
        assert rows(postgres, THERE, dbname=name) == [("app",), ("new",), ("pgcrypto",)]
        message = refusal(result, "extension pgcrypto").message
        assert message.startswith("extension pgcrypto is not changed: that would lose data, and spec.destructive is ")
        assert "no approval" in message
        assert 'DROP EXTENSION "pgcrypto"' in message
        assert "set spec.destructive to RequireApproval" in message
        assert [str(x.ref) for x in result.pending] == ["extension pgcrypto"]

        again = await only(one, member(name, spec, prune="Owned", destructive="Refuse", approvedPlan=result.digest))
        refusal(again, "extension pgcrypto")
        below = member(name, spec, prune="Owned", destructive="Refuse", approvedPlan=again.digest)
        below = replace(below, deciding=f"spec.policy.destructive of DatabaseServer {SERVER}")
        message = refusal(await only(one, below), "extension pgcrypto").message
        assert f"spec.policy.destructive of DatabaseServer {SERVER} is Refuse" in message
        assert rows(postgres, THERE, dbname=name) == [("app",), ("new",), ("pgcrypto",)]

        await ready(one, member(name, spec, prune="Owned", approvedPlan=again.digest))
        assert rows(postgres, THERE, dbname=name) == [("app",), ("new",)]


@pytest.mark.newest
async def test_an_empty_schema_goes_with_an_approval_where_losses_are_refused(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """The server drops no schema that holds something: nothing is lost with it."""
    name = database_name
    spec, asked = {"schemas": [{"name": "app"}]}, {"prune": "Owned", "destructive": "Refuse"}
    async with engine(postgres) as one:
        await ready(one, member(name, {"schemas": [{"name": "app"}, {"name": "old"}]}))
        plan = await only(one, member(name, spec, **asked))
        assert (plan.problems, [str(x.ref) for x in plan.pending]) == ((), ["schema old"])
        run(postgres, "CREATE TABLE old.kept AS SELECT 1", dbname=name)
        full = await only(one, member(name, spec, **asked, approvedPlan=plan.digest))
        assert not full.verified
        assert rows(postgres, THERE, dbname=name) == [("app",), ("old",)]
        run(postgres, "DROP TABLE old.kept", dbname=name)
        await ready(one, member(name, spec, **asked, approvedPlan=plan.digest))
        assert rows(postgres, THERE, dbname=name) == [("app",)]


@pytest.mark.newest
async def test_drift_that_is_only_reported_stays_drift(postgres: PostgresEndpoint, database_name: str) -> None:
    """Its reason keeps the generation verified: told as refused, the next pass would put the rest of it back."""
    name = database_name
    spec = {"extensions": [{"name": "pgcrypto", "ensure": "Absent"}]}
    async with engine(postgres) as one:
        await ready(one, member(name, {"extensions": [{"name": "pgcrypto"}]}))
        asked = {"drift": "Report", "destructive": "Refuse", "verified": True}
        reported = await only(one, member(name, spec, **asked))
        assert [str(x.ref) for x in reported.pending] == ["extension pgcrypto"]
        assert reported.problems == ()
        await only(one, member(name, spec, **asked, approvedPlan=reported.digest))
        assert rows(postgres, THERE, dbname=name) == [("pgcrypto",)]


@pytest.mark.newest
async def test_a_shorter_retention_is_refused(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    kept, short = {**DAILY, "retention": "36500d"}, {**DAILY, "retention": "30d"}
    async with engine(postgres) as one:
        await only(one, partitioned(name, kept))
        migrate(postgres, name)
        await ready(one, partitioned(name, kept))
        migrate(postgres, name, OLD)
        before = rows(postgres, CHILDREN, dbname=name)
        plan = await only(one, partitioned(name, short))
        for _ in range(2):
            result = await only(one, partitioned(name, short, destructive="Refuse", approvedPlan=plan.digest))
            assert "shared.readings" in refusal(result, "partitions shared.readings").message
            assert rows(postgres, CHILDREN, dbname=name) == before
        await ready(one, partitioned(name, kept, destructive="Refuse"))


@pytest.mark.newest
async def test_an_extension_that_left_is_refused(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        await ready(one, member(name, {"extensions": [{"name": "pgcrypto"}]}))
        plan = await only(one, member(name, {}, prune="Owned"))
        result = await only(one, member(name, {}, prune="Owned", destructive="Refuse", approvedPlan=plan.digest))
        refusal(result, "extension pgcrypto")
        run(postgres, "SELECT gen_random_bytes(1)", dbname=name)


@pytest.mark.newest
async def test_what_matches_beside_a_refusal_is_claimed(postgres: PostgresEndpoint, database_name: str) -> None:
    """A refusal stays for ever: without its claim, what stands beside it would be anybody's who comes later."""
    name = database_name
    schemas = [{"name": "app"}]
    async with engine(postgres) as one:
        await ready(one, member(name, {"schemas": schemas, "extensions": [{"name": "pgcrypto"}]}))
        run(postgres, "CREATE SCHEMA made", dbname=name)
        spec = {"schemas": [*schemas, {"name": "made"}]}
        for _ in range(2):
            result = await only(one, member(name, spec, prune="Owned", destructive="Refuse", adoption="Allow"))
            refusal(result, "extension pgcrypto")
            claimed = (
                "SELECT object FROM selvedge.claims WHERE object IN ('schema:made', 'extension:pgcrypto') ORDER BY 1"
            )
            assert rows(postgres, claimed, dbname=name) == [("extension:pgcrypto",), ("schema:made",)]
