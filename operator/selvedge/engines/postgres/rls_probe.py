"""Probes: what roles really see, tried in sessions of a login that may become one of them and nothing else.

A policy's functions run in such a session. What they see and count is compared with what the administrator read in the
very same snapshot, so that rows which come and go meanwhile make no difference. Everything is rolled back. A message
never holds a value of a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from selvedge.core.own_roles import PROBE
from selvedge.core.postgres.rls_changes import TableKey
from selvedge.core.postgres.rls_model import DesiredRowSecurity, Expectation, TableState, TenantProbe
from selvedge.engines.base import ServerTarget
from selvedge.engines.postgres.connections import Connections
from selvedge.engines.postgres.errors import is_connection_lost, statement_error
from selvedge.engines.postgres.restricted_login import RestrictedLogin
from selvedge.engines.postgres.rls_truth import Truth, UnreadableError, read_truth
from selvedge.engines.postgres.rls_writes import probe_writes
from selvedge.engines.postgres.session import Session

_LIMIT = 60.0
_SETTINGS = {"statement_timeout": "5s", "lock_timeout": "2s", "jit": "off"}
_PARTITIONS = 3


@dataclass(slots=True)
class Verdict:
    """How many probes passed, and what failed or could not be tried, each in a sentence."""

    passed: int = 0
    failures: list[str] = field(default_factory=list)
    not_probed: list[str] = field(default_factory=list)


def probe_login(target: ServerTarget, database: str) -> RestrictedLogin:
    """The login as which probes run."""
    return RestrictedLogin(target, database, PROBE, "proves the policies")


async def prove(pool: Connections, login: RestrictedLogin, entry: DesiredRowSecurity, table: TableState) -> Verdict:
    """Try everything that the entry's probes say, role by role.

    Raises our errors where the server cannot be reached or the login cannot be made; what a probe meets is its verdict.
    """
    verdict = Verdict()
    async with pool.slot(), pool.session(login.database) as admin, login.in_use(admin):
        if entry.tenant is not None:
            await _in_role(admin, login, _Tenant(entry.tenant, entry.key, table, verdict))
        for expectation in entry.expect:
            await _in_role(admin, login, _Sees(expectation, entry.key, table, verdict))
    return verdict


async def _in_role(admin: Session, login: RestrictedLogin, probe: _Probe) -> None:
    """Open a session that may become the probe's role, and run the probe there."""
    password = await login.renew(admin, probe.role)
    try:
        async with login.connect(password, _SETTINGS, limit=_LIMIT) as connection:
            await probe.run(admin, connection)
    except TimeoutError:
        probe.skip(f"took longer than {_LIMIT:.0f} s")
    except psycopg.Error as error:
        if admin.connection.closed or not is_connection_lost(error):
            raise statement_error(error, f"probing {probe.name}") from None
        probe.skip("lost its session")


class _Probe(ABC):
    """One role, one session, one snapshot."""

    def __init__(self, role: str, key: TableKey, table: TableState, verdict: Verdict) -> None:
        self.role = role
        self.key = key
        self.name = ".".join(key)
        self.table = table
        self.relation = sql.Identifier(*key)
        self.verdict = verdict

    def skip(self, why: str) -> None:
        self.verdict.not_probed.append(f"probe of {self.name} as {self.role}: {why}")

    def fail(self, what: str) -> None:
        self.verdict.failures.append(f"role {self.role} {what}")

    async def truth(self, admin: Session, connection: psycopg.AsyncConnection, column: str | None) -> Truth | None:
        """Open the probe's transaction and read what stands there in its snapshot; None where that cannot be."""
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor = await connection.execute("SELECT pg_catalog.pg_export_snapshot()")
        row = await cursor.fetchone()
        try:
            truth = await read_truth(admin, str(row[0] if row else ""), self.key, column)
        except UnreadableError as error:
            self.skip(str(error))
            return None
        if truth.rows == 0:
            self.skip("the table is empty, so nothing is proven")
            return None
        return truth

    @abstractmethod
    async def run(self, admin: Session, connection: psycopg.AsyncConnection) -> None:
        """Ask as the role, and note in the verdict what differs from the truth."""

    async def ask(
        self,
        connection: psycopg.AsyncConnection,
        question: sql.Composable,
        setting: str | None = None,
        value: str | None = None,
    ) -> tuple[object, ...] | str:
        """The answer of one query as the role, or the SQLSTATE of what it raised."""
        await connection.execute("SAVEPOINT probe")
        try:
            await connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(self.role)))
            if setting is not None and value is not None:
                await connection.execute(
                    sql.SQL("SELECT pg_catalog.set_config({}, {}, true)").format(
                        sql.Literal(setting), sql.Literal(value)
                    )
                )
            cursor = await connection.execute(sql.Composed([question]))
            row = await cursor.fetchone()
            return tuple(row or ())
        except psycopg.Error as error:
            if is_connection_lost(error) or connection.closed:
                raise
            return error.sqlstate or "?"
        finally:
            if not connection.closed:
                await connection.execute("ROLLBACK TO SAVEPOINT probe")

    async def applies(self, connection: psycopg.AsyncConnection) -> bool:
        """Whether row-level security applies to the role at all."""
        text = sql.Literal(self.relation.as_string(None))
        answer = await self.ask(connection, sql.SQL("SELECT pg_catalog.row_security_active({}::text)").format(text))
        if answer == (False,):
            self.fail(f"is not subject to row-level security of {self.name}: it owns the table or bypasses policies")
        elif isinstance(answer, str):
            self.skip(f"row_security_active() raised {answer}")
        return answer == (True,)


