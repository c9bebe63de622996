"""The one statement that shows everything the diff needs, and the frozen snapshot made of its answer.

Roles and objects have their parts in modules of their own.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from typing import Any

from psycopg import sql

from selvedge.core.errors import RefusedError
from selvedge.core.postgres.model import Claim, Desired, Snapshot
from selvedge.core.postgres.tables import wanted
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.default_privileges_sql import defaults_fragment, parse_defaults
from selvedge.engines.postgres.retirement import (
    elsewhere_fragment,
    holdings_fragment,
    parse_elsewhere,
    parse_holdings,
    parse_next_owner,
)
from selvedge.engines.postgres.rls_sql import parse_row_security, row_security_part
from selvedge.engines.postgres.snapshot_objects import ARGUMENTS, OBJECTS, objects_ctes, parse_group
from selvedge.engines.postgres.snapshot_roles import parse_roles, parse_settings, roles_fragment
from selvedge.engines.postgres.tables_sql import parse_tables, tables_fragment
from selvedge.engines.postgres.trust import FLAW

_SERVER = sql.SQL("""
 'version', current_setting('server_version_num')::int, 'me', current_user,
 'superuser', current_setting('is_superuser') = 'on', 'standby', pg_catalog.pg_is_in_recovery(),
 'system', (SELECT system_identifier::text FROM pg_catalog.pg_control_system())
""")

#: Roles that the resources claim and perhaps declare no more.
_CLAIMED_ROLES = sql.SQL("""
   OR 'role:' || r.rolname IN (SELECT c.value->>0 FROM book b, json_array_elements(b.claims) c
                                WHERE c.value->>2 = ANY ({resources}))
""")

#: Whoever owns the schema or the table of the claims can have his code run by whoever reads or writes them. So nothing
#: here names the table: it is read by a query in a text, which the server runs only once it is known whose the table
#: is, and that it runs no code of anybody's. (Named, a view could be evaluated while the statement is planned.)
_TRUST = sql.SQL("""
 trust AS MATERIALIZED (
   SELECT c.oid IS NOT NULL AS there, (SELECT pg_catalog.min(r.rolname) FROM pg_catalog.pg_roles r
                                       WHERE r.oid IN (n.nspowner, c.relowner) AND NOT r.rolsuper
                                         AND r.rolname <> current_user) AS other, {flaw} AS flaw
     FROM pg_catalog.pg_namespace n
     LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = 'claims'
    WHERE n.nspname = {schema}),
 book AS MATERIALIZED (
   SELECT CASE WHEN t.other IS NULL AND t.there AND t.flaw IS NULL THEN {claims} END AS claims FROM trust t)""")

#: query_to_xml is the one function of the server that runs a query by its text; the JSON is taken out of its answer.
_READ = sql.SQL("""
 replace(replace(replace(split_part(split_part(pg_catalog.query_to_xml({query}, false, true, '')::text,
   '<j>', 2), '</j>', 1), '&lt;', '<'), '&gt;', '>'), '&amp;', '&')""")

_CLAIMS = sql.SQL("""
SELECT json_agg(json_build_array(c.object, c.cluster, c.resource, c.uid, c.detail))::text AS j FROM {claims} c{where}
""")

_TRUST_ALONE = sql.SQL("""
WITH {trust} SELECT json_build_object('trust', (SELECT json_build_array(t.other, t.there, t.flaw) FROM trust t))::text
""")

_DATABASE = sql.SQL("""
WITH {trust},
{objects}
SELECT json_build_object({server},
 'owner', (SELECT pg_catalog.pg_get_userbyid(d.datdba) FROM pg_catalog.pg_database d
             WHERE d.datname = current_database()),
 'settings', (SELECT s.setconfig FROM pg_catalog.pg_db_role_setting s
                JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
               WHERE s.setrole = 0 AND d.datname = current_database()),
 {role_part},
 'schemas', (SELECT json_agg(json_build_array(n.nspname, pg_catalog.pg_get_userbyid(n.nspowner),
               pg_catalog.obj_description(n.oid, 'pg_namespace'))) FROM ns n),
 'extensions', (SELECT json_agg(json_build_array(e.extname, e.extversion, n.nspname, e.oid::int8))
                  FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace),
 'available', CASE WHEN EXISTS (SELECT FROM unnest({extensions}) w(name)
                    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE e.extname = w.name))
   THEN (SELECT json_object_agg(a.name, a.schema) FROM (
           SELECT DISTINCT v.name, v.schema FROM pg_catalog.pg_available_extension_versions v
            WHERE v.name = ANY ({extensions})) a) END,
 {object_part}, {default_part}, {holding_part}, {row_security}, {tables},
 'mayCreate', pg_catalog.has_database_privilege(current_database(), 'CREATE'),
 'functions', (SELECT json_object_agg(w.signature, (SELECT json_build_array(n.nspname, p.proname, {arguments})
                 FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                WHERE p.oid = CASE WHEN (SELECT pg_catalog.bool_and(pg_catalog.to_regtype(t.name) IS NOT NULL)
                                           FROM json_array_elements_text(w.types) t(name)) IS NOT FALSE
                                   THEN pg_catalog.to_regprocedure(w.quoted) END))
               FROM json_to_recordset({functions}::json) w(signature text, quoted text, types json)),
 {book})::text
