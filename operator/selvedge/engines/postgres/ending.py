"""Sessions that outlive a right: found before it is taken away, ended once that is committed.

A session that became a role by SET ROLE keeps it after REVOKE, after NOLOGIN and even after DROP ROLE, and nobody can
see from outside as which role a session acts. So every session whose login could become the role and no longer can is
ended; the application connects again without the right.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import psycopg
from psycopg import sql

from selvedge.core.errors import NotPermittedError
from selvedge.core.postgres import changes as c
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.errors import statement_error
from selvedge.engines.postgres.session import Session

_FIND = sql.SQL("""
SELECT a.pid, a.usesysid::bigint, w.name FROM pg_catalog.pg_stat_activity a
  JOIN pg_catalog.pg_roles l ON l.oid = a.usesysid
  CROSS JOIN unnest({roles}::text[]) w(name) JOIN pg_catalog.pg_roles r ON r.rolname = w.name
 WHERE a.pid <> pg_catalog.pg_backend_pid() AND NOT l.rolsuper AND l.rolname <> current_user
   AND pg_catalog.pg_has_role(l.oid, r.oid, {privilege})
""")

_END = sql.SQL("""
SELECT DISTINCT a.pid, pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a
  JOIN unnest({pids}::int[], {logins}::bigint[], {roles}::text[]) w(pid, login, name)
    ON w.pid = a.pid AND w.login = a.usesysid::bigint
  LEFT JOIN pg_catalog.pg_roles l ON l.oid = a.usesysid LEFT JOIN pg_catalog.pg_roles r ON r.rolname = w.name
 WHERE CASE WHEN l.oid IS NULL OR r.oid IS NULL OR NOT l.rolcanlogin THEN true
            ELSE NOT pg_catalog.pg_has_role(l.oid, r.oid, {privilege}) END
""")


@dataclass(frozen=True, slots=True)
class Holder:
    """A session whose login (an OID) can become ``role``."""

    pid: int
    login: int
    role: str


def roles_that_are_lost(changes: Iterable[c.Change]) -> frozenset[str]:
    """The roles that somebody may not become any more after these changes."""
    found: set[str] = set()
    for change in changes:
        if isinstance(change, (c.RevokeRole, c.DropRole, c.RestrictRole)):
            found.add(change.role)
        elif isinstance(change, c.GrantRole) and not change.membership.set:
            found.add(change.membership.role)
    return frozenset(found)


def _privilege(version: int) -> sql.Literal:
    return sql.Literal("SET" if version >= 160000 else "MEMBER")


async def holders(session: Session, roles: Iterable[str], version: int) -> tuple[Holder, ...]:
    """The sessions whose logins can become one of the roles now; the operator's own and superusers' are left out."""
    wanted = sorted(set(roles))
    if not wanted:
        return ()
    statement = _FIND.format(roles=sql.Literal(wanted), privilege=_privilege(version))
    rows = (await session.run("snapshot", statement))[-1]
    return tuple(Holder(cast("int", pid), cast("int", login), cast("str", role)) for pid, login, role in rows)


async def end_sessions(session: Session, found: tuple[Holder, ...], version: int) -> int:
    """End those of them whose logins cannot become the role any more, or cannot log in; returns how many there were.

    Raises :class:`NotPermittedError` where the operator's login may not end them.
    """
    if not found:
        return 0
    statement = _END.format(
        pids=sql.Literal([one.pid for one in found]),
        logins=sql.Literal([one.login for one in found]),
        roles=sql.Literal([one.role for one in found]),
        privilege=_privilege(version),
    )
    try:
        return len((await session.run("apply", statement))[-1])
    except psycopg.Error as error:
        if error.sqlstate != "42501":
            raise statement_error(error, "ending sessions that keep a role they lost") from None
        grant = sql.SQL("GRANT pg_signal_backend TO {}").format(sql.Identifier(session.connection.info.user))
        message = (
            "a session keeps a role that its login lost, and the operator's login may not end it: run "
            f"{grant.as_string(None)} as a superuser, and end it yourself (pg_terminate_backend)"
        )
        raise NotPermittedError(Reason.INSUFFICIENT_PRIVILEGES, message, (grant.as_string(None),)) from None
