"""Decoding a custom resource: from the mapping that the Kubernetes API or a file gives to a frozen declaration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from selvedge.api import databaseschema, databaseserver, databaseuser, migrationrun
from selvedge.api.base import API_VERSION, Kind, Model
from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason

S = TypeVar("S", bound=Model)

KINDS: Mapping[str, Kind] = MappingProxyType(
    {module.KIND.kind: module.KIND for module in (databaseserver, databaseschema, databaseuser, migrationrun)}
)
"""Every kind of the API by its name."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_SHOWN_PROBLEMS = 5
_EXTRA = "extra_forbidden"


def _nothing() -> Mapping[str, Any]:
    return _NOTHING


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the operator reads of ``metadata``."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    labels: Mapping[str, str] = field(default_factory=_nothing)
    annotations: Mapping[str, str] = field(default_factory=_nothing)
    finalizers: tuple[str, ...] = ()

    @property
    def deleting(self) -> bool:
        """True once the API server has been asked to delete the object."""
        return bool(self.deletion_timestamp)


@dataclass(frozen=True, slots=True)
class Resource(Generic[S]):
    """A custom resource: its declaration decoded, its status as it stands in the API."""

    kind: str
    metadata: Metadata
    spec: S
    status: Mapping[str, Any] = field(default_factory=_nothing)

    def __str__(self) -> str:
        """Kind, namespace and name, as messages show them."""
        where = f"{self.metadata.namespace}/" if self.metadata.namespace else ""
        return f"{self.kind} {where}{self.metadata.name}"


def parse(document: Mapping[str, Any], *, strict: bool) -> Resource[Any]:
    """Decode a custom resource of any kind of this API.

    ``strict`` refuses unknown fields, as the command line does with files; without it they are left out, so that an
    object stored by another version is decoded. Raises InvalidError, whose message names each field that is wrong.
    """
    name = str(document.get("kind", ""))
    kind = KINDS.get(name)
    if kind is None:
        raise InvalidError(Reason.INVALID_SPEC, f"kind {name[:63]!r} is unknown: use one of {', '.join(KINDS)}")
    if document.get("apiVersion") != API_VERSION:
        raise InvalidError(
            Reason.INVALID_SPEC, f"{name} has apiVersion {str(document.get('apiVersion'))[:63]!r}: write {API_VERSION}"
        )
    metadata = _metadata(name, document.get("metadata"))
    if strict:
        unknown = sorted(set(document) - {"apiVersion", "kind", "metadata", "spec", "status"})
        if unknown:
            raise InvalidError(
                Reason.INVALID_SPEC, f"{name} {metadata.name}: {unknown[0]}: unknown field; correct or remove it"
            )
    spec = parse_spec(kind, document.get("spec"), strict=strict, whose=f"{name} {metadata.name}")
    return Resource(name, metadata, spec, document.get("status") or _NOTHING)


def parse_spec(kind: Kind, spec: object, *, strict: bool, whose: str = "") -> Any:
    """Decode the ``spec`` of one kind alone; raises InvalidError, whose message begins with ``whose``."""
    if not isinstance(spec, Mapping):
        raise InvalidError(Reason.INVALID_SPEC, f"{whose or kind.kind}: spec is missing: write it")
    try:
        return kind.spec.model_validate(
            spec if isinstance(spec, dict) else dict(spec),
            extra="forbid" if strict else "ignore",
            by_alias=True,
            by_name=False,
        )
    except ValidationError as error:
        raise InvalidError(Reason.INVALID_SPEC, f"{whose or kind.kind}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Each problem as ``path: what is wrong``, the first five, never the input: a password may have slipped into it."""
    problems = [_problem(dict(detail)) for detail in error.errors(include_url=False, include_input=False)]
    shown = "; ".join(dict.fromkeys(problems[:_SHOWN_PROBLEMS]))
    rest = len(problems) - _SHOWN_PROBLEMS
    return f"{shown}; and {rest} more" if rest > 0 else shown


def _problem(detail: dict[str, Any]) -> str:
    path = "spec"
    for step in detail["loc"]:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    if detail["type"] == _EXTRA:
        return f"{path}: unknown field; correct or remove it"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{path}: {message[:1].lower()}{message[1:]}"


def _metadata(kind: str, document: object) -> Metadata:
    if not isinstance(document, Mapping) or not isinstance(document.get("name"), str) or not document["name"]:
        raise InvalidError(Reason.INVALID_SPEC, f"{kind}: metadata.name is missing: give it a name")
    return Metadata(
        name=document["name"],
        namespace=document.get("namespace") or "",
        uid=document.get("uid") or "",
        generation=document.get("generation") or 0,
        resource_version=document.get("resourceVersion") or "",
        creation_timestamp=document.get("creationTimestamp") or "",
        deletion_timestamp=document.get("deletionTimestamp") or "",
        labels=document.get("labels") or _NOTHING,
        annotations=document.get("annotations") or _NOTHING,
        finalizers=tuple(document.get("finalizers") or ()),
    )