""")

_CLUSTER = sql.SQL("""
WITH {trust}
SELECT json_build_object({server},
 'databases', (SELECT json_agg(d.datname) FROM pg_catalog.pg_database d{database_filter}),
 {role_part}, {book})::text
""")

_BOOK = sql.SQL("""
 'claims', (SELECT b.claims FROM book b),
 'trust', (SELECT json_build_array(t.other, t.there, t.flaw) FROM trust t)""")

_NOTHING = sql.SQL("")


def text_array(values: Iterable[str]) -> sql.Composable:
    """A ``text[]`` literal; also right when it is empty."""
    return sql.SQL("{}::text[]").format(sql.Literal(sorted(values)))


def claims_table(schema: str) -> sql.Identifier:
    """The name of the claims table in the operator's own schema."""
    return sql.Identifier(schema, "claims")


def database_statement(
    desired: Desired,
    schemas: Iterable[str],
    metadata_schema: str,
    claims: str | None = None,
    *,
    installed: Container[str] = (),
) -> sql.Composed:
    """The snapshot of one database.

    ``claims`` is their JSON where it was read already; ``installed`` are extensions that the server need not look for.
    """
    return _DATABASE.format(
        server=_SERVER,
        trust=_trust(metadata_schema, claims),
        book=_BOOK,
        role_part=roles_fragment(text_array(desired.role_names()), _NOTHING),
        objects=objects_ctes(desired, schemas, metadata_schema),
        object_part=OBJECTS,
        arguments=ARGUMENTS,
        default_part=_defaults(desired),
        holding_part=_holdings(desired),
        row_security=row_security_part(desired.row_security_tables()),
        tables=tables_fragment(wanted(desired, metadata_schema)),
        extensions=text_array(e.name for e in desired.extensions if not e.absent and e.name not in installed),
        functions=sql.Literal(json.dumps([_signature(text) for text in desired.function_signatures()])),
    )


def _defaults(desired: Desired) -> sql.Composable:
    """Default privileges: the declared creators'; who else creates, where it is declared."""
    schemas = {schema for one in desired.defaults if not one.absent for schema in one.schemas}
    return defaults_fragment(desired.creators(), schemas)


def _holdings(desired: Desired) -> sql.Composable:
    roles = desired.remembered.dropped
    return sql.SQL(", ").join([holdings_fragment(roles, desired.database.owner), elsewhere_fragment(roles)])


def trust_statement(metadata_schema: str) -> sql.Composed:
    """Whose the claims are, and nothing else."""
    return _TRUST_ALONE.format(trust=_trust(metadata_schema, ""))


def claims_statement(
    metadata_schema: str, keys: Iterable[str] | None = None, resources: Iterable[str] = ()
) -> sql.Composed:
    """All claims, or those of these objects and resources, as JSON; only for a table that is known to be trusted."""
    where: sql.Composable = _NOTHING
    if keys is not None:
        where = sql.SQL(" WHERE c.object = ANY ({}) OR c.resource = ANY ({})").format(
            text_array(keys), text_array(resources)
        )
    return _CLAIMS.format(claims=claims_table(metadata_schema), where=where)


def _trust(
    metadata_schema: str, claims: str | None, keys: Iterable[str] | None = None, resources: Iterable[str] = ()
) -> sql.Composable:
    if claims is None:
        query = claims_statement(metadata_schema, keys, resources).as_string(None)
        read: sql.Composable = _READ.format(query=sql.Literal(query))
    else:
        read = sql.Literal(claims)
    column = sql.SQL("NULLIF({}, '')::json").format(read)
    return _TRUST.format(schema=sql.Literal(metadata_schema), claims=column, flaw=FLAW)


def _signature(text: str) -> dict[str, object]:
    """``schema.name(type, type)`` taken apart: the names are as in the catalogue, the types are SQL.

    Postgres 15 raises an error for a signature with a type that does not exist; so the types are looked for first.
    """
    name, _, rest = text.partition("(")
    schema, _, function = name.partition(".")
    types = rest.rpartition(")")[0]
    quoted = sql.Identifier(schema, function).as_string(None)
    return {"signature": text, "quoted": f"{quoted}({types})", "types": _arguments(types)}


