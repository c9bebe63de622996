"""A refusal of the API server as one plain sentence, and what a set of rules lacks."""

from __future__ import annotations

import pytest

from selvedge.core.rights import RIGHTS, lacking, named, refusal

_USER = "system:serviceaccount:ops:selvedge"


def _said(verb: str, resource: str, group: str, where: str, user: str = _USER) -> str:
    """As the API server says it."""
    return f'x is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "{group}" {where}'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            _said("get", "secrets", "", 'in the namespace "shop"'),
            f"{_USER} may not get secrets in namespace shop: helm upgrade gives",
        ),
        (
            _said("list", "databaseschemas", "selvedge.dev", "at the cluster scope"),
            f"{_USER} may not list databaseschemas.selvedge.dev in all namespaces: helm upgrade",
        ),
        (
            _said(
                "patch",
                "databaseschemas/status",
                "selvedge.dev",
                'in the namespace "a": RBAC: clusterrole "x" not found',
            ),
            "may not patch databaseschemas.selvedge.dev/status in namespace a: ",
        ),
        (
            _said("patch", "databaseschemas", "selvedge.dev", 'in the namespace "shop"', "anna"),
            "anna may not patch databaseschemas.selvedge.dev in namespace shop: ask for a role that has it",
        ),
    ],
)
def test_a_refusal_names_who_what_where_and_the_next_step(text, told):
    assert told in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        'pods "a" is forbidden: exceeded quota: small, requested: pods=1',
        'secrets "a" is forbidden: unable to create new content in namespace shop because it is being terminated',
        "anna may not set spec.approvedPlan of databaseschemas shop/a: that needs the verb approve",
        "",
    ],
)
def test_a_403_about_something_else_is_left_as_it_is(text):
    assert refusal(text) == ""


def test_rules_that_give_everything_lack_nothing():
    rules = [{"apiGroups": [r.group], "resources": [r.resource], "verbs": list(r.verbs)} for r in RIGHTS]
    assert lacking(rules, RIGHTS) == []
    assert lacking([{"apiGroups": ["*"], "resources": ["*", "*/status"], "verbs": ["*"]}], RIGHTS) == []
    for index, right in enumerate(RIGHTS):
        found = lacking([*rules[:index], *rules[index + 1 :]], RIGHTS)
        assert {(one.group, one.resource, verb) for one, verb in found} == set(right.each())


def test_a_rule_for_single_names_gives_nothing():
    rule = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    assert lacking([rule], RIGHTS) == []
    assert len(lacking([{**rule, "resourceNames": ["one"]}], RIGHTS)) == sum(len(right.verbs) for right in RIGHTS)


def test_resources_are_named_as_kubectl_does():
    assert named("selvedge.dev", "databaseschemas/status") == "databaseschemas.selvedge.dev/status"
    assert named("", "secrets") == "secrets"
