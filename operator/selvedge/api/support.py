"""What a declaration may say already and this version does not act on yet.

The schema is whole from the beginning, so that manifests and tools need not change later. A part that nothing acts on
must not be called Ready: reconcile asks here first and says ``Unsupported`` with the names of the fields.
"""

from __future__ import annotations

from collections.abc import Iterator

from selvedge.api.base import Model
from selvedge.api.databaseschema import DatabaseSchemaSpec
from selvedge.api.mongodb import MongoDatabase


def unsupported(spec: Model) -> tuple[str, ...]:
    """The paths of declared fields that this version does not act on, in the order of the declaration.

    List entries are named by their key: ``spec.postgres.roles[app].renamedFrom``. Empty when everything is acted on.
    """
    if isinstance(spec, DatabaseSchemaSpec):
        return tuple(_database_schema(spec))
    return ()


def _database_schema(spec: DatabaseSchemaSpec) -> Iterator[str]:
    if spec.mongodb is not None:
        yield from _mongodb("spec.mongodb", spec.mongodb)


def _mongodb(path: str, mongodb: MongoDatabase) -> Iterator[str]:
    if mongodb.roles:
        yield f"{path}.roles"
