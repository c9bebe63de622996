"""Freeing roles that go in other databases than the unit's: one short transaction in each, under its lock."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import cast

import psycopg
from psycopg import sql

from selvedge.core.errors import TransientError
from selvedge.core.postgres.change import Change, Problem
from selvedge.core.postgres.retirement import HandOverDatabase, RetireElsewhere, RetireRole, diff_retirement
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectState, ObjectStatus
from selvedge.engines.base import AccessRule, Member, Unit
from selvedge.engines.postgres.acting import as_heir_maker
from selvedge.engines.postgres.connections import Connections
from selvedge.engines.postgres.errors import DatabaseMissingError, statement_error
from selvedge.engines.postgres.locks import BEGIN_LOCKED
from selvedge.engines.postgres.retirement import (
    holdings_fragment,
    make_heirs,
    parse_holdings,
    parse_next_owner,
    render_hand_over,
    render_retirement,
)
from selvedge.engines.postgres.session import Session

_LOOK = sql.SQL("""
SELECT json_build_object('me', current_user, 'superuser', current_setting('is_superuser') = 'on',
 'version', current_setting('server_version_num')::int, {holdings})::text
""")


def usable(unit: Unit, member: Member, databases: Iterable[str]) -> frozenset[str]:
    """Those of the databases that the server's access gives to a member's namespace."""
    rule = unit.access(member) if unit.access else AccessRule()
    return frozenset(name for name in databases if any(fnmatchcase(name, glob) for glob in rule.databases))


async def free_elsewhere(
    pool: Connections,
    maintenance: Callable[[], AbstractAsyncContextManager[Session]],
    change: Change,
    may_write: Callable[[], None],
) -> Problem | None:
    """Make one change of :func:`diff_elsewhere`; what stood in the way, if anything did. Raises transient errors."""
    if isinstance(change, HandOverDatabase):
        async with maintenance() as session:
            return await _hand_over(session, change, may_write)
    if isinstance(change, RetireElsewhere):
        try:
            async with pool.session(change.database) as session:
                return await _free(session, change, may_write)
        except DatabaseMissingError:
            pass  # gone meanwhile, with all that it held
    return None


async def _hand_over(session: Session, change: HandOverDatabase, may_write: Callable[[], None]) -> Problem | None:
    """Give a database that the role owns to the operator's login; what stood in the way, if anything did."""
    may_write()
    try:
        await session.run("apply", render_hand_over(change))
    except psycopg.Error as error:
        return _problem(change, error, f"taking database {change.database} over from role {change.role}")
    return None


async def _free(session: Session, change: RetireElsewhere, may_write: Callable[[], None]) -> Problem | None:
    """Free the role in the session's database, or say why that cannot be. Raises transient errors."""
    look = _LOOK.format(holdings=holdings_fragment([change.role]))
    doing = f"freeing role {change.role} in database {change.database}"
    try:
        rows = await session.run("snapshot", *BEGIN_LOCKED, look)
        raw = json.loads(cast("str", rows[-1][0][0]))
        owner, held = parse_next_owner(raw), parse_holdings(raw)
        found, problems = diff_retirement({change.role: change.member}, held, owner, change.database)
        if problems:
            return problems[0]
        may_write()
        heirs = make_heirs(found, superuser=raw["superuser"], version=raw["version"])
        if heirs:
            await session.run("apply", *heirs)
        for one in found:
            if isinstance(one, RetireRole):
                statement = render_retirement(one)
                if not raw["superuser"]:
                    statement = as_heir_maker(one, statement, raw["me"], raw["version"])
                await session.run("apply", statement)
        await check_nothing_gained(session, look)
        await session.run("apply", sql.SQL("COMMIT"))
    except psycopg.Error as error:
        return _problem(change, error, doing)
    finally:
        await session.rollback()
    return None


async def check_nothing_gained(session: Session, look: sql.Composable) -> None:
    """Raise TransientError where the owner got what acts with his rights: made after the decision, before the change.

    ``look`` shows the holdings; the transaction is still open, and undone by that.
    """
    owner = parse_next_owner(json.loads(cast("str", (await session.run("verify", look))[-1][0][0])))
    if owner.gained:
        message = (
            f"a session made something in database {session.dbname} that would act with the rights of {owner.name}, "
            "while it was handed over; all was undone and is tried again by itself"
        )
        raise TransientError(Reason.NOT_CONVERGED, message)


def _problem(change: HandOverDatabase | RetireElsewhere, error: psycopg.Error, doing: str) -> Problem:
    found = statement_error(error, doing)
    status = ObjectStatus(change.ref, ObjectState.FAILED, found.reason, found.message)
    if found.reason is Reason.WAITING_FOR_LOCK:
        status = replace(status, state=ObjectState.WAITING)
    return Problem(change.member, status)
