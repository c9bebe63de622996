"""What a declaration may change by what it keeps on tables, and facts under the names that it gives."""

from __future__ import annotations

import re
from typing import Any

from tests.engines.fingerprint import Fact, Facts

_LOGS = re.compile(r"(database_operations|audit_logs)(_|\.|$)")
_OWN_LOGINS = ("policies", "probe", "partitions")
_FUNCTIONS = re.compile(r"(record_changes?|stamp_event)\b")


def kept_on_tables(spec: dict[str, Any], fact: Fact, before: Facts, after: Facts) -> bool:
    """Whether row-level security, the audit or partitions of the declaration are the reason for a change."""
    return _guarded(spec, fact, before) or _audited(spec, fact) or any(_partition(one, fact) for one in _tables(spec))


def _tables(spec: dict[str, Any]) -> list[str]:
    return [entry["table"] for entry in spec.get("partitions", ())]


def _guarded(spec: dict[str, Any], fact: Fact, before: Facts) -> bool:
    """Policies and flags of a guarded table; and of its partitions, with what is granted on these."""
    kind, key = fact
    if kind not in ("policy", "rows", "privilege"):
        return False
    name = key[1:3] if kind == "privilege" else key[:2]
    whole = ".".join(name)
    guarded = {entry["table"] for entry in spec.get("rowLevelSecurity", ())}
    if whole in guarded and kind != "privilege":
        return True
    parent = _parent(name, before)
    return parent in guarded and (kind != "privilege" or key[0] in ("table", "column"))


def _parent(name: tuple[str, ...], before: Facts) -> str:
    for shown in (".".join(name), f'"{name[0]}".{name[-1]}'):
        value = before.get(Fact("inherits", (shown,)), "")
        if value:
            return value.rpartition(" ")[0].replace('"', "")
    return ""


def _audited(spec: dict[str, Any], fact: Fact) -> bool:
    audit = spec.get("audit")
    if audit is None:
        return False
    kind, key = fact
    schema = audit["schema"]
    if kind in ("role", "role comment", "member", "default"):
        return key[0] in ("audit", "audit_writer")
    if kind == "trigger":
        return key[1].startswith("selvedge_audit_")
    if kind in ("owner", "privilege", "schema comment") and key[0] == "schema" and key[1] == schema:
        return kind == "owner" or key[2] in ("audit", "audit_writer") or "audit" in key[-1]
    if kind == "schema comment":
        return key[0] == schema
    text = ".".join(key[1:] if kind == "source" else key).replace('"', "")
    name = text.partition(f"{schema}.")[2]
    return bool(_LOGS.match(name) or _FUNCTIONS.match(name))


def _partition(table: str, fact: Fact) -> bool:
    """What the operator makes and takes away: ``e_p…``, ``h_p…`` and the old one of the template."""
    schema, _, name = table.partition(".")
    text = ".".join(fact.key[1:] if fact.kind in ("owner", "privilege") else fact.key).replace('"', "")
    return text.startswith((f"{schema}.{name}_p", f"{schema}.old"))


def without_own_logins(facts: Facts) -> Facts:
    """Without the logins that the operator makes for one use, as which users' expressions are read."""
    return {
        fact: value
        for fact, value in facts.items()
        if not (fact.kind in ("role", "role comment", "member", "default") and fact.key[0] in _OWN_LOGINS)
        and not (fact.kind == "role comment" and value.startswith("selvedge: "))  # it names the database
        and not (fact.kind == "privilege" and fact.key[-3] in _OWN_LOGINS)
    }


def under_new_names(facts: Facts, names: dict[str, str]) -> Facts:
    """The same facts with roles and schemas renamed in them."""
    if not names:
        return facts
    patterns = [(re.compile(rf'(?<![\w"%.])("?){re.escape(old)}\1(?![\w"])'), new) for old, new in names.items()]

    def told(text: str) -> str:
        for pattern, new in patterns:
            text = pattern.sub(lambda found, new=new: f"{found[1]}{new}{found[1]}", text)
        return text

    def renamed(fact: Fact, value: str) -> tuple[Fact, str]:
        if (
            fact.kind == "setting"
        ):  # only whose it is: a parameter's name and its value stay, also where they look alike
            *whose, parameter = fact.key
            return Fact(fact.kind, (*map(told, whose), parameter)), value
        return Fact(fact.kind, tuple(map(told, fact.key))), told(value)

    return dict(renamed(fact, value) for fact, value in facts.items())
