"""Sessions that outlive a right: written down before it is taken away, ended once that is committed.

A session that became a role by SET ROLE keeps it after REVOKE, after NOLOGIN and even after DROP ROLE, and nobody can
see from outside as which role a session acts. So every session whose login could become the role and no longer can is
ended; the application connects again without the right.

Whose sessions these are is known only before. It is written beside the claims in the transaction that takes the right
away, and stays there until all of them are seen to be gone: whoever looks next goes on after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import psycopg
from psycopg import sql

from selvedge.core.errors import NotPermittedError, TransientError
from selvedge.core.postgres import changes as c
from selvedge.core.postgres.login_diff import RevokeMembership
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.errors import statement_error
from selvedge.engines.postgres.locks import BEGIN_LOCKED
from selvedge.engines.postgres.session import Session
from selvedge.engines.postgres.snapshot import claims_table, text_array

if TYPE_CHECKING:
    from selvedge.engines.postgres.engine import PostgresEngine

#: The row beside the claims that says whose sessions are to be ended; nobody's claim.
PENDING = "sessions"

#: A session that began until then may have become the role: the transaction is not committed when this is written.
_COMMIT_SECONDS = 5

_FIND = sql.SQL("""
SELECT json_object_agg(l.oid || ':' || r.oid, r.rolname)::text FROM pg_catalog.pg_roles l
  CROSS JOIN unnest({roles}) w(name) JOIN pg_catalog.pg_roles r ON r.rolname = w.name
 WHERE (l.rolcanlogin OR EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.usesysid = l.oid))
   AND NOT l.rolsuper AND l.rolname <> current_user AND pg_catalog.pg_has_role(l.oid, r.oid, {privilege})
""")

_REMEMBER = sql.SQL("""
INSERT INTO {claims} AS c (object, cluster, resource, uid, detail)
SELECT {pending}, '', '', '', json_object_agg(p.key, json_build_object('role', p.value, 'until',
         pg_catalog.extract('epoch', pg_catalog.clock_timestamp()) + {seconds}))::jsonb
  FROM json_each_text({pairs}::json) p
ON CONFLICT (object) DO UPDATE SET detail = c.detail || excluded.detail
""")

#: Waits up to a second for each session to be gone. A right that came back since leaves its sessions alone. When a
#: session began is shown to superusers and pg_read_all_stats; to nobody else, so it counts as old then.
_END = sql.SQL("""
SELECT p.key, p.value->>'role', l.rolname::text, pg_catalog.bool_and(coalesce(ended.gone, true))
  FROM {claims} c CROSS JOIN LATERAL pg_catalog.jsonb_each(c.detail) p
  CROSS JOIN LATERAL (SELECT pg_catalog.split_part(p.key, ':', 1)::oid AS login,
                             pg_catalog.split_part(p.key, ':', 2)::oid AS role) w
  LEFT JOIN pg_catalog.pg_roles l ON l.oid = w.login LEFT JOIN pg_catalog.pg_roles r ON r.oid = w.role
  LEFT JOIN LATERAL (
    SELECT pg_catalog.pg_terminate_backend(a.pid, 1000) AS gone FROM pg_catalog.pg_stat_activity a
     WHERE a.usesysid = w.login AND a.pid <> pg_catalog.pg_backend_pid()
       AND coalesce(a.backend_start < pg_catalog.to_timestamp((p.value->>'until')::float8), true)
       AND CASE WHEN l.oid IS NULL OR r.oid IS NULL OR NOT l.rolcanlogin THEN true
                ELSE NOT pg_catalog.pg_has_role(l.oid, r.oid, {privilege}) END) ended ON true
 WHERE c.object = {pending} GROUP BY 1, 2, 3
""")
_NAMES = sql.SQL("""
SELECT p.value->>'role', l.rolname::text FROM {claims} c CROSS JOIN LATERAL pg_catalog.jsonb_each(c.detail) p
  LEFT JOIN pg_catalog.pg_roles l ON l.oid = pg_catalog.split_part(p.key, ':', 1)::oid WHERE c.object = {pending}
