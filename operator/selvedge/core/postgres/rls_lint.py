"""Advice about row-level security: what weakens it without being a difference from the declaration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from selvedge.core.postgres.expression import called_for_each_row
from selvedge.core.postgres.rls_changes import RowPolicy
from selvedge.core.postgres.rls_model import TableState

_ADVICE = {
    "policy_but_rls_off": "table {object} has policies and row-level security is off, so that they mean nothing: "
    "declare it in rowLevelSecurity, or run ALTER TABLE {object} ENABLE ROW LEVEL SECURITY",
    "rls_without_policy": "table {object} has row-level security and no policy: nobody but its owner sees a row",
    "only_restrictive": "table {object} has only restrictive policies, and nobody sees a row: "
    "a permissive one has to let it through first",
    "owner_bypass": "login {detail} has the rights of the owner of {object} and is not filtered there: "
    "set force: true, or take the owner's role from it",
    "can_set_role_to_bypass": "login {object} may become {detail}, whom no policy filters: take the membership away",
    "partition_bypass": "partition {object} has no row-level security and is granted to {detail}: read by its own "
    "name it shows every row; revoke that, or declare the parent in rowLevelSecurity",
    "truncate_granted": "{detail} may TRUNCATE {object}, which asks no policy: revoke TRUNCATE",
    "always_true_write": "policy {detail} of {object} lets everybody (PUBLIC) write every row: "
    "name the roles that it is for",
    "guc_may_raise": "policy {detail} of {object} raises an error where its setting was never set or is empty, as on "
    "a pooled connection: write (select nullif(current_setting('…', true), '')::…)",
    "view_bypass": "view {object} reads {detail} with its owner's rights, past the policies, and is granted to "
    "others: set security_invoker = true on it, or revoke that (a materialized view cannot be filtered)",
    "definer_bypass": "function {object} runs with the rights of {detail}: whoever may call it is not filtered",
    "definer_search_path": "function {object} is SECURITY DEFINER and does not pin search_path: whoever may create "
    "objects can change what it does; ALTER FUNCTION {object} SET search_path = pg_catalog, pg_temp",
    "tenant_column_without_rls": "table {object} has a column {detail} and no row-level security: declare it in "
    "rowLevelSecurity if rows belong to somebody",
    "unindexed_policy_column": "policy column {detail} of {object} has no index that begins with it: "
    "every query reads the whole table",
    "setting_for_each_row": "policy {detail} of {object} calls current_setting() for each row: "
    "write (select current_setting(…)) to have it called once",
    "forced_blocks_owner": "table {object} is forced: migrations and backups that run as its owner {detail} are "
    "refused there, unless that role has BYPASSRLS; a policy of its own lets a migration through whose file says "
    "SET LOCAL row_security = on",
}


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A lint's name, the object, and what else its sentence needs."""

    lint: str
    object: str
    detail: str = ""

    @property
    def in_schema(self) -> bool:
        """Whether the object is one of a schema; otherwise it is a role."""
        return self.lint != "can_set_role_to_bypass"

    def advice(self) -> str:
        """The finding as a sentence with the next step."""
        return _ADVICE[self.lint].format(object=self.object, detail=self.detail)


def findings_of_policies(tables: Iterable[TableState]) -> list[Finding]:
    """What the server's own text of the policies shows by itself."""
    found = []
    for table in tables:
        name = ".".join(table.key)
        for policy in table.policies.values():
            if any(text and called_for_each_row(text) for text in (policy.using, policy.check)):
                found.append(Finding("setting_for_each_row", name, policy.name))
        if table.forced and not _lets_owner_through(table):
            found.append(Finding("forced_blocks_owner", name, table.owner))
    return found


def _lets_owner_through(table: TableState) -> bool:
    def mine(policy: RowPolicy) -> bool:
        return policy.permissive and policy.command == "ALL" and table.owner in policy.roles

    return table.privileged or any(mine(policy) for policy in table.policies.values())


def advice(findings: Iterable[Finding]) -> tuple[str, ...]:
    """The sentences, sorted, each once."""
    return tuple(finding.advice() for finding in sorted(set(findings)))
