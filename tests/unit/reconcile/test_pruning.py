"""What is remembered of resources goes with them, passwords first of all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from selvedge.core.redact import Redactor
from selvedge.reconcile.context import Context
from selvedge.reconcile.pruning import Pruning
from selvedge.reconcile.store import Store

#: Kind, name and spec of each resource, all in one namespace; each names one Secret more than the one before.
RESOURCES: tuple[tuple[str, str, dict[str, Any], dict[str, Any]], ...] = (
    ("databaseservers", "main", {"credentials": {"secretRef": {"name": "main-admin"}}}, {}),
    ("databaseschemas", "shop", {"migrations": {"runAs": {"secretRef": {"name": "shop-login"}}}}, {}),
    ("databaseusers", "app", {}, {"binding": {"name": "app-former"}}),
    ("databaseusers", "own", {"secret": {"name": "own-login"}, "password": {"secretRef": {"name": "own-given"}}}, {}),
)
SECRETS = {
    "main": ["main-admin"],
    "shop": ["shop-login"],
    "app": ["app-db", "app-former"],
    "own": ["own-login", "own-given"],
}


def _remembering() -> Context:
    """What a context has of :data:`RESOURCES` after some passes."""
    redactor, store = Redactor(), Store()
    context = SimpleNamespace(store=store, redactor=redactor, sources={}, drifted={}, unsaid={}, cleaned=set())
    context.images, context.failures, context.secrets_seen, context.namespace_labels = {}, {}, {}, {}
    for plural, name, spec, status in RESOURCES:
        metadata = {"namespace": "fashion", "name": name, "uid": f"uid-{name}", "resourceVersion": "1"}
        store.put(plural, {"metadata": metadata, "spec": spec, "status": status})
        for memory in (context.sources, context.drifted, context.unsaid):
            memory[f"uid-{name}"] = ()
        context.cleaned.add(f"uid-{name}")
        context.images[f"uid-{name}", "job"] = {}
        context.failures["image", f"uid-{name}", "job"] = 3
        for secret in SECRETS[name]:
            context.secrets_seen["fashion", secret] = (f"marked-{secret}",)
            redactor.add(f"marked-{secret}")
    context.namespace_labels["fashion"] = (0.0, {})
    context.failures["server", "fashion", "main"] = 1
    return cast("Context", context)


def _told(context: Context) -> set[str]:
    """The Secrets whose password would be shown."""
    every = [name for names in SECRETS.values() for name in names]
    return {name for name in every if f"marked-{name}" in context.redactor.redact(f"it is marked-{name}!")}


def test_what_belongs_to_resources_that_are_there_stays() -> None:
    context = _remembering()
    pruning = Pruning(context)
    for _ in range(3):
        pruning.prune()
    assert _told(context) == set()
    assert len(context.secrets_seen) == 6
    kept = (context.sources, context.drifted, context.unsaid, context.cleaned, context.images)
    assert [len(memory) for memory in kept] == [4] * 5
    assert len(context.failures) == 5
    assert context.namespace_labels


def test_what_belonged_to_resources_that_are_gone_goes_at_the_second_look() -> None:
    context = _remembering()
    pruning = Pruning(context)
    pruning.prune()
    for number, (plural, name, _, _) in enumerate(RESOURCES, 1):
        before = _told(context)
        context.store.remove(plural, "fashion", name)
        pruning.prune()
        assert _told(context) == before, "a pass may still be under way"
        pruning.prune()
        assert _told(context) == before | set(SECRETS[name])
        for memory in (context.sources, context.drifted, context.unsaid, context.cleaned, context.images):
            assert len(memory) == 4 - number
    assert context.failures == {("server", "fashion", "main"): 1}
    assert not context.secrets_seen
    assert not context.namespace_labels


def test_a_secret_that_another_resource_names_stays() -> None:
    context = _remembering()
    second = {"namespace": "fashion", "name": "second", "uid": "uid-second", "resourceVersion": "1"}
    spec = {"credentials": {"secretRef": {"name": "main-admin"}}}
    context.store.put("databaseservers", {"metadata": second, "spec": spec})
    context.store.remove("databaseservers", "fashion", "main")
    pruning = Pruning(context)
    for _ in range(3):
        pruning.prune()
    assert _told(context) == set()
