"""From ``spec.postgres.rowLevelSecurity`` to the desired state; pure."""

from __future__ import annotations

from selvedge.api.base import Ensure
from selvedge.api.postgres_data import Policy, PolicyMode, Probes, RowLevelSecurity, Sees
from selvedge.core.names import PUBLIC
from selvedge.core.postgres.rls_changes import RowPolicy
from selvedge.core.postgres.rls_model import DesiredRowSecurity, Expectation, TenantProbe, normal_roles


def row_security(member: str, declared: RowLevelSecurity) -> DesiredRowSecurity:
    """One entry of a member (its uid). A policy that is to be absent is left out: what is not declared is drift."""
    schema, _, table = declared.table.partition(".")
    policies = (_policy(policy) for policy in declared.policies if policy.ensure is Ensure.PRESENT)
    probes = declared.probes or Probes()
    tenant = probes.tenant
    return DesiredRowSecurity(
        member,
        schema,
        table,
        declared.force,
        tuple(policies),
        None if tenant is None else TenantProbe(tenant.column, tenant.setting, tenant.role, tenant.writes),
        tuple(Expectation(expected.role, expected.sees is Sees.ALL) for expected in probes.expect),
    )


def _policy(policy: Policy) -> RowPolicy:
    roles = (PUBLIC if role.upper() == PUBLIC else role for role in policy.to)
    return RowPolicy(
        policy.name,
        policy.command.value.upper(),
        policy.mode is PolicyMode.PERMISSIVE,
        normal_roles(roles),
        policy.using,
        policy.with_check,
    )