class _Tenant(_Probe):
    """Neither of two tenants' rows is seen but through the setting."""

    def __init__(self, probe: TenantProbe, key: TableKey, table: TableState, verdict: Verdict) -> None:
        super().__init__(probe.role, key, table, verdict)
        self.probe = probe

    async def run(self, admin: Session, connection: psycopg.AsyncConnection) -> None:
        truth = await self.truth(admin, connection, self.probe.column)
        if truth is None or not await self.applies(connection):
            return
        if not truth.tenants:
            self.skip(f"column {self.probe.column} holds no value")
            return
        await self._sees_nothing(connection, None, f"{self.probe.setting} was never set")
        await self._sees_nothing(connection, "", f"{self.probe.setting} is empty, as on a pooled connection")
        if len(truth.tenants) < 2:
            self.skip(f"column {self.probe.column} holds one tenant only, so that two cannot be told apart")
            return
        first, second = truth.tenants
        for tenant in (first, second):
            await self._sees_own(connection, tenant)
        for partition in self._partitions():
            await self._sees_own(connection, first, partition)
        if self.probe.writes:
            await connection.execute("ROLLBACK")
            await probe_writes(self, connection, first, second)

    def _partitions(self) -> Sequence[TableKey]:
        return [partition.key for partition in self.table.partitions if not partition.foreign][:_PARTITIONS]

    async def _sees_nothing(self, connection: psycopg.AsyncConnection, value: str | None, when: str) -> None:
        question = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {} IS NOT NULL)").format(
            self.relation, sql.Identifier(self.probe.column)
        )
        answer = await self.ask(connection, question, self.probe.setting, value)
        if answer == (True,):
            self.fail(f"sees rows of tenants in {self.name} while {when}")
        elif answer == (False,):
            self.verdict.passed += 1
        else:
            self._raised(str(answer), f"while {when}")

    async def _sees_own(
        self, connection: psycopg.AsyncConnection, tenant: str, partition: TableKey | None = None
    ) -> None:
        column, value = sql.Identifier(self.probe.column), sql.Literal(tenant)
        # By the type's output and not by its operators: those may stand in any schema.
        question = sql.SQL(
            "SELECT EXISTS (SELECT FROM {t} WHERE {c} IS NOT NULL AND pg_catalog.format('%s', {c}) <> {v}), "
            "EXISTS (SELECT FROM {t} WHERE {c} IS NOT NULL AND pg_catalog.format('%s', {c}) = {v})"
        ).format(t=sql.Identifier(*(partition or self.key)), c=column, v=value)
        answer = await self.ask(connection, question, self.probe.setting, tenant)
        where = f"partition {'.'.join(partition)} by its own name" if partition else self.name
        if isinstance(answer, str):
            if partition is not None and answer == "42501":
                self.verdict.passed += 1
            else:
                self._raised(answer, "as one tenant")
        elif answer[0]:
            self.fail(f"sees rows of another tenant in {where}")
        elif answer[1] or partition is not None:
            self.verdict.passed += 1
        else:
            self.skip("a tenant sees none of its own rows, so that seeing none of another's proves nothing")

    def _raised(self, state: str, when: str) -> None:
        if state == "42501":
            self.skip(f"the role may not select from it ({when})")
        elif state in ("22P02", "42704", "22007", "22003"):
            self.skip(
                f"the policy raises an error {when} ({state}): write (select nullif(current_setting("
                f"'{self.probe.setting}', true), '')::…)"
            )
        else:
            self.skip(f"the query raised {state} {when}")


class _Sees(_Probe):
    """A role sees all rows, or none."""

    def __init__(self, expectation: Expectation, key: TableKey, table: TableState, verdict: Verdict) -> None:
        super().__init__(expectation.role, key, table, verdict)
        self.all = expectation.sees_all

    async def run(self, admin: Session, connection: psycopg.AsyncConnection) -> None:
        truth = await self.truth(admin, connection, None)
        if truth is None:
            return
        if self.all:
            await self._all(connection, truth)
        else:
            await self._none(connection)

    async def _none(self, connection: psycopg.AsyncConnection) -> None:
        answer = await self.ask(connection, sql.SQL("SELECT EXISTS (SELECT FROM {})").format(self.relation))
        if answer in ((False,), "42501"):
            self.verdict.passed += 1
        elif answer == (True,):
            self.fail(f"sees rows of {self.name} and is to see none")
        else:
            self.skip(f"the query raised {answer}")

    async def _all(self, connection: psycopg.AsyncConnection, truth: Truth) -> None:
        if truth.complete:
            question: sql.Composable = sql.SQL("SELECT count(*) FROM {}").format(self.relation)
            expected = truth.rows
        elif truth.sample:
            question, expected = self._sampled(truth), len(truth.sample)
        else:
            self.skip("the table is too large to be counted and has no primary key to sample it by")
            return
        answer = await self.ask(connection, question)
        if answer == (expected,):
            self.verdict.passed += 1
        elif answer == "42501":
            self.skip("the role may not select from it: grant SELECT")
        elif isinstance(answer, str):
            self.skip(f"the query raised {answer}")
        else:
            self.fail(f"sees {answer[0]} of {expected} rows of {self.name} that were looked at, and is to see all")

    def _sampled(self, truth: Truth) -> sql.Composable:
        columns = sql.SQL(", ").join(sql.Identifier(name) for name, _ in truth.key)
        # The types are the server's own text, and this runs in the probe's session.
        rows = sql.SQL(", ").join(
            sql.SQL("({})").format(
                sql.SQL(", ").join(
                    sql.Literal(value) + sql.SQL("::") + sql.SQL(kind)
                    for value, (_, kind) in zip(values, truth.key, strict=True)
                )
            )
            for values in truth.sample
        )
        return sql.SQL("SELECT count(*) FROM {} WHERE ({}) IN ({})").format(self.relation, columns, rows)