def _arguments(types: str) -> list[str]:
    """The types between the parentheses, split at commas that stand in no others and in no quotes.

    ``numeric(10, 2)`` is one, and so is ``"odd, name"``.
    """
    parts, depth, quoted = [""], 0, False
    for character in types:
        quoted ^= character == '"'
        if not quoted:
            depth += (character == "(") - (character == ")")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def cluster_statement(
    roles: Iterable[str],
    metadata_schema: str,
    claims: str | None = None,
    *,
    keys: Iterable[str] | None = None,
    resources: Iterable[str] = (),
) -> sql.Composed:
    """The snapshot of the server-wide part, in the maintenance database.

    With ``keys`` only the claims of these objects and ``resources`` are read, and only these databases looked for:
    a server with a thousand databases has thousands of claims.
    """
    database_filter: sql.Composable = _NOTHING
    claimed_roles: sql.Composable = _NOTHING
    if keys is not None:
        keys = tuple(keys)
        claimed_roles = _CLAIMED_ROLES.format(resources=text_array(resources))
        names = [key.removeprefix("database:") for key in keys if key.startswith("database:")]
        database_filter = sql.SQL(" WHERE d.datname = ANY ({})").format(text_array(names))
    return _CLUSTER.format(
        server=_SERVER,
        trust=_trust(metadata_schema, claims, keys, resources),
        book=_BOOK,
        database_filter=database_filter,
        role_part=roles_fragment(text_array(roles), claimed_roles),
    )


def parse_trust(text: str, doing: str) -> tuple[bool, bool]:
    """Whether the operator's schema and its table claims exist.

    Raises :class:`RefusedError` where somebody else owns one of them, or somebody's code hangs on the table; ``doing``
    begins the message.
    """
    return _trusted(json.loads(text), doing)


def _trusted(raw: Mapping[str, Any], doing: str) -> tuple[bool, bool]:
    found = raw["trust"]
    if found is None:
        return False, False
    other, there, flaw = found
    if other is None and flaw is None:
        return True, bool(there)
    what = (
        f"role {other} owns the operator's schema or its table claims there" if other else f"table claims there {flaw}"
    )
    message = (
        f"{doing} was stopped: {what}, and could have the operator run its code; drop it, or, where Selvedge "
        "made it, give schema and table to the operator's login"
    )
    raise RefusedError(Reason.CONFLICT, message)


def parse_snapshot(text: str, doing: str, installed: Mapping[str, str | None] | None = None) -> Snapshot:
    """The frozen form of a snapshot statement's answer; raises as :func:`parse_trust` does.

    ``installed`` are extensions that it was not asked for, with the schema that their control file demands.
    """
    raw: dict[str, Any] = json.loads(text)
    schema_exists, claims_exist = _trusted(raw, doing)
    defaults = parse_defaults(raw)
    return Snapshot(
        version=raw["version"],
        me=raw["me"],
        superuser=raw["superuser"],
        standby=raw["standby"],
        system_identifier=raw["system"],
        database_owner=raw.get("owner") or "",
        database_settings=parse_settings(raw.get("settings")),
        roles=parse_roles(raw["roles"]),
        schemas={name: (owner, comment) for name, owner, comment in raw.get("schemas") or ()},
        extensions={name: (version, schema) for name, version, schema, _ in raw.get("extensions") or ()},
        extension_oids={name: oid for name, _, _, oid in raw.get("extensions") or ()},
        groups=tuple(parse_group(*row) for row in raw.get("objects") or ()),
        functions={k: (v[0], "\0".join(v[1:])) if v else None for k, v in (raw.get("functions") or {}).items()},
        available={**(installed or {}), **(raw.get("available") or {})},
        claims=_claims(raw["claims"]),
        has_claims_table=claims_exist,
        has_metadata_schema=schema_exists,
        defaults=defaults,
        holdings=parse_holdings(raw),
        next_owner=parse_next_owner(raw),
        elsewhere=parse_elsewhere(raw),
        become=frozenset(raw.get("become") or ()),
        may_create=raw.get("mayCreate", True),
        row_security=parse_row_security(raw),
        tables=parse_tables(raw.get("tables")),
    )


def parse_databases(text: str) -> frozenset[str]:
    """The names of all databases in a cluster snapshot."""
    return frozenset(json.loads(text)["databases"] or ())


def _claims(rows: list[list[Any]] | None) -> Mapping[str, Claim]:
    return {row[0]: Claim(row[0], row[1], row[2], row[3], row[4] or {}) for row in rows or ()}
