"""A login that goes: nobody logs in by it, its sessions end, what it owns is handed over, then it goes.

Who gets that is decided as for a role of a DatabaseSchema (:mod:`selvedge.core.postgres.retirement`).

In this order, each step committed before the next: a session of a dropped role would live on, and DROP OWNED without
REASSIGN OWNED would drop its tables. A removal that was cut off is made again from the start.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

import psycopg
from psycopg import sql

from selvedge.core.errors import NotPermittedError, RefusedError, TransientError
from selvedge.core.own_roles import heir_of
from selvedge.core.postgres import changes as c
from selvedge.core.postgres.login_diff import LoginView, owned
from selvedge.core.postgres.retirement import (
    Elsewhere,
    HandOverDatabase,
    RetireRole,
    diff_elsewhere,
    diff_retirement,
)
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef
from selvedge.core.users import Account, Removal
from selvedge.engines.postgres.acting import as_heir_maker
from selvedge.engines.postgres.errors import DatabaseMissingError, statement_error
from selvedge.engines.postgres.freeing import check_nothing_gained
from selvedge.engines.postgres.locks import BEGIN_LOCKED
from selvedge.engines.postgres.looks import ClusterView
from selvedge.engines.postgres.render import render
from selvedge.engines.postgres.retirement import (
    elsewhere_fragment,
    holdings_fragment,
    make_heirs,
    parse_elsewhere,
    parse_holdings,
    parse_next_owner,
    render_hand_over,
    render_retirement,
)
from selvedge.engines.postgres.snapshot import text_array

if TYPE_CHECKING:
    from selvedge.engines.postgres.engine import PostgresEngine
    from selvedge.engines.postgres.session import Session

_COMMIT = sql.SQL("COMMIT")

#: Waits up to five seconds for each backend to be gone.
_TERMINATE = sql.SQL(
    "SELECT pg_catalog.pg_terminate_backend(a.pid, 5000) FROM pg_catalog.pg_stat_activity a WHERE a.usename = ANY ({})"
)
_SESSIONS = sql.SQL("SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.usename = ANY ({})")
Look = Callable[["Session"], Awaitable[tuple[LoginView, ClusterView]]]


class LoginRemoval:
    """The removal of one account's logins; ``look`` shows them in a session to the maintenance database."""

    def __init__(self, engine: PostgresEngine, account: Account, may_write: Callable[[], None], look: Look) -> None:
        self._engine = engine
        self._account = account
        self._may_write = may_write
        self._look = look

    async def run(self) -> Removal:
        """All steps; raises our errors and psycopg's."""
        async with self._engine.maintenance() as session:
            view, _ = await self._look(session)
            made, adopted = owned(self._account, view)
            present = tuple(name for name in made if name in view.logins)
            if present:
                await self._close(session, view, present)
            places = await self._places(session, present)
        for database in sorted({place.database for found in places.values() for place in found if place.entries}):
            await self._free(database, present)
        async with self._engine.maintenance() as session:
            await self._drop(session, made, adopted)
        return Removal(present, tuple(name for name in adopted if name in view.logins))

    async def _close(self, session: Session, view: LoginView, names: tuple[str, ...]) -> None:
        """Nobody logs in by these names any more, and who is in is sent away."""
        self._may_write()
        statements: list[sql.Composable] = []
        for name in names:
            if view.logins[name].login:
                statements.append(sql.SQL("ALTER ROLE {} NOLOGIN PASSWORD NULL").format(sql.Identifier(name)))
            if not view.superuser:
                # Only a member may hand over what a role owns, and end its sessions.
                options = sql.SQL(" WITH INHERIT TRUE, SET TRUE" if view.version >= 160000 else "")
                statements.append(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(name)) + options)
        if statements:
            await session.run("apply", *BEGIN_LOCKED, *statements, _COMMIT)
        listed = text_array(names)
        try:
            await session.run("apply", _TERMINATE.format(listed))
        except psycopg.errors.InsufficientPrivilege:
            needed = sql.SQL("GRANT pg_signal_backend TO {}").format(sql.Identifier(view.me)).as_string(None)
            message = f"the sessions of login {names[-1]} cannot be ended: an administrator has to run {needed}"
            raise NotPermittedError(Reason.INSUFFICIENT_PRIVILEGES, message, (needed,)) from None
        rows = await session.run("verify", _SESSIONS.format(listed))
        if rows[0][0][0]:
            message = f"sessions of login {names[-1]} are still there; tried again by itself"
            raise TransientError(Reason.WAITING_FOR_LOCK, message)

    async def _places(self, session: Session, names: tuple[str, ...]) -> dict[str, tuple[Elsewhere, ...]]:
        """Where the logins hold something; databases that they own themselves are handed over here."""
        if not names:
            return {}
        statement = sql.SQL("SELECT json_build_object({})::text").format(elsewhere_fragment(names))
        rows = await session.run("snapshot", statement)
        places = parse_elsewhere(json.loads(cast("str", rows[0][0][0])))
        everywhere = frozenset(place.database for found in places.values() for place in found)
        retiring = dict.fromkeys(names, self._account.uid)
        changes, problems = diff_elsewhere(retiring, places, {self._account.uid: everywhere})
        if problems:
            raise RefusedError(problems[0].status.reason, problems[0].status.message)
        handed = [render_hand_over(change) for change in changes if isinstance(change, HandOverDatabase)]
        if handed:
            self._may_write()
            await session.run("apply", *BEGIN_LOCKED, *handed, _COMMIT)
        return places

    async def _free(self, database: str, names: tuple[str, ...]) -> None:
        """Hand over what the logins own in one database, and take away what they were granted there."""
        try:
            async with self._engine.pool.session(database) as session:
                await self._retire(session, database, names)
        except DatabaseMissingError:
            return  # gone meanwhile, and all that was in it
        except psycopg.Error as error:
            raise statement_error(error, f"handing over what {names[-1]} owns in database {database}") from None

    async def _retire(self, session: Session, database: str, names: tuple[str, ...]) -> None:
        look = sql.SQL("SELECT json_build_object({})::text").format(holdings_fragment(names))
        rows = await session.run("snapshot", *BEGIN_LOCKED, look)
        raw = json.loads(cast("str", rows[-1][0][0]))
        retiring = dict.fromkeys(names, self._account.uid)
        changes, problems = diff_retirement(retiring, parse_holdings(raw), parse_next_owner(raw), database)
        if problems:
            raise RefusedError(problems[0].status.reason, problems[0].status.message)
        self._may_write()
        info = session.connection.info
        superuser, version = info.parameter_status("is_superuser") == "on", info.server_version
        heirs = make_heirs(changes, superuser=superuser, version=version)
        if heirs:
            await session.run("apply", *heirs)
        for change in changes:
            if isinstance(change, RetireRole):
                statement = render_retirement(change)
                if not superuser and change.successor == heir_of(change.role):
                    statement = as_heir_maker(change, statement, info.user, version)
                await session.run("apply", statement)
        await check_nothing_gained(session, look)
        await session.run("apply", _COMMIT)

    async def _drop(self, session: Session, made: tuple[str, ...], adopted: tuple[str, ...]) -> None:
        if not made and not adopted:
            return
        self._may_write()
        drops = [sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)) for name in made]
        ref = ObjectRef("login", self._account.base)
        keys = tuple(f"role:{name}" for name in (*made, *adopted))
        claims = c.DropClaims(ref, self._account.uid, keys)
        schema = self._engine.metadata_schema
        release = render(claims, version=150000, database="", metadata_schema=schema)
        await session.run("apply", *BEGIN_LOCKED, *drops, release, _COMMIT)
        _, cluster = await self._look(session)
        self._engine.remember(cluster, keys, (self._account.resource,))
