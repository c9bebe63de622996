"""Sending the changes of a plan, one command at a time, each failure kept to the object that it is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymongo.errors import OperationFailure, PyMongoError

from selvedge.core.errors import TransientError
from selvedge.core.mongodb.changes import (
    Change,
    Command,
    CreateCollection,
    CreateIndex,
    IndexChange,
    MakeUnique,
    ReplaceIndex,
)
from selvedge.core.mongodb.diff import still_building
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus
from selvedge.engines.mongodb.bson_json import to_bson
from selvedge.engines.mongodb.builds import StillBuildingError
from selvedge.engines.mongodb.errors import (
    CANNOT_CONVERT_TO_UNIQUE,
    DUPLICATE_KEY,
    INDEX_KEY_SPECS_CONFLICT,
    INDEX_NOT_FOUND,
    INDEX_OPTIONS_CONFLICT,
    MAX_TIME_EXPIRED,
    NAMESPACE_EXISTS,
    NAMESPACE_NOT_FOUND,
    UNAUTHORIZED,
    connection_lost,
    server_message,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from selvedge.engines.mongodb.builds import Builds
    from selvedge.engines.mongodb.connect import Server
    from selvedge.engines.mongodb.lock import Lock

_GONE = frozenset({NAMESPACE_NOT_FOUND, INDEX_NOT_FOUND})
_LOCK_TIMEOUTS = frozenset({MAX_TIME_EXPIRED, 24, 46})


@dataclass
class Applied:
    """What became of the changes; ``restored`` are those whose old index had been dropped and is built again."""

    done: list[Change] = field(default_factory=list)
    failed: dict[ObjectRef, ObjectStatus] = field(default_factory=dict)
    restored: list[Change] = field(default_factory=list)

    def unmade(self, ref: ObjectRef) -> bool:
        """Whether the object could not be made, so that it is not ours: somebody may make it by hand."""
        return ref in self.failed and self.failed[ref].reason is not Reason.BUILDING_INDEX


async def apply_changes(
    server: Server,
    database: str,
    changes: Iterable[Change],
    lock: Lock,
    may_write: Callable[[], None],
    builds: Builds,
) -> Applied:
    """Apply changes in order. Raises only what is about the connection, the lock or the right to write.

    An index that takes long is done, since the server has begun with it, and stands in ``failed`` as one that waits.
    """
    result = Applied()
    broken: set[str] = set()
    for change in changes:
        if change.collection in broken:
            # createIndexes would make the missing collection, without its validator.
            result.failed[change.ref] = _waiting(
                change.ref, Reason.RECONCILING, f"{change.ref} waits for its collection, which could not be made"
            )
            continue
        failure = builds.take_failure(database, change.ref)
        if failure is not None:
            result.failed[change.ref] = explain(change, failure.error, server)
            await _restore(server, database, change.ref, failure.undo, may_write, builds)
            result.restored += [change] if failure.undo else []
            continue
        sent = 0
        try:
            for command in change.commands():
                lock.check()
                may_write()
                await _send(server, database, change.ref, command, builds, change.undo())
                sent += 1
        except StillBuildingError as building:
            result.failed[change.ref] = still_building(change.ref, queued=building.queued)
            if building.sent:
                result.done.append(change)
        except OperationFailure as error:
            if connection_lost(error):
                raise server.error(error, str(change.ref)) from None
            result.failed[change.ref] = explain(change, error, server)
            undo, replaced = _undo(database, change, builds, sent=sent > 0)
            await _restore(server, database, change.ref, undo, may_write, builds)
            result.restored += [change] if undo and replaced else []
            if isinstance(change, CreateCollection):
                broken.add(change.collection)
        except (PyMongoError, OSError) as error:
            raise server.error(error, str(change.ref)) from None
        else:
            result.done.append(change)
    return result


def _undo(database: str, change: Change, builds: Builds, *, sent: bool) -> tuple[tuple[Command, ...], bool]:
    """What puts back what a failed change has done already, and whether that is an index that it was to replace."""
    if (earlier := builds.take_failure(database, change.ref)) is not None:
        return earlier.undo, True  # the build of an earlier pass, which ended since this one looked
    return change.undo() if sent or isinstance(change, MakeUnique) else (), isinstance(change, ReplaceIndex)


async def _restore(
    server: Server,
    database: str,
    ref: ObjectRef,
    undo: Iterable[Command],
    may_write: Callable[[], None],
    builds: Builds,
) -> None:
    """Put back what a failed change of two steps has done already."""
    for command in undo:
        may_write()
        try:
            await _send(server, database, ref, command, builds)
        except StillBuildingError:
            return  # the server goes on with it
        except (PyMongoError, OSError) as error:
            raise server.error(error, f"restore {ref}") from None


async def _send(
    server: Server, database: str, ref: ObjectRef, command: Command, builds: Builds, undo: tuple[Command, ...] = ()
) -> None:
    """Send one command. The build of an index has no limit in time: StillBuildingError when it takes long.

    What is gone already need not be dropped.
    """
    document = to_bson(command)
    limits = server.target.limits
    if "createIndexes" in command:
        await builds.build(database, ref, document, undo)
        return
    # These wait for an exclusive lock on the collection, and everybody else waits behind them.
    limit = limits.lock_timeout if "collMod" in command else limits.statement_timeout
    try:
        await server.run(database, document, limit, read=False)
    except OperationFailure as error:
        if error.code not in _GONE or not {"drop", "dropIndexes"} & set(command):
            raise


def explain(change: Change, error: OperationFailure, server: Server) -> ObjectStatus:
    """The failure of one change, in words that say what to do."""
    ref, code = change.ref, error.code or 0
    if code in (DUPLICATE_KEY, CANNOT_CONVERT_TO_UNIQUE) and isinstance(change, IndexChange):
        return _failed(ref, Reason.STATEMENT_FAILED, _duplicates(change, error))
    if code in (INDEX_OPTIONS_CONFLICT, INDEX_KEY_SPECS_CONFLICT):
        return _failed(
            ref,
            Reason.CONFLICT,
            f"{ref} cannot be built beside an index that is there: {server_message(error)}; "
            "declare that one, or drop it by hand",
        )
    if code == NAMESPACE_EXISTS:
        message = f"{ref} was made by somebody else at this moment; looked at again by itself"
        return _waiting(ref, Reason.RECONCILING, message)
    if code in _LOCK_TIMEOUTS:
        message = (
            f"{ref} is in use and could not be changed within {server.target.limits.lock_timeout:g} s; "
            "tried again by itself"
        )
        return _waiting(ref, Reason.WAITING_FOR_LOCK, message)
    if code == UNAUTHORIZED:
        message = f"the operator's user may not change {ref}: grant it dbAdmin and readWrite on the database"
        return _failed(ref, Reason.INSUFFICIENT_PRIVILEGES, message)
    return _failed(ref, Reason.STATEMENT_FAILED, f"{ref} was refused by the server: {server_message(error)}")


def not_converged(database: str, residue: Iterable[Change]) -> TransientError:
    """The changes were applied and the database still differs."""
    names = sorted({str(change.ref) for change in residue})
    shown = ", ".join(names[:10]) + ("" if len(names) <= 10 else f" and {len(names) - 10} more")
    return TransientError(
        Reason.NOT_CONVERGED, f"database {database} was changed and still differs in {shown}; tried again by itself"
    )


def _duplicates(change: IndexChange, error: OperationFailure) -> str:
    """Which documents stand in the way: the query to find them, never the values, which may be anybody's."""
    details = error.details or {}
    fields = [str(name) for name in details.get("keyPattern") or {}]
    if not fields:
        index = change.desired if isinstance(change, CreateIndex | ReplaceIndex) else change.before
        fields = [name for name, _ in getattr(index, "keys", ())]
    group = ", ".join(f"{name.replace('.', '_')}: '${name}'" for name in fields)
    return (
        f"{change.ref} cannot be unique: several documents have the same {', '.join(fields)}; find them with "
        f"db.getCollection('{change.collection}').aggregate([{{$group: {{_id: {{{group}}}, n: {{$sum: 1}}}}}}, "
        "{$match: {n: {$gt: 1}}}]) and correct them"
    )


def _failed(ref: ObjectRef, reason: Reason, message: str) -> ObjectStatus:
    return ObjectStatus(ref, ObjectState.FAILED, reason, message)


def _waiting(ref: ObjectRef, reason: Reason, message: str) -> ObjectStatus:
    return ObjectStatus(ref, ObjectState.WAITING, reason, message)
