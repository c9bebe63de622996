"""Generated declarations on generated databases: whatever was there, the second plan is empty, nothing else changed.

``SELVEDGE_SEED`` repeats a run, and then looks for the smallest case that fails, which may take minutes; the seed
stands in the output of one that failed.
"""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from psycopg import sql

from sandbox import PostgresEndpoint
from selvedge.core.postgres.audit import CHANGES, EVENTS
from selvedge.core.reasons import Reason
from selvedge.core.unit import ChangeSummary, MemberResult, ObjectStatus
from selvedge.engines.base import Member
from selvedge.engines.postgres.engine import PostgresEngine
from tests.engines.declared import covers
from tests.engines.declared_tables import under_new_names, without_own_logins
from tests.engines.fingerprint import Facts, changed, facts
from tests.engines.generators import STRUCTURE, Case, cases
from tests.engines.postgres_support import Count, member, run, target, unit

pytestmark = pytest.mark.engines

#: Cases on each version of Postgres.
CASES, LONG_CASES = 50, 500
#: Of what is declared: an object that nobody made, a role that nobody made, and what a schema's defaults cannot take.
_NOT_HIS_TO_DO = {
    ("rowLevelSecurity", Reason.INSUFFICIENT_PRIVILEGES),  # the owner may not use the schema
    ("rowLevelSecurity", Reason.UNSAFE_OWNER),
    ("rowLevelSecurity", Reason.STATEMENT_FAILED),  # the same, met while the two expressions are compared
    ("partitions", Reason.INSUFFICIENT_PRIVILEGES),  # the owner may make nothing in the schema
    ("grant", Reason.CONFLICT),  # it would open an audit's log
    ("role", Reason.UNSUPPORTED),  # what a member of an object's owner gave
}
_ON_TABLES = ("rowLevelSecurity", "audit", "auditLog", "partitions")
_CANNOT_BE_YET = {Reason.WAITING_FOR_OBJECTS, Reason.ROLE_NOT_FOUND, Reason.INVALID_SPEC}
_DATA = """SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM (
  SELECT query_to_xml(format('SELECT * FROM %I.%I', schemaname, tablename), true, true, '') x FROM pg_tables
  WHERE tablename = 't' AND schemaname <> 'selvedge') q"""


@pytest.fixture(scope="module")
def template(postgres: PostgresEndpoint) -> Iterator[str]:
    """A database with the structure that every case begins with."""
    name = f"tmpl_{uuid.uuid4().hex[:8]}"
    run(postgres, f"CREATE DATABASE {name}")
    run(postgres, STRUCTURE, name)
    yield name
    run(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@dataclass
class Place:
    """One database of a case, with the facts of before."""

    endpoint: PostgresEndpoint
    name: str
    before: Facts

    def facts(self) -> Facts:
        """As it is now, with the rows of its tables."""
        return _facts(self.endpoint, self.name)


def _facts(endpoint: PostgresEndpoint, name: str) -> Facts:
    with endpoint.connect(name) as connection:
        connection.autocommit = True
        connection.execute("SET default_transaction_read_only = on")
        return without_own_logins(facts(connection, f"{name}_"))


def _data(endpoint: PostgresEndpoint, name: str) -> str:
    with endpoint.connect(name) as connection:
        row = connection.execute(_DATA).fetchone()
    assert row is not None
    return str(row[0])


@contextmanager
def place(endpoint: PostgresEndpoint, template: str, case: Case) -> Iterator[Place]:
    """A database and its roles, as the case says that they were found."""
    name = f"g{uuid.uuid4().hex[:10]}"
    with endpoint.connect() as admin:
        admin.autocommit = True
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        try:
            statements = case.statements(f"{name}_").replace("{database}", name)
            with endpoint.connect(name) as connection:
                connection.execute(statements.encode())
            yield Place(endpoint, name, _facts(endpoint, name))
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            roles = [role for (role,) in admin.execute(
                "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", [f"{name}_"])]  # fmt: skip
            for role in roles:  # the memberships that they gave go first
                admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
            admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.SQL(", ").join(map(sql.Identifier, roles))))
            if admin.execute("SELECT to_regclass('selvedge.claims') IS NOT NULL").fetchone() == (True,):
                admin.execute("DELETE FROM selvedge.claims WHERE resource = %s", [f"shop/{name}"])


