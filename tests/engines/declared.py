"""What a declaration may change: written down a second time, from the API's words and not from the operator's code."""

from __future__ import annotations

from typing import Any

from tests.engines.declared_tables import kept_on_tables
from tests.engines.fingerprint import Fact, Facts

_KINDS = {"Tables": "table", "Sequences": "sequence", "Functions": "function", "Types": "type", "Schemas": "schema"}
_LETTERS = {"r": "Tables", "S": "Sequences", "s": "Sequences", "f": "Functions", "T": "Types", "n": "Schemas"}


def covers(spec: dict[str, Any], fact: Fact, before: Facts, after: Facts) -> bool:
    """Whether the declaration is the reason for a change of this fact."""
    return _Declared(spec, before, after).covers(fact) or kept_on_tables(spec, fact, before, after)


class _Declared:
    def __init__(self, spec: dict[str, Any], before: Facts, after: Facts) -> None:
        self.spec = spec
        self.before = before
        self.after = after
        self.roles = {role["name"]: role for role in spec["roles"]}
        self.schemas = {schema["name"]: schema for schema in spec["schemas"]}

    def covers(self, fact: Fact) -> bool:
        kind, key = fact
        if kind == "privilege":
            return self.privilege(key)
        if kind == "default":
            return self.default(key)
        if kind == "setting":
            return self.setting(key)
        if kind == "member":  # who loses a membership takes what he granted with him
            return key[0] in self.roles or key[2].strip('"') in self.roles
        if kind in ("role", "role comment"):
            return key[0] in self.roles
        if kind == "owner" and key[0] == "schema":
            return key[1] in self.schemas
        if kind == "owner" and key[0] == "database":
            return "owner" in self.spec
        if kind == "schema comment":
            return key[0] in self.schemas
        return kind == "extension" and any(one["name"] == key[0] for one in self.spec.get("extensions", ()))

    def setting(self, key: tuple[str, ...]) -> bool:
        role, here, name = key
        if not role:
            return name in {one.lower() for one in self.spec.get("settings", {})} | set(self.spec.get("settings", {}))
        declared = self.roles.get(role, {}).get("databaseSettings" if here else "settings", {})
        return name.lower() in {one.lower() for one in declared}

    def default(self, key: tuple[str, ...]) -> bool:
        creator, schema, letter, grantee, word = key
        if Fact("role", (creator,)) not in self.before:
            return creator in self.roles
        return any(
            entry["objectType"] == _LETTERS[letter]
            and creator in entry["creators"]
            and (schema in entry["schemas"] if entry.get("schemas") else not schema)
            and grantee in entry["to"]
            and word in entry["privileges"]
            for entry in self.spec["defaultPrivileges"]
        )

    def privilege(self, key: tuple[str, ...]) -> bool:
        kind, *name, grantee, word, grantor = key
        if self.gives(kind, tuple(name), grantee, word):
            return True
        # Who loses the right to grant takes what he granted with him; a table's REVOKE takes its columns' along.
        if grantor != "(owner)" and self.covers_giver(kind, tuple(name), grantor, word):
            return True
        if kind == "column" and self.gives("table", tuple(name[:2]), grantee, word):
            return True
        return self.changes_owner(kind, tuple(name), grantee, grantor)

    def covers_giver(self, kind: str, name: tuple[str, ...], grantor: str, word: str) -> bool:
        role = grantor.strip('"')
        if self.gives(kind, name, role, word):
            return True
        return kind == "column" and self.gives("table", name[:2], role, word)

    def changes_owner(self, kind: str, name: tuple[str, ...], grantee: str, grantor: str) -> bool:
        fact = Fact("owner", (kind, *name))
        owners = {self.before.get(fact), self.after.get(fact)}
        return len(owners) > 1 and (grantee in owners or grantor.strip('"') in owners or grantor == "(owner)")

    def gives(self, kind: str, name: tuple[str, ...], grantee: str, word: str) -> bool:
        """Whether a grant, default privileges or the authoritative mode speak of this privilege."""
        return (
            any(
                word in grant["privileges"] and grantee in grant["to"] and self.on(grant["objects"], kind, name)
                for grant in self.spec["grants"]
            )
            or any(
                word in entry["privileges"] and grantee in entry["to"] and self.owned(entry, kind, name)
                for entry in self.spec["defaultPrivileges"]
            )
            or (
                self.spec.get("grantMode") == "Authoritative"
                and grantee in self.roles
                and kind not in ("database", "language", "server", "wrapper")
                and name[0] in self.schemas
            )
        )

    def on(self, objects: dict[str, Any], kind: str, name: tuple[str, ...]) -> bool:
        whole = ".".join(name)
        if kind == "database":
            return bool(objects.get("database"))
        if kind == "schema":
            return name[0] in objects.get("schemas", ())
        if kind == "table":
            partition = self.before.get(Fact("rows", name), "").split(" ")[3:4] == ["t"]
            return whole in objects.get("tables", ()) or (name[0] in objects.get("tablesIn", ()) and not partition)
        if kind == "sequence":
            return whole in objects.get("sequences", ()) or name[0] in objects.get("sequencesIn", ())
        if kind == "function":
            signature = whole.replace("(IN x ", "(").replace("(x ", "(")
            return signature in objects.get("functions", ()) or name[0] in objects.get("functionsIn", ())
        if kind == "column":
            return any(
                one["table"] == ".".join(name[:2]) and name[2] in one["columns"] for one in objects.get("columns", ())
            )
        return name[-1] in objects.get("languages", ()) if kind == "language" else whole in objects.get("types", ())

    def owned(self, entry: dict[str, Any], kind: str, name: tuple[str, ...]) -> bool:
        """Default privileges reach what their creators own by now."""
        fact = Fact("owner", (kind, *name))
        owners = {self.before.get(fact), self.after.get(fact)}
        return (
            _KINDS[entry["objectType"]] == kind
            and bool(owners & set(entry["creators"]))
            and (not entry.get("schemas") or name[0] in entry["schemas"])
        )
