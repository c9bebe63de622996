"""What of a plan is made at once, what waits, and what an approval is for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from selvedge.core.postgres import changes as c
from selvedge.core.postgres.gate import Policy, approved, digest, split, told, without_failed
from selvedge.core.postgres.model import Claim
from selvedge.core.unit import ObjectRef

ROLE = ObjectRef("role", "app")
SCHEMA = ObjectRef("schema", "old")
CREATE = c.CreateRole(ROLE, "u1", "app")
REVOKE = c.RevokeRole(ROLE, "u1", "app", "other")
DROP = c.DropSchema(SCHEMA, "u1", "old")
CLAIM = Claim("role:app", "k", "shop/one", "u1")
WRITE = c.WriteClaims(ObjectRef("database", "shop"), "u1", (CLAIM, Claim("schema:old", "k", "shop/one", "u1")))


def gate(
    policy: Policy, *changes: c.Change, granted: tuple[c.Change, ...] = (), plan: bool = False
) -> tuple[list[c.Change], list[c.Change]]:
    return split(changes, {"u1": policy}, granted, plan)


def test_additive_and_narrowing_changes_are_made_and_destructive_ones_wait() -> None:
    now, waiting = gate(Policy("shop/one"), CREATE, REVOKE, DROP)
    assert (now, waiting) == ([CREATE, REVOKE], [DROP])
    now, waiting = gate(Policy("shop/one", destructive=True), CREATE, DROP)
    assert (now, waiting) == ([CREATE, DROP], [])


@pytest.mark.parametrize("policy", [Policy("shop/one", automatic=False), Policy("shop/one", False, destructive=True)])
def test_nothing_is_made_before_its_approval(policy: Policy) -> None:
    assert gate(policy, CREATE, DROP, WRITE) == ([], [CREATE, DROP])
    now, waiting = gate(policy, CREATE, DROP, granted=(CREATE, DROP))
    assert (now, waiting) == ([CREATE, DROP], [])
    now, waiting = gate(policy, CREATE, REVOKE, granted=(CREATE,))
    assert (now, waiting) == ([CREATE], [REVOKE]), "what was not in the approved plan waits"


def test_drift_is_only_reported_once_the_generation_was_verified() -> None:
    assert gate(Policy("shop/one", report_drift=True), CREATE) == ([CREATE], [])
    assert gate(Policy("shop/one", report_drift=True, verified=True), CREATE) == ([], [CREATE])


def test_a_plan_makes_nothing() -> None:
    assert gate(Policy("shop/one", destructive=True), CREATE, DROP, WRITE, granted=(CREATE,), plan=True) == (
        [],
        [CREATE, DROP],
    )


def test_the_claim_of_what_waits_waits_too() -> None:
    now, _ = gate(Policy("shop/one"), CREATE, DROP, WRITE)
    assert now == [CREATE, c.WriteClaims(WRITE.ref, "u1", (CLAIM,))]


def test_the_claim_of_a_role_does_not_wait_for_what_others_gave_to_it() -> None:
    """With ``grantMode: Authoritative`` a role is ours before a person has said what it loses."""
    beyond = c.RevokePrivileges(ROLE, "u1", c.Privileges("table", "a", ("t",), ("SELECT",), "app"))
    now, waiting = split([CREATE, beyond, WRITE], {"u1": Policy("shop/one")}, (), False, {beyond})
    assert (now, waiting) == ([CREATE, WRITE], [beyond])
    now, waiting = split([CREATE, REVOKE, WRITE], {"u1": Policy("shop/one")}, (), False, {REVOKE})
    assert waiting == [REVOKE]
    assert WRITE not in now, "what was given to it by name is remembered as a whole"


def test_what_takes_from_others_waits_until_it_was_verified_once() -> None:
    def taking(policy: Policy, granted: tuple[c.Change, ...] = ()) -> list[c.Change]:
        return split([REVOKE], {"u1": policy}, granted, False, {REVOKE})[1]

    assert taking(Policy("shop/one")) == [REVOKE]
    assert taking(Policy("shop/one"), (REVOKE,)) == []
    assert taking(Policy("shop/one", verified=True)) == []
    assert taking(Policy("shop/one", destructive=True)) == []
    assert taking(Policy("shop/one", automatic=False, destructive=True)) == [REVOKE]


def test_an_approval_is_for_one_plan_of_one_member() -> None:
    other = c.CreateRole(ROLE, "u2", "app")
    policies = {"u1": Policy("shop/one", approved="sha256:a"), "u2": Policy("shop/two", approved="")}
    assert approved([CREATE, other], policies, {"u1": "sha256:a", "u2": ""}) == [CREATE]
    assert approved([CREATE, other], policies, {"u1": "sha256:b", "u2": ""}) == []


def test_the_digest_names_server_database_statements_what_they_replace_and_their_order() -> None:
    a, b = ("a", ""), ("b", "")
    found = {
        digest("1", "shop", changes)
        for changes in ([a, b], [b, a], [("ab", "")], [("a", "owner x"), b], [("a", "owner y"), b])
    }
    assert len(found | {digest("2", "shop", [a, b]), digest("1", "x", [a, b])}) == 7
    assert all(one.startswith("sha256:") for one in found)
    assert digest("1", "shop", [a, b]) == digest("1", "shop", iter([a, b]))


def test_a_failed_setting_leaves_its_role_and_a_failed_creation_takes_all_with_it() -> None:
    setting = c.SetRoleSetting(ROLE, "u1", "app", "statement_timeout", "nonsense")
    comment = c.CommentRole(ROLE, "u1", "app", "text")
    policies = {"u1": Policy("shop/one")}
    everything = [CREATE, comment, setting, WRITE]
    assert without_failed(everything, [setting], policies) == [CREATE, comment, WRITE]
    kept = without_failed(everything, [CREATE], policies)
    assert kept == [c.WriteClaims(WRITE.ref, "u1", WRITE.claims[1:])]


def test_a_database_is_not_tried_when_its_owner_could_not_be_made() -> None:
    ref = ObjectRef("database", "shop")
    owned = c.CreateDatabase(ref, "u1", "shop", "app")
    claims = c.WriteClaims(ref, "u1", (Claim("database:shop", "cluster", "shop/one", "u1"),))
    policies = {"u1": Policy("shop/one")}
    assert without_failed([CREATE, owned, claims], [CREATE], policies) == []
    other = c.CreateDatabase(ref, "u1", "shop", "somebody")
    assert without_failed([CREATE, other, claims], [CREATE], policies) == [other, claims]


REFUSES = Policy("shop/one", refuses="spec.destructive")
LOSS = c.DropExtension(ObjectRef("extension", "old"), "u1", "old")
KEPT = c.WriteClaims(WRITE.ref, "u1", (CLAIM, Claim("extension:old", "k", "shop/one", "u1")))


def test_what_is_refused_waits_whoever_approved_it_and_its_claim_with_it() -> None:
    everything = (CREATE, REVOKE, LOSS)
    assert gate(REFUSES, *everything) == ([CREATE, REVOKE], [LOSS])
    assert gate(REFUSES, *everything, granted=everything) == ([CREATE, REVOKE], [LOSS])
    asking = replace(REFUSES, automatic=False)
    assert gate(asking, *everything, granted=everything) == ([CREATE, REVOKE], [LOSS])
    now, _ = gate(REFUSES, CREATE, LOSS, KEPT, granted=everything)
    assert now == [CREATE, c.WriteClaims(WRITE.ref, "u1", (CLAIM,))]


def test_a_schema_that_the_server_drops_only_while_it_is_empty_goes_with_an_approval_where_losses_are_refused() -> None:
    assert gate(REFUSES, DROP) == ([], [DROP])
    assert not told(DROP, REFUSES)
    assert gate(REFUSES, DROP, LOSS, granted=(DROP, LOSS)) == ([DROP], [LOSS])
    full = replace(DROP, cascade=True)
    assert gate(REFUSES, full, granted=(full,)) == ([], [full])


def test_what_is_refused_for_ever_keeps_no_claim_of_what_matches_from_being_written() -> None:
    kept = c.WriteClaims(WRITE.ref, "u1", (CLAIM,))
    assert gate(REFUSES, LOSS, KEPT) == ([kept], [LOSS])
    assert gate(REFUSES, LOSS, KEPT, plan=True) == ([], [LOSS])
    asking = replace(REFUSES, automatic=False)
    assert gate(asking, CREATE, LOSS, KEPT) == ([], [CREATE, LOSS]), "what waits for an approval comes first"


def test_a_refusal_is_told_but_where_drift_is_only_reported() -> None:
    assert [told(change, REFUSES) for change in (CREATE, REVOKE, LOSS)] == [False, False, True]
    assert not told(LOSS, Policy("shop/one"))
    assert told(LOSS, replace(REFUSES, report_drift=True)), "no drift before the generation was verified"
    assert not told(LOSS, replace(REFUSES, report_drift=True, verified=True))
