"""What this process knows of the resources: raw objects as last seen, by kind and namespace/name.

Filled by one LIST before any work begins, because a unit of work has to know all members of its database, and kept by
the watch. A watch that was interrupted never reports deletions, so the sweeper lists again now and then.

Thousands of objects are most of the process's memory, and they say much the same: what nobody reads is left out, and
equal keys and short texts are kept once for all of them. That makes 4 KiB of the 8 KiB that a small object takes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]

#: Who wrote which field, and kubectl's copy of the manifest: as large as the object, and of no use here.
_UNREAD = "managedFields"
_UNREAD_ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"
#: Longer texts (statements, bodies of functions) are hardly ever equal.
_SHARED_LENGTH = 128


@dataclass(slots=True)
class Store:
    """Objects by plural and (namespace, name)."""

    _objects: dict[str, dict[tuple[str, str], Object]] = field(default_factory=dict)
    _units: dict[tuple[str, str, str], set[tuple[str, str]]] = field(default_factory=dict)
    _ahead: dict[tuple[str, tuple[str, str]], int] = field(default_factory=dict)
    """The version of a status of ours that is known before the rest of its object."""

    def put(self, plural: str, obj: Mapping[str, Any]) -> Object | None:
        """Remember an object; returns the one that was there before. A version that is not newer is ignored."""
        key = key_of(obj)
        kind = self._objects.setdefault(plural, {})
        before = kind.get(key)
        if before is not None and not _newer(obj, before):
            return before
        # of Secrets and ConfigMaps only the version is kept, never the data
        parts = () if plural in ("secrets", "configmaps") else ("spec", "status")
        slim = {name: _slim(obj[name]) for name in ("apiVersion", "kind", *parts) if name in obj}
        slim["metadata"] = _slim(_read(obj["metadata"]))
        ahead = self._ahead.pop((plural, key), 0)
        if before is not None and version_of(slim) < ahead and _uid(before) == _uid(slim):
            slim["status"], self._ahead[plural, key] = before["status"], ahead
        kind[key] = slim
        if plural == "databaseschemas":
            self._index(before, remove=True)
            self._index(slim)
        return before

    def answered(self, plural: str, obj: Mapping[str, Any]) -> None:
        """Remember what the API server answered to a write of ours; nothing where the object is gone.

        Of one that holds a change of somebody else's (another spec, a deletion, a wish in an annotation) the status
        only, from which the next write is counted: the rest is for the watch to tell. What is known already is no
        change when the watch tells of it, and nothing would be done about it.
        """
        key = key_of(obj)
        known = self.get(plural, *key)
        if known is None:
            return
        if _others(known) == _others(obj):
            self.put(plural, obj)
        elif _uid(known) == _uid(obj) and _newer(obj, known) and version_of(obj) > self._ahead.get((plural, key), 0):
            self._objects[plural][key] = {**known, "status": _slim(obj.get("status") or {})}
            self._ahead[plural, key] = version_of(obj)

    def remove(self, plural: str, namespace: str, name: str) -> Object | None:
        """Forget an object; returns it."""
        self._ahead.pop((plural, (namespace, name)), None)
        found = self._objects.get(plural, {}).pop((namespace, name), None)
        if plural == "databaseschemas":
            self._index(found, remove=True)
        return found

    def get(self, plural: str, namespace: str, name: str) -> Object | None:
        """The object as last seen, or None."""
        return self._objects.get(plural, {}).get((namespace, name))

    def all(self, plural: str) -> Iterator[Object]:
        """Every object of a kind."""
        yield from list(self._objects.get(plural, {}).values())

    def unit(self, server: tuple[str, str], database: str) -> list[Object]:
        """All DatabaseSchemas on one database of one server (namespace, name)."""
        keys = sorted(self._units.get((*server, database), ()))
        return [self._objects["databaseschemas"][key] for key in keys]

    def units_of(self, server: tuple[str, str]) -> list[str]:
        """The databases of a server that DatabaseSchemas are about."""
        return sorted(key[2] for key, members in self._units.items() if key[:2] == server and members)

    def known(self, plural: str, namespace: str | None = None) -> dict[tuple[str, str], str]:
        """The uid of each object of a kind, in all namespaces or in one."""
        found = self._objects.get(plural, {}).items()
        return {key: str(obj["metadata"].get("uid")) for key, obj in found if namespace in (None, key[0])}

    def forget(self, plural: str, uids: Mapping[tuple[str, str], str]) -> list[Object]:
        """Forget these objects, as far as none of the same name was made since; returns them."""
        now = self.known(plural)
        found = [self.remove(plural, *key) for key, uid in uids.items() if now.get(key) == uid]
        return [obj for obj in found if obj is not None]

    def _index(self, obj: Object | None, *, remove: bool = False) -> None:
        if obj is None:
            return
        unit = unit_of(obj)
        members = self._units.setdefault(unit, set())
        if remove:
            members.discard(key_of(obj))
            if not members:
                del self._units[unit]
        else:
            members.add(key_of(obj))


def key_of(obj: Mapping[str, Any]) -> tuple[str, str]:
    """Namespace and name."""
    metadata = obj["metadata"]
    return str(metadata.get("namespace", "")), str(metadata["name"])


def unit_of(obj: Mapping[str, Any]) -> tuple[str, str, str]:
    """Of a raw DatabaseSchema: the server's namespace and name, and the database."""
    spec = obj.get("spec") or {}
    ref = spec.get("serverRef") or {}
    namespace = ref.get("namespace") or obj["metadata"].get("namespace", "")
    return str(namespace), str(ref.get("name", "")), str(spec.get("database", ""))


def _newer(obj: Mapping[str, Any], than: Mapping[str, Any]) -> bool:
    # KEP-5504 (1.35): resource versions of one kind can be compared as numbers, also of an object and of the one that
    # was there before it under its name: Kopf keeps the order of one uid only, and what it tells late is not news.
    new, old = (str(o["metadata"].get("resourceVersion", "")) for o in (obj, than))
    return not (new.isdecimal() and old.isdecimal()) or int(new) > int(old)


def _uid(obj: Mapping[str, Any]) -> str:
    return str(obj["metadata"].get("uid", ""))


def version_of(obj: Mapping[str, Any]) -> int:
    """The resource version as a number; 0 for one that is none."""
    text = str(obj["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdecimal() else 0


def _others(obj: Mapping[str, Any]) -> tuple[object, ...]:
    """What others than this operator change: the operator writes status and finalizers."""
    metadata = _read(obj["metadata"])
    return tuple(metadata.get(name) for name in ("uid", "generation", "deletionTimestamp", "annotations"))


def _slim(value: Any) -> Any:
    """A copy of a part of an object in which equal keys and short texts are kept once for all objects."""
    if isinstance(value, str):
        return sys.intern(value) if len(value) <= _SHARED_LENGTH else value
    if isinstance(value, dict):
        return {sys.intern(key): _slim(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_slim(inner) for inner in value]
    return value


def _read(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata without what nobody reads."""
    kept = {name: value for name, value in metadata.items() if name != _UNREAD}
    if annotations := kept.get("annotations"):
        kept["annotations"] = {name: text for name, text in annotations.items() if name != _UNREAD_ANNOTATION}
    return kept
