"""The logins of DatabaseUsers on one Postgres server: looked at and changed in the maintenance database, under a lock.

The password reaches the server as a SCRAM verifier, in a parameter and not in the text of a statement: neither logs,
nor ``pg_stat_statements``, nor ``pg_stat_activity`` show it. Where the operator is a superuser, the verifier on the
server is compared with the password at each look; elsewhere it is tried to log in with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, cast

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from selvedge.core.errors import NotPermittedError, SelvedgeError, TransientError
from selvedge.core.postgres import changes as c
from selvedge.core.postgres.login_diff import LoginView, RetireLogin, SetPassword, check, diff, previous
from selvedge.core.reasons import Reason
from selvedge.core.scram import verifier, verifies
from selvedge.core.unit import ChangeSummary, ObjectRef
from selvedge.core.users import Account, LoginResult, Removal
from selvedge.engines.logins import Alive, OnDrift
from selvedge.engines.postgres.conninfo import conninfo
from selvedge.engines.postgres.ending import PENDING, end_sessions, find_losers, go_on_ending, roles_that_are_lost
from selvedge.engines.postgres.errors import ConcurrentChangeError, is_transient, statement_error
from selvedge.engines.postgres.locks import BEGIN_LOCKED
from selvedge.engines.postgres.login_removal import LoginRemoval
from selvedge.engines.postgres.login_statements import logins_statement, parse_logins, statement
from selvedge.engines.postgres.looks import ClusterView, cluster_look, parse_cluster
from selvedge.engines.postgres.render import create_metadata
from selvedge.engines.postgres.verifiers import set_verifier

if TYPE_CHECKING:
    from selvedge.engines.postgres.engine import PostgresEngine
    from selvedge.engines.postgres.session import Session

_MAX_ATTEMPTS = 4


class PostgresLogins:
    """See :class:`selvedge.engines.logins.Logins`."""

    def __init__(self, engine: PostgresEngine) -> None:
        self._engine = engine
        self._random = Random()

    async def converge(
        self, account: Account, may_write: Callable[[], None], *, alive: Alive, on_drift: OnDrift | None = None
    ) -> LoginResult:
        """See :meth:`selvedge.engines.logins.Logins.converge`."""
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                return await self._converge(account, may_write, alive, on_drift)
            except ConcurrentChangeError:
                if attempt == _MAX_ATTEMPTS:
                    raise
                await asyncio.sleep(self._random.uniform(0.02, 0.2) * attempt)
            except psycopg.Error as error:
                raise statement_error(error, f"working on login {account.base}") from None
        raise AssertionError("the last attempt raises")

    async def remove(self, account: Account, may_write: Callable[[], None]) -> Removal:
        """See :meth:`selvedge.engines.logins.Logins.remove`."""
        removal = LoginRemoval(self._engine, account, may_write, lambda session: self.look(session, account))
        try:
            return await removal.run()
        except psycopg.Error as error:
            raise statement_error(error, f"dropping login {account.base}") from None

    async def _converge(
        self, account: Account, may_write: Callable[[], None], alive: Alive, on_drift: OnDrift | None
    ) -> LoginResult:
        async with self._engine.maintenance() as session:
            view, _ = await self.look(session, account)
        if PENDING in view.claims:
            await go_on_ending(self._engine, account.names, may_write)
        check(account, view, alive)
        holds = await self._password_holds(account, view)
        found = diff(account, view, password_holds=holds)
        if not found:
            return _result(account, view, (), ())
        drift = tuple(dict.fromkeys(x.ref for x in found if not isinstance(x, (*c.BOOKKEEPING, RetireLogin))))
        drift = drift if account.verified else ()
        if drift and on_drift is not None:
            await on_drift(drift)
        async with self._engine.maintenance() as session:
            try:
                view, applied = await self._apply(session, account, may_write, alive, holds=holds)
            finally:
                await session.rollback()
        return _result(account, view, applied, drift)

    async def look(
        self, session: Session, account: Account, before: tuple[sql.Composable, ...] = ()
    ) -> tuple[LoginView, ClusterView]:
        """One look at the account's logins and claims; ``before`` goes in the same message."""
        doing = f"looking at login {account.base}"
        keys = (PENDING, *(f"role:{name}" for name in account.names), f"database:{account.database}")
        roles = [role.role for role in account.roles]
        cluster = cluster_look((), self._engine.metadata_schema, keys, (account.resource,))
        superuser = session.connection.info.parameter_status("is_superuser") == "on"
        logins = logins_statement(account.database, account.names, roles, verifiers=superuser)
        if session.shared.reads_xml:
            try:
                rows = await session.run("snapshot", *before, logins, cluster.statement)
                return self._view(cast("str", rows[-2][0][0]), cast("str", rows[-1][0][0]), doing)
            except pg.FeatureNotSupported:
                session.shared.reads_xml = False
                await session.rollback()
        rows = await session.run("snapshot", *before, logins)
        return self._view(cast("str", rows[-1][0][0]), await cluster.run(session, doing), doing)

    def _view(self, logins: str, cluster: str, doing: str) -> tuple[LoginView, ClusterView]:
        found = parse_cluster(cluster, doing)
        server = found.snapshot
        self._engine.check_identity(server)
        exists, roles, states = parse_logins(logins)
        view = LoginView(server.version, server.me, server.superuser, states, roles, server.claims, exists)
        return view, found

    async def _password_holds(self, account: Account, view: LoginView) -> bool:
        """Whether the current login has the account's password: by its verifier, or by logging in."""
        state = view.logins.get(account.current)
        if not account.password or state is None or not state.login:
            return not account.password
        if view.superuser:
            # off the loop: it is meant to be slow
            return await asyncio.to_thread(verifies, account.password, state.verifier)
        return await self._logs_in(account)

    async def _logs_in(self, account: Account) -> bool:
        """False only where the server says that the password is wrong: all else is not about the password."""
        params = conninfo(
            self._engine.target,
            account.database,
            username=account.current,
            password=account.password,
            application_name="selvedge/verify",
        )
        limit = self._engine.target.limits.connect_timeout * max(1, len(self._engine.target.hosts)) + 1
        try:
            async with asyncio.timeout(limit):
                connection = await psycopg.AsyncConnection.connect(make_conninfo("", **params), autocommit=True)
        except psycopg.OperationalError as error:
            return "password authentication failed" not in str(error)
        except TimeoutError:
            return True
        await connection.close()
        return True

    async def _apply(
        self, session: Session, account: Account, may_write: Callable[[], None], alive: Alive, *, holds: bool
    ) -> tuple[LoginView, tuple[c.Change, ...]]:
        view, cluster = await self.look(session, account, BEGIN_LOCKED)
        check(account, view, alive)
        changes = diff(account, view, password_holds=holds)
        if not changes:
            return view, ()
        may_write()
        prepared: tuple[sql.Composable, ...] = ()
        if not cluster.snapshot.has_claims_table:
            exists = cluster.snapshot.has_metadata_schema
            prepared = (create_metadata(self._engine.metadata_schema, schema_exists=exists),)
        losing = await find_losers(session, roles_that_are_lost(changes), view.version)
        remember = losing.remember(self._engine.metadata_schema)
        prepared += remember
        plain = [change for change in changes if not isinstance(change, SetPassword)]
        if plain:
            await self._send(session, view, prepared, plain)
        fresh = ""
        if len(plain) < len(changes):
            fresh = await asyncio.to_thread(verifier, account.password)
            await set_verifier(session, account.current, fresh)
        after, cluster = await self.look(session, account)
        state = after.logins.get(account.current)
        stands = not fresh or state is None or state.verifier in (None, fresh)
        left = diff(account, after, password_holds=stands)
        if left:
            names = ", ".join(sorted({f"{change.ref} ({type(change).__name__})" for change in left})[:5])
            message = f"the changes were made and the server still differs: {names}; all was undone"
            raise TransientError(Reason.NOT_CONVERGED, message)
        await session.run("apply", sql.SQL("COMMIT"))
        keys = tuple(f"role:{name}" for name in account.names)
        self._engine.remember(cluster, keys, (account.resource,))
        if remember:
            await end_sessions(session, self._engine.metadata_schema, view.version, may_write)
        return after, tuple(changes)

    async def _send(
        self, session: Session, view: LoginView, prepared: tuple[sql.Composable, ...], changes: list[c.Change]
    ) -> None:
        """All at once; where the server refuses something, one by one, to name what it was."""
        texts = [
            statement(change, version=view.version, metadata_schema=self._engine.metadata_schema) for change in changes
        ]
        await session.run("apply", sql.SQL("SAVEPOINT logins"))
        try:
            await session.run("apply", *prepared, *texts)
            return
        except psycopg.Error as error:
            if is_transient(error):
                raise
            await session.run("apply", sql.SQL("ROLLBACK TO SAVEPOINT logins"), *prepared)
        for change, text in zip(changes, texts, strict=True):
            try:
                await session.run("apply", text)
            except psycopg.Error as error:
                raise _refused(error, change, text, view.me) from None


def _refused(error: psycopg.Error, change: c.Change, text: sql.Composable, me: str) -> SelvedgeError:
    if error.sqlstate != "42501":
        return statement_error(error, f"changing {change.ref}")
    told = text.as_string(None)
    message = (
        f"the operator's login {me} may not change {change.ref} ({error.diag.message_primary}): an administrator has "
        f"to run: {told}"
    )
    return NotPermittedError(Reason.INSUFFICIENT_PRIVILEGES, message, (told,))


def _result(
    account: Account, view: LoginView, applied: tuple[c.Change, ...], drift: tuple[ObjectRef, ...]
) -> LoginResult:
    done = tuple(
        ChangeSummary(x.ref, x.risk, statement(x, version=view.version, metadata_schema="").as_string(None))
        for x in applied
        if not isinstance(x, c.BOOKKEEPING)
    )
    names, sessions = previous(account, view)
    state = view.logins.get(account.current)
    return LoginResult(done, drift, names, sessions, state is None or state.may_connect)
