"""What this process knows of the resources: raw objects as last seen, by kind and namespace/name.

Filled by one LIST before any work begins, because a unit of work has to know all members of its database, and kept by
the watch. A watch that was interrupted never reports deletions, so the sweeper lists again now and then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(slots=True)
class Store:
    """Objects by plural and (namespace, name)."""

    _objects: dict[str, dict[tuple[str, str], Object]] = field(default_factory=dict)
    _units: dict[tuple[str, str, str], set[tuple[str, str]]] = field(default_factory=dict)

    def put(self, plural: str, obj: Mapping[str, Any]) -> Object | None:
        """Remember an object; returns the one that was there before. An older version than the known one is ignored."""
        key = key_of(obj)
        kind = self._objects.setdefault(plural, {})
        before = kind.get(key)
        if before is not None and _older(obj, before):
            return before
        slim = {name: obj[name] for name in ("apiVersion", "kind", "metadata", "spec", "status") if name in obj}
        if plural in ("secrets", "configmaps"):
            slim.pop("spec", None)  # of Secrets and ConfigMaps only the version is kept, never the data
        else:
            slim["metadata"] = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
        kind[key] = slim
        if plural == "databaseschemas":
            self._index(before, remove=True)
            self._index(slim)
        return before

    def remove(self, plural: str, namespace: str, name: str) -> Object | None:
        """Forget an object; returns it."""
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

    def keep_only(self, plural: str, keys: set[tuple[str, str]]) -> list[Object]:
        """Forget what a fresh LIST does not show any more; returns it."""
        gone = [key for key in self._objects.get(plural, {}) if key not in keys]
        found = [self.remove(plural, *key) for key in gone]
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


def _older(obj: Mapping[str, Any], than: Mapping[str, Any]) -> bool:
    if obj["metadata"].get("uid") != than["metadata"].get("uid"):
        return False
    # KEP-5504 (1.35): resource versions of one resource can be compared as numbers.
    new, old = (str(o["metadata"].get("resourceVersion", "")) for o in (obj, than))
    return new.isdecimal() and old.isdecimal() and int(new) < int(old)
