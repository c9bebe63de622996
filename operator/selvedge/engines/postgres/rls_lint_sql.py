"""The statement behind the advice about row-level security; catalogues only.

Objects are those of the declared schemas, logins those that can become a role which the declaration names: nobody is
told of other teams' objects.
"""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import sql

from selvedge.core.postgres.rls_lint import Finding
from selvedge.engines.postgres.errors import statement_error
from selvedge.engines.postgres.session import Session
from selvedge.engines.postgres.snapshot import text_array

_LINT = sql.SQL(r"""
WITH
 ns AS MATERIALIZED (SELECT oid, nspname FROM pg_namespace WHERE nspname = ANY ({schemas})),
 t AS MATERIALIZED (
   SELECT c.oid, n.nspname || '.' || c.relname AS obj, c.relkind, c.relowner, c.relrowsecurity AS rls,
          c.relforcerowsecurity AS forced, c.relacl, c.relispartition
     FROM ns n JOIN pg_class c ON c.relnamespace = n.oid WHERE c.relkind IN ('r','p')),
 pol AS MATERIALIZED (
   SELECT p.*, t.obj, pg_get_expr(p.polqual, p.polrelid) AS q, pg_get_expr(p.polwithcheck, p.polrelid) AS w
     FROM t JOIN pg_policy p ON p.polrelid = t.oid),
 logins AS MATERIALIZED (
   SELECT r.oid, r.rolname FROM pg_roles r WHERE r.rolcanlogin AND NOT r.rolsuper AND NOT r.rolbypassrls
     AND EXISTS (SELECT FROM pg_roles m WHERE m.rolname = ANY ({roles}) AND pg_has_role(r.oid, m.oid, 'MEMBER')))
SELECT 'policy_but_rls_off' AS lint, obj, NULL::text AS detail FROM t
 WHERE NOT rls AND EXISTS (SELECT FROM pol WHERE polrelid = t.oid)
UNION ALL SELECT 'rls_without_policy', obj, NULL FROM t
 WHERE rls AND NOT relispartition AND NOT EXISTS (SELECT FROM pol WHERE polrelid = t.oid)
UNION ALL SELECT 'only_restrictive', obj, NULL FROM t
 WHERE rls AND EXISTS (SELECT FROM pol WHERE polrelid = t.oid)
   AND NOT EXISTS (SELECT FROM pol WHERE polrelid = t.oid AND polpermissive)
UNION ALL SELECT 'owner_bypass', t.obj, r.rolname FROM t JOIN logins r ON pg_has_role(r.oid, t.relowner, 'USAGE')
 WHERE rls AND NOT forced AND NOT relispartition
UNION ALL SELECT 'can_set_role_to_bypass', r.rolname, b.rolname FROM logins r
  JOIN pg_roles b ON (b.rolbypassrls OR b.rolsuper) AND b.oid <> r.oid AND pg_has_role(r.oid, b.oid, 'MEMBER')
UNION ALL SELECT 'partition_bypass', c.obj, string_agg(DISTINCT coalesce(g.rolname, 'PUBLIC'), ', ')
  FROM t c JOIN pg_inherits i ON i.inhrelid = c.oid JOIN pg_class p ON p.oid = i.inhparent AND p.relrowsecurity
  CROSS JOIN LATERAL aclexplode(c.relacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
 WHERE NOT c.rls AND a.grantee <> c.relowner GROUP BY c.obj
UNION ALL SELECT 'truncate_granted', t.obj, coalesce(g.rolname, 'PUBLIC') FROM t
  CROSS JOIN LATERAL aclexplode(t.relacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
 WHERE rls AND a.privilege_type = 'TRUNCATE' AND a.grantee <> t.relowner
UNION ALL SELECT 'always_true_write', obj, polname FROM pol
 WHERE polpermissive AND 0 = ANY (polroles) AND polcmd IN ('a','w','d','*')
   AND (coalesce(w, q) = 'true' OR (polcmd <> 'a' AND q = 'true'))
UNION ALL SELECT 'guc_may_raise', obj, polname FROM pol CROSS JOIN LATERAL (SELECT concat(q, ' ', w)) e(x)
 WHERE x ~ 'current_setting\(''[^'']+''::text\)'
    OR (x ~ 'current_setting\(' AND x !~* 'nullif\(current_setting'
        AND x ~ '\)\)?::(uuid|integer|bigint|smallint|numeric|date|timestamp)')
UNION ALL SELECT DISTINCT 'view_bypass', n.nspname || '.' || v.relname, t.obj
  FROM t JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
   AND d.classid = 'pg_rewrite'::regclass
  JOIN pg_rewrite w ON w.oid = d.objid JOIN pg_class v ON v.oid = w.ev_class JOIN ns n ON n.oid = v.relnamespace
  JOIN pg_roles o ON o.oid = v.relowner
 WHERE t.rls AND EXISTS (SELECT FROM aclexplode(v.relacl) a WHERE a.grantee <> v.relowner)
   AND (v.relkind = 'm' OR (v.relkind = 'v'
     AND NOT coalesce(v.reloptions::text ~* 'security_invoker=(true|on|1|yes)', false)
     AND (o.rolsuper OR o.rolbypassrls OR (NOT t.forced AND pg_has_role(v.relowner, t.relowner, 'USAGE')))))
UNION ALL SELECT CASE k.n WHEN 1 THEN 'definer_bypass' ELSE 'definer_search_path' END,
       n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', o.rolname
  FROM ns n JOIN pg_proc p ON p.pronamespace = n.oid JOIN pg_roles o ON o.oid = p.proowner, generate_series(1, 2) k(n)
 WHERE p.prosecdef
   AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee <> p.proowner)
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
                      AND d.deptype = 'e')
   AND CASE k.n WHEN 1 THEN o.rolsuper OR o.rolbypassrls
       ELSE NOT coalesce(p.proconfig::text ~ 'search_path=', false) END
UNION ALL SELECT 'tenant_column_without_rls', t.obj, a.attname FROM t JOIN pg_attribute a ON a.attrelid = t.oid
   AND a.attname IN ('tenant_id', 'account_id', 'org_id') AND NOT a.attisdropped WHERE NOT rls AND NOT relispartition
UNION ALL SELECT DISTINCT 'unindexed_policy_column', t.obj, a.attname
  FROM t JOIN pol ON pol.polrelid = t.oid
  JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = pol.oid AND d.refclassid = 'pg_class'::regclass
   AND d.refobjid = t.oid AND d.refobjsubid > 0
  JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
 WHERE rls AND (SELECT greatest(reltuples, pg_stat_get_live_tuples(t.oid)) FROM pg_class WHERE oid = t.oid) > 10000
   AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = t.oid AND i.indisvalid AND i.indkey[0] = a.attnum)
""")


async def lint(session: Session, schemas: Iterable[str], roles: Iterable[str]) -> list[Finding]:
    """The findings for these schemas and roles, in the administrator's session (``search_path = pg_catalog``)."""
    try:
        rows = await session.run("lint", _LINT.format(schemas=text_array(schemas), roles=text_array(roles)))
    except psycopg.Error as error:
        raise statement_error(error, f"looking for weak row-level security in database {session.dbname}") from None
    return [Finding(str(name), str(found), "" if detail is None else str(detail)) for name, found, detail in rows[0]]
