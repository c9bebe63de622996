"""What a generated declaration keeps on tables, and what it renames; drawn for a part of the cases each."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

#: For the guard: tables that have rows, a partitioned one, one that nobody made.
GUARDED = ("t", "p", "gone")
EXPRESSIONS = ("true", "id = 1", "id=1 and  name<>'x'", "name = (select current_user::text)", "id IN (1, 2)")
#: What a role or a schema that is declared was called before; renamed in all of the declaration.
RENAMED_ROLES = (("{p}reader", "{p}readers"), ("{p}Odd ü.x", "{p}odd"))
RENAMED_SCHEMA = ("app", "app2")
AUDIT_SCHEMAS = ("trail", "ops")
#: By letter what a case has more: row-level security, an audit, partitions, new names.
WANTED = (*[""] * 8, "r", "r", "a", "p", "n", "n", "ra", "rp", "ap", "rapn")
#: Tables for partitions of each schema, beside those of the generators.
PARTITIONED = """
    CREATE TABLE "{schema}".e (at timestamptz NOT NULL, n int) PARTITION BY RANGE (at);
    CREATE TABLE "{schema}".old PARTITION OF "{schema}".e FOR VALUES FROM ('2001-01-01') TO ('2001-02-01');
    CREATE TABLE "{schema}".h (n int) PARTITION BY HASH (n);
"""


@st.composite
def guarded(draw: st.DrawFn, roles: tuple[str, ...], schemas: tuple[str, ...]) -> dict[str, Any]:
    """An entry of ``rowLevelSecurity``."""
    commands = ("All", "Select", "Update")
    policies = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.sampled_from(("mine", "p %s;")),
                    "to": st.lists(st.sampled_from((*roles, "PUBLIC")), min_size=1, max_size=2, unique=True),
                    "using": st.sampled_from(EXPRESSIONS),
                },
                optional={"command": st.sampled_from(commands), "mode": st.just("Restrictive")},
            ),
            max_size=2,
            unique_by=lambda one: str(one["name"]),
        )
    )
    table = f"{draw(st.sampled_from(schemas))}.{draw(st.sampled_from(GUARDED))}"
    return {"table": table, "force": draw(st.booleans()), "policies": policies}


@st.composite
def audits(draw: st.DrawFn, schemas: tuple[str, ...]) -> dict[str, Any]:
    """``audit``: some tables by name, some schemas, sometimes in a schema that has tables."""
    named = [
        f"{draw(st.sampled_from(schemas))}.{name}" for name in draw(st.sampled_from((("t",), ("p",), ("t", "gone"))))
    ]
    entry: dict[str, Any] = {"schema": draw(st.sampled_from(AUDIT_SCHEMAS)), "every": "Month"}
    entry["tables"] = [{"table": name} | ({"exclude": ["name"]} if draw(st.booleans()) else {}) for name in named]
    if draw(st.booleans()):
        entry["tablesIn"] = [draw(st.sampled_from(schemas))]
    return entry | draw(
        st.fixed_dictionaries({}, optional={"applicationLog": st.booleans(), "actorSetting": st.just("app.tenant")})
    )


@st.composite
def partitions(draw: st.DrawFn, schemas: tuple[str, ...]) -> list[dict[str, Any]]:
    """Of one schema: by time, with or without a retention that takes an old one away, and by hash."""
    schema = draw(st.sampled_from(schemas))
    by_time: dict[str, Any] = {"table": f"{schema}.e", "by": "Time", "column": "at", "every": "Month", "ahead": 1}
    if draw(st.booleans()):
        by_time["retention"] = "300d"
    return [by_time, {"table": f"{schema}.h", "by": "Hash", "column": "n", "count": 2}][: draw(st.integers(1, 2))]


def renamed(value: Any, names: dict[str, str]) -> Any:
    """The declaration with other names in it, but for what it says was the name before."""
    if isinstance(value, dict):
        return {
            key: entry if key == "renamedFrom" else {name: renamed(one, names) for name, one in entry.items()}
            if isinstance(entry, dict) else renamed(entry, names)
            for key, entry in value.items()
        }  # fmt: skip
    if isinstance(value, (list, tuple)):
        return [renamed(entry, names) for entry in value]
    if not isinstance(value, str):
        return value
    head, dot, rest = value.partition(".")
    return names.get(value) or (f"{names[head]}.{rest}" if dot and head in names else value)


def with_renames(manifest: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The declaration after its author renamed these."""
    found = renamed(manifest, names)
    assert isinstance(found, dict)
    for old, new in names.items():
        kind = "schemas" if old == RENAMED_SCHEMA[0] else "roles"
        entry = next((one for one in found[kind] if one["name"] == new), None)
        if entry is None:
            entry = {"name": new}
            found[kind] = [*found[kind], entry]
        entry["renamedFrom"] = old
    return found


@st.composite
def extended(
    draw: st.DrawFn, manifest: dict[str, Any], roles: tuple[str, ...], schemas: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, Any], dict[str, str]]:
    """Statements that were run before, the declaration with more in it, and what it renames.

    Many cases have nothing of this and stay cheap; the others have one or more of it.
    """
    wanted = draw(st.sampled_from(WANTED))
    more: dict[str, Any] = {}
    before: list[str] = []
    if "r" in wanted:
        more["rowLevelSecurity"] = draw(
            st.lists(guarded(roles, schemas), min_size=1, max_size=2, unique_by=lambda one: str(one["table"]))
        )
        for entry in more["rowLevelSecurity"]:
            schema, _, table = entry["table"].partition(".")
            owner = draw(st.sampled_from(roles))
            if table != "gone":  # as somebody whom a policy may be made as, and who may or may not use the schema
                before.append(f'ALTER TABLE "{schema}".{table} OWNER TO "{owner}"')
                if draw(st.integers(0, 2)):
                    before.append(f'GRANT USAGE ON SCHEMA "{schema}" TO "{owner}"')
    if "a" in wanted:
        more["audit"] = draw(audits(schemas))
    if "p" in wanted:
        more["partitions"] = draw(partitions(schemas))
        if draw(st.booleans()):
            schema, _, _ = more["partitions"][0]["table"].partition(".")
            owner = draw(st.sampled_from(roles))
            before.append(f'ALTER TABLE "{schema}".e OWNER TO "{owner}"')
            if draw(st.integers(0, 3)):
                before.append(f'GRANT USAGE, CREATE ON SCHEMA "{schema}" TO "{owner}"')
    names: dict[str, str] = {}
    if "n" in wanted:
        names = dict([draw(st.sampled_from((*RENAMED_ROLES, RENAMED_SCHEMA)))])
    whole = {**manifest, **more}
    return tuple(before), with_renames(whole, names) if names else whole, names