def declared(found: Place, case: Case, *, shuffled: bool = False) -> Member:
    """The case's DatabaseSchema for this database."""
    spec = case.declared(f"{found.name}_", shuffled=shuffled)
    return member(found.name, spec, name=found.name, adoption="Allow", destructive="Allow")


async def settle(server: PostgresEngine, one: Member) -> MemberResult:
    """Make it so, and see that nothing is left but what waits for what nobody made."""
    foreseen = (await server.plan(unit(one))).members[one.uid]
    first = (await server.converge(unit(one), lambda: None)).members[one.uid]
    assert unexpected(first) == []
    # A table that cannot be guarded gets no grants; that its owner is refused something, a plan cannot foresee.
    if not _unguarded(first):
        assert _statements(foreseen.pending) == _statements(first.applied)
    for result in (first, (await server.converge(unit(one), lambda: None)).members[one.uid]):
        assert result.pending == ()
        assert result.provisioned or any(x.reason is Reason.UNSUPPORTED for x in result.problems)
        assert unexpected(result) == []
    again = (await server.plan(unit(one))).members[one.uid]
    told = {problem.ref for problem in result.problems}
    left = [x.statement for x in again.pending if x.ref not in told]
    left = [statement for statement in left if not any(name in statement for name in _unguarded(result))]
    assert (result.applied, left, again.drift) == ((), [], ())
    return result


def _unguarded(result: MemberResult) -> list[str]:
    """The tables whose rows could not be guarded, as statements name them."""
    names = [problem.ref.name for problem in result.problems if problem.ref.kind == "rowLevelSecurity"]
    return [".".join(f'"{part}"' for part in name.split(".")) for name in names]


def unexpected(result: MemberResult) -> list[ObjectStatus]:
    """The problems that no declaration of these can have."""
    return [
        x for x in result.problems if x.reason not in _CANNOT_BE_YET and (x.ref.kind, x.reason) not in _NOT_HIS_TO_DO
    ]


def _statements(changes: Iterable[ChangeSummary]) -> list[str]:
    """What a plan foresees word for word: all but tables, of which it learns while it is carried out.

    So it is with what is granted on a log that the same pass makes.
    """
    told = [change.statement for change in changes if change.ref.kind not in _ON_TABLES]
    return [statement for statement in told if not any(f'"{log}"' in statement for log in (CHANGES, EVENTS))]


async def check(endpoint: PostgresEndpoint, server: PostgresEngine, template: str, case: Case) -> None:
    with place(endpoint, template, case) as found:
        rows = _data(endpoint, found.name)
        one = declared(found, case)
        await settle(server, one)
        after = found.facts()
        spec = case.declared("")
        before = under_new_names(found.before, {old.replace("{p}", ""): new.replace("{p}", "")
                                                for old, new in case.renames.items()})  # fmt: skip
        strange = {
            fact: values for fact, values in changed(before, after).items() if not covers(spec, fact, before, after)
        }
        assert strange == {}, "what nobody declared has changed"
        assert _data(endpoint, found.name) == rows
        other = await server.converge(unit(declared(found, case, shuffled=True)), lambda: None)
        assert other.members[one.uid].applied == (), "another order of the same is no change"
    with place(endpoint, template, case) as found:
        one = declared(found, case, shuffled=True)
        first = await server.converge(unit(one), lambda: None)
        assert unexpected(first.members[one.uid]) == []
        assert changed(after, found.facts()) == {}, "another order has another end"


@pytest.mark.timeout(3600)
def test_generated_declarations_on_generated_databases(
    postgres: PostgresEndpoint, template: str, request: pytest.FixtureRequest
) -> None:
    long = request.config.getoption("--long")
    given_seed = os.environ.get("SELVEDGE_SEED")
    seed = int(given_seed or (0 if os.environ.get("CI") else random.randrange(2**32)))
    print(f"SELVEDGE_SEED={seed}")
    with asyncio.Runner() as runner:
        server = PostgresEngine(target(postgres), Count())

        @hypothesis.seed(seed)
        @settings(
            max_examples=LONG_CASES if long else CASES,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink) if given_seed else (Phase.generate,),
        )
        @given(cases())
        def holds(case: Case) -> None:
            runner.run(check(postgres, server, template, case))

        try:
            holds()
        finally:
            runner.run(server.close())