""")

_FORGET = sql.SQL("UPDATE {claims} SET detail = detail - {keys} WHERE object = {pending}")
_CLEAN = sql.SQL("DELETE FROM {claims} WHERE object = {pending} AND detail = '{{}}'")


@dataclass(frozen=True, slots=True)
class Losers:
    """Logins that can become a role now, which somebody loses: the role's name by ``login OID:role OID``."""

    pairs: str = ""

    def remember(self, metadata_schema: str) -> tuple[sql.Composable, ...]:
        """The statement that writes them down, for the transaction that takes the right away."""
        if not self.pairs:
            return ()
        values = {"pairs": sql.Literal(self.pairs), "seconds": sql.Literal(_COMMIT_SECONDS)}
        return (_REMEMBER.format(claims=claims_table(metadata_schema), pending=sql.Literal(PENDING), **values),)


def roles_that_are_lost(changes: Iterable[c.Change]) -> frozenset[str]:
    """The roles that somebody may not become any more after these changes."""
    found: set[str] = set()
    for change in changes:
        if isinstance(change, (c.RevokeRole, c.DropRole, c.RestrictRole, RevokeMembership)):
            found.add(change.role)
        elif isinstance(change, c.GrantRole) and not change.membership.set:
            found.add(change.membership.role)
    return frozenset(found)


def _privilege(version: int) -> sql.Literal:
    return sql.Literal("SET" if version >= 160000 else "MEMBER")


async def find_losers(session: Session, roles: Collection[str], version: int) -> Losers:
    """The logins that can become one of the roles now; the operator's own and superusers are left out."""
    if not roles:
        return Losers()
    rows = (await session.run("snapshot", _FIND.format(roles=text_array(roles), privilege=_privilege(version))))[-1]
    return Losers(cast("str", rows[0][0] or ""))


async def end_sessions(
    session: Session, metadata_schema: str, version: int, may_write: Callable[[], None]
) -> frozenset[str]:
    """End what is written down, and forget what is seen to be gone; returns the roles and logins of what is left.

    Raises :class:`NotPermittedError` where the operator's login may not end them; psycopg's errors are ours by then.
    """
    claims, pending = claims_table(metadata_schema), sql.Literal(PENDING)
    statement = _END.format(claims=claims, pending=pending, privilege=_privilege(version))
    try:
        may_write()
        rows = (await session.run("apply", *BEGIN_LOCKED, statement))[-1]
        keys = text_array(cast("str", key) for key, _, _, gone in rows if gone)
        forget = _FORGET.format(claims=claims, pending=pending, keys=keys)
        await session.run("apply", forget, _CLEAN.format(claims=claims, pending=pending), sql.SQL("COMMIT"))
    except psycopg.Error as error:
        await session.rollback()
        if error.sqlstate != "42501":
            raise statement_error(error, "ending sessions that keep a role they lost") from None
        grant = sql.SQL("GRANT pg_signal_backend TO {}").format(sql.Identifier(session.connection.info.user))
        message = (
            "a session keeps a role that its login lost, and the operator's login may not end it: run "
            f"{grant.as_string(None)} as a superuser, or end it yourself (pg_terminate_backend)"
        )
        raise NotPermittedError(Reason.INSUFFICIENT_PRIVILEGES, message, (grant.as_string(None),)) from None
    return frozenset(str(name) for _, role, login, gone in rows if not gone for name in (role, login))


async def go_on_ending(engine: PostgresEngine, mine: Collection[str], may_write: Callable[[], None]) -> None:
    """End what somebody wrote down and did not come to end, or could not.

    Raises our errors where that fails for one of these roles and logins: that of others is for others to tell.
    """
    async with engine.maintenance() as session:
        try:
            left = await end_sessions(
                session, engine.metadata_schema, session.connection.info.server_version, may_write
            )
        except NotPermittedError:
            names = _NAMES.format(claims=claims_table(engine.metadata_schema), pending=sql.Literal(PENDING))
            if {str(name) for row in (await session.run("snapshot", names))[-1] for name in row}.isdisjoint(mine):
                return
            raise
    if not left.isdisjoint(mine):
        message = (
            f"a session keeps a role that was taken away ({', '.join(sorted(left))}) and does not end; tried again"
        )
        raise TransientError(Reason.NOT_CONVERGED, message)
