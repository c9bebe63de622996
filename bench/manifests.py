"""The declarations that are measured."""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]


def unit(name: str, *, database: str = "", interval: str = "5m", adoption: str = "RequireApproval") -> Document:
    """The unit of the comparison: one database, three roles, schema ``app`` with grants, extension pg_trgm."""
    prefix = name.replace("-", "_")
    owner, writer, reader = f"{prefix}_owner", f"{prefix}_writer", f"{prefix}_reader"
    return database_schema(
        name,
        {
            "owner": owner,
            "extensions": [{"name": "pg_trgm"}],
            "schemas": [{"name": "app", "owner": owner}],
            "roles": [{"name": owner}, {"name": reader}, {"name": writer, "memberOf": [{"role": reader}]}],
            "grants": [
                grant("connect", ["CONNECT"], {"database": True}, [reader]),
                grant("usage", ["USAGE"], {"schemas": ["app"]}, [reader]),
                grant("create", ["CREATE"], {"schemas": ["app"]}, [writer]),
                grant("read", ["SELECT"], {"tablesIn": ["app"]}, [reader]),
            ],
        },
        database or prefix,
        interval,
        adoption,
    )


def share(name: str, database: str, interval: str = "5m") -> Document:
    """One of many teams in one database: a schema, two roles and their grants."""
    prefix = name.replace("-", "_")
    writer, reader = f"{prefix}_writer", f"{prefix}_reader"
    return database_schema(
        name,
        {
            "schemas": [{"name": prefix}],
            "roles": [{"name": reader}, {"name": writer, "memberOf": [{"role": reader}]}],
            "grants": [
                grant("connect", ["CONNECT"], {"database": True}, [reader]),
                grant("usage", ["USAGE"], {"schemas": [prefix]}, [reader]),
                grant("create", ["CREATE"], {"schemas": [prefix]}, [writer]),
            ],
        },
        database,
        interval,
        "RequireApproval",
    )


def small(name: str, database: str, interval: str = "5m") -> Document:
    """One of very many in one database: a schema, a role and a grant."""
    prefix = name.replace("-", "_")
    return database_schema(
        name,
        {
            "schemas": [{"name": prefix}],
            "roles": [{"name": f"{prefix}_reader"}],
            "grants": [grant("usage", ["USAGE"], {"schemas": [prefix]}, [f"{prefix}_reader"])],
        },
        database,
        interval,
        "RequireApproval",
    )


SCHEMAS = ("shared", "avatar", "catalog", "design", "audit")
_ROLES = ("owner", "admin", "writer", "reader", "analyst", "support")


def rich(name: str, *, adoption: str = "RequireApproval", tables: bool = False) -> Document:
    """Five schemas, six roles, forty grants; with ``tables`` the grants are on what stands in the schemas."""
    prefix = name.replace("-", "_")
    roles = {role: f"{prefix}_{role}" for role in _ROLES}
    grants = [grant("connect", ["CONNECT"], {"database": True}, [roles["reader"]])]
    grants.append(grant("temporary", ["TEMPORARY"], {"database": True}, [roles["analyst"]]))
    for schema in SCHEMAS:
        grants += _on_tables(schema, roles) if tables else _on_schema(schema, roles)
    grants += [
        grant(f"connect-{role}", ["CONNECT"], {"database": True}, [roles[role]]) for role in ("support", "analyst")
    ]
    grants += [grant("temporary-admin", ["TEMPORARY"], {"database": True}, [roles["admin"]])]
    postgres = {
        "owner": roles["owner"],
        "schemas": [{"name": schema, "owner": roles["owner"]} for schema in SCHEMAS],
        "roles": [
            {"name": roles["owner"]},
            {"name": roles["reader"], "comment": "may read"},
            {"name": roles["writer"], "memberOf": [{"role": roles["reader"]}]},
            {"name": roles["admin"], "memberOf": [{"role": roles["writer"]}]},
            {"name": roles["analyst"], "settings": {"statement_timeout": "60s"}},
            {"name": roles["support"]},
        ],
        "grants": grants,
    }
    return database_schema(name, postgres, prefix, "5m", adoption)


def _on_schema(schema: str, roles: dict[str, str]) -> list[Document]:
    usage = [grant(f"usage-{schema}-{r}", ["USAGE"], {"schemas": [schema]}, [roles[r]]) for r in _ROLES[1:]]
    create = [grant(f"create-{schema}-{r}", ["CREATE"], {"schemas": [schema]}, [roles[r]]) for r in _ROLES[1:3]]
    return [*usage, *create]


def _on_tables(schema: str, roles: dict[str, str]) -> list[Document]:
    return [
        grant(f"usage-{schema}", ["USAGE"], {"schemas": [schema]}, [roles["reader"]]),
        grant(f"create-{schema}", ["CREATE"], {"schemas": [schema]}, [roles["admin"]]),
        grant(f"read-{schema}", ["SELECT"], {"tablesIn": [schema]}, [roles["reader"]]),
        grant(f"write-{schema}", ["INSERT", "UPDATE", "DELETE"], {"tablesIn": [schema]}, [roles["writer"]]),
        grant(f"truncate-{schema}", ["TRUNCATE"], {"tablesIn": [schema]}, [roles["admin"]]),
        grant(f"analyse-{schema}", ["SELECT"], {"tablesIn": [schema]}, [roles["analyst"]]),
        grant(f"support-{schema}", ["SELECT"], {"tables": [f"{schema}.t0"]}, [roles["support"]]),
    ]


def grant(name: str, privileges: list[str], objects: Document, to: list[str]) -> Document:
    """An entry of ``grants``."""
    return {"name": name, "privileges": privileges, "objects": objects, "to": to}


def database_schema(name: str, postgres: Document, database: str, interval: str, adoption: str) -> Document:
    """A DatabaseSchema on the server ``main``."""
    return {
        "apiVersion": "selvedge.dev/v1alpha1",
        "kind": "DatabaseSchema",
        "metadata": {"name": name},
        "spec": {
            "serverRef": {"name": "main"},
            "database": database,
            "interval": interval,
            "adoption": adoption,
            "postgres": postgres,
        },
    }
