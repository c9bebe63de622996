"""What several DatabaseSchemas on one database say of the database itself: the first of them decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from selvedge.core.postgres.model import DesiredDatabase
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus
from selvedge.engines.base import Member


def disagreements(
    database: DesiredDatabase, elder: Member, owner: str | None, settings: Mapping[str, str]
) -> Iterator[ObjectStatus]:
    """What a younger one declares of owner and settings and does not get, each as a conflict with ``elder``.

    The same word twice is none, and neither is an owner where ``elder`` names none: it is that of the younger one's
    schemas. Of kinds of their own: what else the younger one declares does not wait for it.
    """
    there = f"DatabaseSchema {elder.namespace}/{elder.name}, the first on it: declare it there, or remove it here"
    if None not in (owner, database.owner) and owner != database.owner:
        message = f"the owner of database {database.name} is not {owner}: that is up to {there}"
        yield _conflict(ObjectRef("databaseOwner", str(owner)), message)
    for name, value in sorted(settings.items()):
        if database.settings.get(name) != value:
            message = f"setting {name} of database {database.name} is not as declared here: that is up to {there}"
            yield _conflict(ObjectRef("databaseSetting", name), message)


def _conflict(ref: ObjectRef, message: str) -> ObjectStatus:
    return ObjectStatus(ref, ObjectState.CONFLICT, Reason.CONFLICT, message)
