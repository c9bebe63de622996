"""The difference in row-level security, without a server: a simulated one applies the changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.postgres import rls_changes as c
from selvedge.core.postgres.changes import Change, DropClaims, RevokePrivileges, WriteClaims
from selvedge.core.postgres.cluster_diff import ClaimBook
from selvedge.core.postgres.model import Claim, CurrentRole
from selvedge.core.postgres.rls import diff_row_security
from selvedge.core.postgres.rls_changes import RowPolicy
from selvedge.core.postgres.rls_model import (
    DesiredRowSecurity,
    Expectation,
    PartitionState,
    RowSecurityDiff,
    TableState,
    claim_key,
    normal_roles,
    proof_key,
    question,
)
from selvedge.core.postgres.rls_record import Broken, Canonical, PreImage, Proof, TableRecord, record_of
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectState, Risk

USERS = ("shared", "users")
ROLES = {name: CurrentRole(name) for name in ("app", "admin", "owner")}


def book(claims: dict[str, Claim] | None = None, *, cluster: str = "here") -> ClaimBook:
    return ClaimBook(claims or {}, cluster, {"m": "shop/shop"}, lambda _: True)


def claim(record: TableRecord, *, resource: str = "shop/shop") -> dict[str, Claim]:
    name = claim_key(USERS)
    return {name: Claim(name, "here", resource, "m", {"created": False, **record.detail()})}


def entry(*policies: RowPolicy, **fields: Any) -> DesiredRowSecurity:
    return DesiredRowSecurity("m", "shared", "users", policies=policies, **fields)


def table(*policies: RowPolicy, **fields: Any) -> TableState:
    known = {"owner": "owner", "enabled": True, "policies": {policy.name: policy for policy in policies}}
    return TableState("shared", "users", **{**known, **fields})


def diff(
    desired: DesiredRowSecurity, current: TableState | None, claims: dict[str, Claim] | None = None, learned=None
) -> RowSecurityDiff:
    tables = {} if current is None else {current.key: current}
    return diff_row_security([desired], tables, ROLES, book(claims), learned or {})


def words(text: str | None) -> str | None:
    """What the simulated server makes of an expression."""
    return None if text is None else f"({text.upper()})"


def simulate(current: TableState, changes: Iterable[Change]) -> TableState:
    policies = dict(current.policies)
    partitions = {partition.key: partition for partition in current.partitions}
    for change in changes:
        match change:
            case c.EnableRowSecurity():
                current = replace(current, enabled=True)
            case c.DisableRowSecurity():
                current = replace(current, enabled=False)
            case c.ForceRowSecurity(force=force):
                current = replace(current, forced=force)
            case c.CreatePolicy(policy=policy):
                assert policy.name not in policies
                policies[policy.name] = replace(policy, using=words(policy.using), check=words(policy.check))
            case c.DropPolicy(partition=None):
                del policies[change.name]
            case c.DropPolicy(partition=where):
                one = partitions[where]
                partitions[where] = replace(one, policies=tuple(n for n in one.policies if n != change.name))
            case c.AlterPolicy():
                old = policies[change.name]
                policies[change.name] = replace(
                    old,
                    roles=change.roles or old.roles,
                    using=words(change.using) or old.using,
                    check=words(change.check) or old.check,
                )
            case c.ClosePartition():
                one = partitions[change.partition]
                partitions[change.partition] = replace(one, enabled=True, forced=one.forced or change.force)
            case RevokePrivileges():
                key = (change.what.schema, change.what.names[0])
                grants = {
                    k: v for k, v in partitions[key].grants.items() if k != (change.what.grantee, change.what.grantor)
                }
                partitions[key] = replace(partitions[key], grants=grants)
    return replace(current, policies=policies, partitions=tuple(partitions.values()))


def learned_of(desired: DesiredRowSecurity) -> dict:
    return {
        question(desired.key, p): Canonical(p.using, p.check, words(p.using), words(p.check)) for p in desired.policies
    }


names = st.sampled_from(["a", "b", "c"])
texts = st.sampled_from(["true", "id = 1", "owner = 'x'"])


@st.composite
def row_policies(draw: st.DrawFn, *, live: bool = False) -> tuple[RowPolicy, ...]:
    found = {}
    for name in draw(st.lists(names, max_size=3)):
        command = draw(st.sampled_from(["ALL", "SELECT", "INSERT", "UPDATE", "DELETE"]))
        using = None if command == "INSERT" else draw(texts)
        check = draw(texts) if command == "INSERT" else None
        if command in ("ALL", "UPDATE"):
            check = draw(st.none() | texts)
        roles = normal_roles(draw(st.lists(st.sampled_from(["app", "admin", "PUBLIC"]), min_size=1)))
        policy = RowPolicy(name, command, draw(st.booleans()), roles, using, check)
        found[name] = replace(policy, using=words(using), check=words(check)) if live else policy
    return tuple(found.values())


@st.composite
def states(draw: st.DrawFn) -> TableState:
    given = st.sampled_from([("app", ""), ("PUBLIC", ""), ("app", "third")])
    grants = st.dictionaries(given, st.just(frozenset({"SELECT"})))
    partitions = draw(
        st.lists(
            st.builds(
                PartitionState,
                st.just("shared"),
                st.sampled_from(["p1", "p2"]),
                st.booleans(),
                st.booleans(),
                st.just(False),
                st.just("owner"),
                st.sampled_from([(), ("x",)]),
                grants,
            ),
            unique_by=lambda partition: partition.name,
            max_size=2,
        )
    )
    flags = {"enabled": draw(st.booleans()), "forced": draw(st.booleans()), "partitions": tuple(partitions)}
    return table(*draw(row_policies(live=True)), relation="p" if partitions else "r", **flags)


@given(row_policies(), st.booleans(), states())
def test_after_the_changes_nothing_is_left(policies: tuple[RowPolicy, ...], force: bool, current: TableState) -> None:
    """From any state to any declaration in one go; the second difference is empty, and knows it without asking."""
    desired = entry(*policies, force=force)
    claims: dict[str, Claim] = {}
    first = book(claims)
    found = diff_row_security([desired], {USERS: current}, ROLES, first, learned_of(desired))
    after = simulate(current, found.changes)
    second = book({**claims, **first.new})
    rest = diff_row_security([desired], {USERS: after}, ROLES, second, learned_of(desired))
    assert (rest.changes, rest.problems, rest.unlearned, rest.unprotected) == ([], [], [], set())
    assert (after.enabled, after.forced) == (True, force)
    third = book({**claims, **first.new, **second.new})
    settled = diff_row_security([desired], {USERS: after}, ROLES, third, {})
    assert (settled.changes, settled.unlearned, third.new) == ([], [], {})


@given(row_policies(), states())
def test_the_order_of_a_manifest_is_irrelevant(policies: tuple[RowPolicy, ...], current: TableState) -> None:
    one = diff(entry(*policies), current, learned=learned_of(entry(*policies)))
    other = diff(entry(*reversed(policies)), current, learned=learned_of(entry(*policies)))
    assert sorted(map(str, one.changes)) == sorted(map(str, other.changes))
    assert entry(*policies).digest() == entry(*reversed(policies)).digest()


@given(row_policies(), st.booleans(), states())
def test_restrict_before_widen(policies: tuple[RowPolicy, ...], force: bool, current: TableState) -> None:
    found = [x for x in diff(entry(*policies, force=force), current).changes if isinstance(x, c.RowSecurityChange)]
    widening = [isinstance(x, c.CreatePolicy) and x.policy.permissive for x in found]
    restricting = [isinstance(x, (c.EnableRowSecurity, c.ClosePartition)) for x in found]
    if True in widening and True in restricting:
        assert len(restricting) - restricting[::-1].index(True) <= widening.index(True)


def test_a_table_that_is_not_there_waits() -> None:
    found = diff(entry(RowPolicy("p", using="true")), None)
    status = found.problems[0].status
    assert (status.state, status.reason, found.changes) == (ObjectState.WAITING, Reason.WAITING_FOR_OBJECTS, [])


def test_a_role_that_is_not_there_waits_and_the_table_gets_no_grants() -> None:
    found = diff(entry(RowPolicy("p", roles=("nobody",), using="true")), table(enabled=False))
    assert diff(entry(RowPolicy("p", using="true")), table(enabled=False)).unprotected == set()  # closed in this plan
    assert found.problems[0].status.reason is Reason.ROLE_NOT_FOUND
    assert found.unprotected == {USERS}
    assert found.changes == []


def test_a_view_has_no_row_security() -> None:
    found = diff(entry(RowPolicy("p", using="true")), table(relation="v", enabled=False))
    assert found.problems[0].status.reason is Reason.INVALID_SPEC


def test_commands_and_their_expressions() -> None:
    for policy in (
        RowPolicy("p", "INSERT", using="true"),
        RowPolicy("p", "INSERT", using="true", check="true"),
        RowPolicy("p", "SELECT", using="true", check="true"),
        RowPolicy("p", "DELETE", check="true"),
    ):
        assert diff(entry(policy), table()).problems[0].status.reason is Reason.INVALID_SPEC


def test_probes_as_a_superuser_are_refused() -> None:
    roles = {**ROLES, "app": CurrentRole("app", privileged=True)}
    desired = entry(RowPolicy("p", using="true"), expect=(Expectation("app", True),))
    found = diff_row_security([desired], {USERS: table()}, roles, book(), {})
    assert "nothing is tried as such a role" in found.problems[0].status.message


def test_another_resource_owns_the_table() -> None:
    found = diff(entry(RowPolicy("p", using="true")), table(), claim(TableRecord(), resource="other/one"))
    assert found.problems[0].status.state is ObjectState.CONFLICT
    assert found.changes == []


def test_risks() -> None:
    found = diff(entry(RowPolicy("p", using="true")), table(RowPolicy("q", using="(TRUE)"), enabled=False))
    assert {type(x).__name__: x.risk for x in found.changes} == {
        "EnableRowSecurity": Risk.LOCKING,
        "DropPolicy": Risk.NARROWING,
        "CreatePolicy": Risk.LOCKING,
    }


def test_left_tables_lose_our_policies_and_stay_closed() -> None:
    record = TableRecord(canonical={"mine": Canonical("true", None, "(TRUE)", None)})
    claims = claim(record)
    current = table(RowPolicy("mine", using="(TRUE)"), RowPolicy("theirs", using="(TRUE)"))
    found = diff_row_security([], {USERS: current}, ROLES, book(claims), {})
    assert [type(x) for x in found.changes] == [c.DropPolicy, DropClaims] or [type(x) for x in found.changes] == [
        DropClaims,
        c.DropPolicy,
    ]
    assert not any(isinstance(x, (c.DisableRowSecurity, WriteClaims)) for x in found.changes)
    kept = diff_row_security([], {USERS: current}, ROLES, book(claims), {}, refused=frozenset({claim_key(USERS)}))
    assert kept.changes == []


# --- proofs ---

PROBED = entry(RowPolicy("p", roles=("app",), using="true"), expect=(Expectation("app", True),))
STANDING = table(RowPolicy("p", roles=("app",), using="(TRUE)"))
KNOWN = {"p": Canonical("true", None, "(TRUE)", None)}


def test_what_stands_is_proven_once() -> None:
    assert diff(PROBED, STANDING, claim(TableRecord(canonical=KNOWN))).unproven == [PROBED]
    proof = Proof(proof_key(PROBED, STANDING), passed=1)
    assert diff(PROBED, STANDING, claim(TableRecord(canonical=KNOWN, proof=proof))).unproven == []


def test_a_function_that_changed_is_proven_again() -> None:
    proof = Proof(proof_key(PROBED, STANDING), passed=1)
    changed = replace(STANDING, functions="other")
    assert diff(PROBED, changed, claim(TableRecord(canonical=KNOWN, proof=proof))).unproven == [PROBED]


def test_an_empty_table_is_proven_when_it_has_rows() -> None:
    proof = Proof(proof_key(PROBED, STANDING), not_probed=1)
    claims = claim(TableRecord(canonical=KNOWN, proof=proof))
    assert diff(PROBED, STANDING, claims).unproven == []
    assert diff(PROBED, replace(STANDING, rows=1), claims).unproven == [PROBED]
    later = claim(TableRecord(canonical=KNOWN, proof=replace(proof, rows=100)))
    assert diff(PROBED, replace(STANDING, rows=150), later).unproven == []
    assert diff(PROBED, replace(STANDING, rows=201), later).unproven == [PROBED]


def test_a_failed_proof_stays_a_problem() -> None:
    proof = Proof(proof_key(PROBED, STANDING), failed=1, notes=("role app sees 1 of 2 rows",))
    found = diff(PROBED, STANDING, claim(TableRecord(canonical=KNOWN, proof=proof)))
    assert found.problems[0].status.reason is Reason.ISOLATION_BROKEN
    assert found.unproven == []


def test_a_broken_declaration_is_put_back_and_not_tried_again() -> None:
    before = PreImage(True, False, (RowPolicy("p", roles=("app",), using="(ID = 1)"),))
    broken = Broken(PROBED.digest(), "isolation is broken", before)
    claims = claim(TableRecord(canonical=KNOWN, broken=broken, attempt=(PROBED.digest(), before)))
    found = diff(PROBED, STANDING, claims)
    assert [(x.name, x.using) for x in found.changes if isinstance(x, c.AlterPolicy)] == [("p", "(ID = 1)")]
    assert found.problems[0].status.message == "isolation is broken"
    restored = table(RowPolicy("p", roles=("app",), using="(ID = 1)"))
    again = diff(PROBED, restored, claims)
    assert (again.changes, again.unproven, len(again.problems)) == ([], [], 1)
    mended = replace(PROBED, policies=(RowPolicy("p", roles=("app",), using="id = 2"),))
    tried = diff(mended, restored, claims)
    assert [x.using for x in tried.changes if isinstance(x, c.AlterPolicy)] == ["id = 2"]
    assert tried.problems == []


def test_what_was_open_before_is_opened_once() -> None:
    broken = Broken(PROBED.digest(), "broken", PreImage())
    claims = claim(TableRecord(canonical=KNOWN, broken=broken, attempt=(PROBED.digest(), PreImage())))
    found = diff(PROBED, STANDING, claims)
    assert [type(x) for x in found.changes] == [c.DropPolicy, c.DisableRowSecurity]
    after = book(claims)
    diff_row_security([PROBED], {USERS: table(enabled=False)}, ROLES, after, {})
    record = record_of(book(after.new), claim_key(USERS))
    assert record.attempt is None
    # Somebody closes it by hand: that is not undone.
    assert diff(PROBED, table(enabled=True), after.new).changes == []


def test_records_survive_the_claim() -> None:
    record = TableRecord(
        "standing",
        KNOWN,
        Proof("s", 1, 2, 3, 4, ("note",)),
        Broken("d", "m", PreImage(True, True, (RowPolicy("p", "ALL", False, ("a", "b"), None, "x"),))),
        ("d", PreImage()),
    )
    assert record_of(book(claim(record)), claim_key(USERS)) == record
