"""The Secrets that resources name: are they there, with their keys? Values are dropped as soon as they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from selvedge.cli.doctor_resources import Objects, ref_of
from selvedge.cli.findings import Finding, Ref, Report, Severity
from selvedge.core.reasons import Reason
from selvedge.kube.client import KubeClient
from selvedge.kube.errors import KubeError
from selvedge.kube.resources import SECRETS

_LABEL = "selvedge.dev/watch"


@dataclass(frozen=True, slots=True)
class Named:
    """A Secret that a field of a resource names, and the keys that have to be in it."""

    user: Ref
    field: str
    name: str
    keys: tuple[str, ...]


async def examine(kube: KubeClient, report: Report, objects: Objects, *, watched: bool) -> None:
    """Look for each Secret that is named; what the status says already is not said twice. Raises KubeError.

    ``watched``: the operator watches Secrets, so that a label on one has a meaning.
    """
    held: dict[tuple[str, str], tuple[set[str], bool] | None] = {}
    for named in _named(objects):
        at = (named.user.namespace, named.name)
        try:
            if at not in held:
                held[at] = await _keys(kube, *at)
        except KubeError as error:
            if error.code != 403:
                raise
            text = f"the Secrets of namespace {at[0]}: you may not read them"
            if text not in report.unchecked:
                report.unchecked.append(text)
            continue
        _judge(report, named, held[at], watched=watched)


async def _keys(kube: KubeClient, namespace: str, name: str) -> tuple[set[str], bool] | None:
    """The keys of a Secret, and whether it has the label of those that are watched; None where it does not exist."""
    found = await kube.get(SECRETS, namespace, name)
    if found is None:
        return None
    labels = found["metadata"].get("labels") or {}
    return set(found.get("data") or {}), labels.get(_LABEL) == "true"


def _judge(report: Report, named: Named, held: tuple[set[str], bool] | None, *, watched: bool) -> None:
    known = report.of(named.user)
    if known is not None and known.reason in (Reason.SECRET_NOT_FOUND, Reason.SECRET_KEY_MISSING):
        return
    if held is None:
        message = f"secret {named.name}, named in {named.field}, does not exist"
        label = f", labelled {_LABEL}=true" if watched else ""
        step = f"create it in namespace {named.user.namespace}{label}, or correct {named.field}"
        report.add(Finding(Severity.ERROR, named.user, str(Reason.SECRET_NOT_FOUND), message, step))
        return
    keys, labelled = held
    missing = [key for key in named.keys if key not in keys]
    if missing:
        have = ", ".join(sorted(keys)) or "none"
        message = f"secret {named.name}, named in {named.field}, has no key {', '.join(missing)} (it has {have})"
        step = "add it, or name the right one beside the reference"
        report.add(Finding(Severity.ERROR, named.user, str(Reason.SECRET_KEY_MISSING), message, step))
    elif watched and not labelled:
        message = f"a change of secret {named.name} is seen with the next pass only: it lacks the label {_LABEL}=true"
        step = f"kubectl -n {named.user.namespace} label secret {named.name} {_LABEL}=true"
        report.add(Finding(Severity.NOTICE, named.user, "SecretNotWatched", message, step))


def _named(objects: Objects) -> Iterator[Named]:
    for obj in objects["DatabaseServer"]:
        yield from _of_server(ref_of(obj), obj.get("spec") or {})
    for obj in objects["DatabaseUser"]:
        ref = ((obj.get("spec") or {}).get("password") or {}).get("secretRef") or {}
        if ref:
            yield Named(
                ref_of(obj), "spec.password.secretRef", str(ref.get("name")), (str(ref.get("key") or "password"),)
            )


def _of_server(user: Ref, spec: Mapping[str, Any]) -> Iterator[Named]:
    credentials, tls = spec.get("credentials") or {}, spec.get("tls") or {}
    keys = credentials.get("keys") or {}
    if keys.get("uri"):  # holds user and password, or leaves them to keys of their own
        wanted = [str(keys["uri"])]
    else:
        wanted = [str(keys.get("username") or "username"), str(keys.get("password") or "password")]
        wanted += [] if spec.get("hosts") else [str(keys.get("host") or "host")]
    wanted += [str(keys["port"])] if keys.get("port") else []
    yield Named(
        user, "spec.credentials.secretRef", str((credentials.get("secretRef") or {}).get("name")), tuple(wanted)
    )
    if tls.get("caSecretRef"):
        ref = tls["caSecretRef"]
        yield Named(user, "spec.tls.caSecretRef", str(ref.get("name")), (str(ref.get("key") or "ca.crt"),))
    if tls.get("clientCertificateSecretRef"):
        name = str(tls["clientCertificateSecretRef"].get("name"))
        yield Named(user, "spec.tls.clientCertificateSecretRef", name, ("tls.crt", "tls.key"))
