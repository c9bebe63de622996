"""Whose the operator's own schema and tables are, and whether somebody's code hangs on them.

Who owns a table, or the schema that it lies in, can have his code run by whoever reads or writes it: by a view, a
trigger, a default. Had somebody with fewer rights made them first, his code would run with the administrator's. So this
is looked up in the catalogues, before anything names the table, and so is what code a table of ours would run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from psycopg import sql

from selvedge.core.errors import RefusedError
from selvedge.core.reasons import Reason

if TYPE_CHECKING:
    import psycopg

#: What is wrong with the relation ``c`` of pg_class, as the end of a sentence; null where it is a plain table on which
#: nothing hangs. All of it takes the planner less than 0.1 ms: it is part of every look at a database.
FLAW = sql.SQL("""
CASE WHEN c.relkind <> 'r' OR c.relispartition THEN 'is no plain table'
  WHEN c.relhastriggers AND EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid)
    THEN 'has triggers, or foreign keys that refer to it'
  WHEN c.relhasrules AND EXISTS (SELECT FROM pg_catalog.pg_rewrite w WHERE w.ev_class = c.oid) THEN 'has rules'
  WHEN c.relrowsecurity THEN 'has row-level security'
  WHEN c.relhassubclass AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid)
    THEN 'has tables that inherit from it'
END""")

#: The same for its columns, defaults, checks and indexes: what they use that initdb did not make stands in pg_depend.
_CODE = sql.SQL("""
CASE WHEN EXISTS (
    SELECT FROM (SELECT 'pg_catalog.pg_class'::regclass, c.oid
        UNION ALL SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid FROM pg_catalog.pg_index i
                   WHERE i.indrelid = c.oid
        UNION ALL SELECT 'pg_catalog.pg_attrdef'::regclass, a.oid FROM pg_catalog.pg_attrdef a WHERE a.adrelid = c.oid
        UNION ALL SELECT 'pg_catalog.pg_constraint'::regclass, k.oid FROM pg_catalog.pg_constraint k
                   WHERE k.conrelid = c.oid) own(class, oid)
    JOIN pg_catalog.pg_depend d ON d.classid = own.class AND d.objid = own.oid
     AND d.refclassid IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_type'::regclass,
                          'pg_catalog.pg_operator'::regclass, 'pg_catalog.pg_opclass'::regclass))
  THEN 'uses functions or types that are not the server''s own' END""")

#: The schema and the tables, as far as they exist. ``trusted``: by who administers roles, only another superuser is
#: and he himself; by anybody else also the database's owner, an administrator, and a role that he is a member of.
#: pg_database_owner is the database's owner.
_LOOK = sql.SQL("""
WITH me AS (
  SELECT pg_catalog.bool_or(r.rolsuper OR r.rolcreaterole) AS strong, pg_catalog.bool_or(r.rolsuper) AS super,
    pg_catalog.min(r.oid) FILTER (WHERE r.rolname = current_user) AS oid
  FROM pg_catalog.pg_roles r WHERE r.rolname IN (current_user, session_user)),
own AS (
  SELECT 0 AS rank, 'schema ' || n.nspname AS object, n.nspowner AS owner, NULL AS flaw
    FROM pg_catalog.pg_namespace n WHERE n.nspname = {schema}
  UNION ALL
  SELECT 1, 'table ' || n.nspname || '.' || c.relname, c.relowner, coalesce({flaw}, {code})
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname = {schema} AND c.relname = ANY ({tables}))
SELECT o.object, o.flaw, r.rolname, current_user::text, me.strong, me.super OR EXISTS (
    SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = {schema} AND c.relname = 'claims'), r.rolsuper OR r.oid = me.oid OR (NOT me.strong AND (
    r.rolcreaterole OR r.oid = d.datdba OR pg_catalog.pg_has_role(me.oid, r.oid, 'MEMBER')))
FROM own o CROSS JOIN me JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
JOIN pg_catalog.pg_roles r ON r.oid = CASE WHEN pg_catalog.pg_get_userbyid(o.owner) = 'pg_database_owner'
                                      THEN d.datdba ELSE o.owner END
ORDER BY o.rank, o.object
""")


#: Default privileges of the whole database reach the tables of this schema, too.
_CLOSE = sql.SQL("""
DECLARE given record;
BEGIN
  FOR given IN SELECT c.oid::pg_catalog.regclass AS name, CASE a.grantee WHEN 0 THEN 'PUBLIC'
      ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END AS who
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN pg_catalog.aclexplode(c.relacl) a
    WHERE n.nspname = {schema} AND c.relname = ANY ({tables}) AND a.grantee <> c.relowner GROUP BY 1, 2
  LOOP
    EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s', given.name, given.who);
  END LOOP;
END
""")


def close(schema: str, tables: Iterable[str]) -> sql.Composed:
    """The statement after which nobody but their owner has a right on tables that were just made."""
    body = _CLOSE.format(schema=sql.Literal(schema), tables=sql.Literal(list(tables)))
    return sql.SQL("DO {}").format(sql.Literal(body.as_string(None)))


async def check_trust(
    connection: psycopg.AsyncConnection, schema: str, tables: Iterable[str], *, writes: bool = False
) -> None:
    """Raise RefusedError where naming these tables could run somebody's code with the rights of the session's login.

    What does not exist is trusted. A login that administers no roles may read a plain table of anybody, since reading
    that runs nothing; ``writes`` says that it is going to write.
    """
    tables = list(tables)
    look = _LOOK.format(schema=sql.Literal(schema), tables=sql.Literal(tables), flaw=FLAW, code=_CODE)
    cursor = await connection.execute(look)
    where = f"in database {connection.info.dbname}"
    for thing, flaw, owner, me, strong, keeps, trusted in await cursor.fetchall():
        if not trusted and (strong or writes):
            statements = "; ".join(one.as_string(connection) for one in give(schema, tables, me))
            # a superuser may do without, and an operator that keeps its claims in this schema may not
            other = "" if keeps else f", or give it to {me} ({statements})"
            message = (
                f"{thing} {where} belongs to role {owner}, who could have {me} run code of his: if what is in it is "
                f"yours, run this as {owner}{other}; if not, drop it, or name another schema"
            )
            raise RefusedError(Reason.CONFLICT, message)
        if flaw:
            message = (
                f"{thing} {where}, of role {owner}, {flaw}: {me} would run code that is not Selvedge's; take that "
                "away, or drop the table where it is not yours"
            )
            raise RefusedError(Reason.CONFLICT, message)


def give(schema: str, tables: Iterable[str], me: str) -> list[sql.Composed]:
    """The statements after which the schema and the tables are this role's."""
    owner = sql.Identifier(me)
    first = sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(sql.Identifier(schema), owner)
    rest = sql.SQL("ALTER TABLE IF EXISTS {} OWNER TO {}")
    return [first, *(rest.format(sql.Identifier(schema, table), owner) for table in tables)]
