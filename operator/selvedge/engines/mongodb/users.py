"""The users of DatabaseUsers in one MongoDB database, made and changed under its lock.

MongoDB takes a password only as it is and makes the SCRAM credentials itself; the server keeps it out of its log and
profiler. What it keeps is compared with the password at each look, where the operator's user may see it; elsewhere it
is tried to log in with it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure, PyMongoError

from selvedge.core.errors import InvalidError, RefusedError, SelvedgeError, TransientError
from selvedge.core.mongodb.user_diff import (
    ADMINISTRATIVE,
    CLAIM,
    MECHANISM,
    SYSTEM,
    RoleState,
    UserChange,
    UserState,
    check,
    claim_of,
    diff,
    is_ours,
    previous,
    wanted_names,
)
from selvedge.core.reasons import Reason
from selvedge.core.scram import derive, saslprep
from selvedge.core.unit import ChangeSummary, ObjectRef
from selvedge.core.users import Account, LoginResult, Removal, RoleRef
from selvedge.engines.logins import Alive, OnDrift
from selvedge.engines.mongodb import claims
from selvedge.engines.mongodb.connect import Server, operation
from selvedge.engines.mongodb.errors import AUTHENTICATION_FAILED, UNAUTHORIZED
from selvedge.engines.mongodb.lock import Lock, locked
from selvedge.engines.mongodb.migrations import user_name

if TYPE_CHECKING:
    from selvedge.engines.base import Observer

_USER_NOT_FOUND = 11

Users = Mapping[str, UserState]
Roles = Mapping[RoleRef, RoleState]


class MongoLogins:
    """See :class:`selvedge.engines.logins.Logins`."""

    def __init__(self, server: Server, observer: Observer, metadata: str) -> None:
        self._server = server
        self._observer = observer
        self._metadata = metadata

    async def converge(
        self, account: Account, may_write: Callable[[], None], *, alive: Alive, on_drift: OnDrift | None = None
    ) -> LoginResult:
        """See :meth:`selvedge.engines.logins.Logins.converge`."""
        self._check_account(account)
        users, roles = await self._look(account, "snapshot")
        check(account, users, roles, alive)
        found = diff(account, users)
        if not found:
            return _result(account, users, (), ())
        drift = tuple(dict.fromkeys(x.ref for x in found if not x.bookkeeping and x.verb != "dropUser"))
        drift = drift if account.verified else ()
        if drift and on_drift is not None:
            await on_drift(drift)
        patience = self._server.target.limits.lock_timeout
        async with locked(self._server, self._metadata, account.database, patience) as lock:
            users, roles = await self._look(account, "snapshot")
            check(account, users, roles, alive)
            changes = diff(account, users)
            for change in changes:
                await self._send(account, change, users, lock, may_write)
            after, _ = await self._look(account, "verify")
        left = diff(account, after)
        if left:
            names = ", ".join(change.summary() for change in left)
            message = f"the users of database {account.database} were changed and still differ: {names}"
            raise TransientError(Reason.NOT_CONVERGED, message)
        return _result(account, after, changes, drift)

    async def remove(self, account: Account, may_write: Callable[[], None]) -> Removal:
        """See :meth:`selvedge.engines.logins.Logins.remove`; the server ends the sessions of a user that is dropped."""
        users, _ = await self._look(account, "snapshot")
        mine = [state for name in account.names if (state := users.get(name)) and is_ours(account, state)]
        if not mine:
            return Removal()
        patience = self._server.target.limits.lock_timeout
        removed, retained = [], []
        async with locked(self._server, self._metadata, account.database, patience) as lock:
            for state in mine:
                ref = ObjectRef("login", state.name)
                if state.claim.get("created"):
                    await self._send(account, UserChange(ref, "dropUser"), users, lock, may_write)
                    removed.append(state.name)
                else:
                    await self._release(account, state, lock, may_write)
                    retained.append(state.name)
        return Removal(tuple(removed), tuple(retained))

    def _check_account(self, account: Account) -> None:
        database = account.database
        if claims.is_metadata(database, self._metadata):
            raise InvalidError(Reason.INVALID_SPEC, claims.own_database(database))
        target = self._server.target
        own = {user_name(database)} | ({target.username} if target.auth_source == database else set())
        for name in wanted_names(account):
            if name in own:
                message = f"user {name} of database {database} is the operator's own: choose another username"
                raise RefusedError(Reason.FORBIDDEN_NAME, message)
        if account.password:
            try:
                saslprep(account.password)
            except ValueError:
                message = (
                    f"the password of login {account.base} holds a character that MongoDB's drivers refuse (SASLprep): "
                    "choose another"
                )
                raise InvalidError(Reason.INVALID_SPEC, message) from None

    # -- looking -------------------------------------------------------------------------------------------------

    async def _look(self, account: Account, doing: str) -> tuple[Users, Roles]:
        token = operation.set(doing)
        try:
            roles = {role: found for role in account.roles if (found := await self._role(account, role)) is not None}
            users = {name: await self._user(account, raw) for name, raw in (await self._raw(account)).items()}
            others = [state.name for state in previous(account, users)]
            sessions = await self._sessions(account.database, others) if others else {}
            for name in others:
                users[name] = replace(users[name], sessions=sessions.get(name, 0))
            return users, roles
        finally:
            operation.reset(token)

    async def _raw(self, account: Account) -> dict[str, dict[str, Any]]:
        names = [{"user": name, "db": account.database} for name in account.names]
        command = {"usersInfo": names, "showCredentials": True}
        try:
            reply = await self._read(account.database, command)
        except OperationFailure as error:
            if error.code != UNAUTHORIZED:
                raise self._server.error(error, "usersInfo") from None
            reply = await self._command(account.database, {"usersInfo": names}, read=True)
        return {str(user["user"]): user for user in reply["users"]}

    async def _user(self, account: Account, raw: Mapping[str, Any]) -> UserState:
        name = str(raw["user"])
        holds = True
        if account.password and name == account.current:
            known = (raw.get("credentials") or {}).get(MECHANISM)
            if known:
                # off the loop: it is meant to be slow
                holds = await asyncio.to_thread(_verifies, account.password, known)
            elif "credentials" in raw or not raw.get("mechanisms"):
                holds = False
            else:
                holds = await self._logs_in(account)
        return UserState(
            name=name,
            roles=frozenset(RoleRef(str(role["role"]), str(role["db"])) for role in raw.get("roles") or ()),
            mechanisms=frozenset(raw.get("mechanisms") or ()),
            custom=raw.get("customData") or {},
            holds=holds,
        )

    async def _role(self, account: Account, role: RoleRef) -> RoleState | None:
        command = {"rolesInfo": {"role": role.role, "db": role.database}, "showBuiltinRoles": True}
        reply = await self._command(account.database, command | {"showPrivileges": True}, read=True)
        found = next(iter(reply["roles"]), None)
        if found is None:
            return None
        elsewhere = role.database in SYSTEM
        inherited = found.get("inheritedPrivileges") or ()
        return RoleState(role, elsewhere or any(_reaches(one, role.database) for one in inherited))

    async def _sessions(self, database: str, names: Iterable[str]) -> dict[str, int]:
        """Connections of these users, idle ones too; none where the operator's user may not see them."""
        match = {"effectiveUsers": {"$elemMatch": {"db": database, "user": {"$in": list(names)}}}}
        pipeline = [{"$currentOp": {"allUsers": True, "idleConnections": True}}, {"$match": match}]
        pipeline += [{"$unwind": "$effectiveUsers"}, {"$group": {"_id": "$effectiveUsers.user", "n": {"$sum": 1}}}]
        try:
            reply = await self._read("admin", {"aggregate": 1, "pipeline": pipeline, "cursor": {}})
        except OperationFailure as error:
            if error.code == UNAUTHORIZED:
                return {}
            raise self._server.error(error, "currentOp") from None
        return {str(row["_id"]): int(row["n"]) for row in reply["cursor"]["firstBatch"]}

    async def _logs_in(self, account: Account) -> bool:
        """False only where the server says that user name or password is wrong: all else is not about the password."""
        limits = replace(self._server.target.limits, max=1)
        target = replace(
            self._server.target,
            username=account.current,
            password=account.password,
            auth_source=account.database,
            limits=limits,
        )
        server = Server(target, self._observer)
        try:
            await server.run(account.database, {"ping": 1}, limits.connect_timeout)
        except OperationFailure as error:
            return error.code != AUTHENTICATION_FAILED
        except (PyMongoError, OSError, SelvedgeError):
            return True
        finally:
            await server.close()
        return True

    # -- writing -------------------------------------------------------------------------------------------------

    async def _send(
        self, account: Account, change: UserChange, users: Users, lock: Lock, may_write: Callable[[], None]
    ) -> None:
        name = change.ref.name
        state = users.get(name)
        command: dict[str, Any] = {change.verb: name}
        if change.verb == "createUser" or "roles" in change.fields:
            command["roles"] = [{"role": role.role, "db": role.database} for role in account.roles]
        if change.verb == "createUser" or "pwd" in change.fields:
            # A user whose password somebody else sets gets one that nobody knows: MongoDB makes none without.
            command |= {"pwd": account.password or _nobody_knows(), "mechanisms": [MECHANISM]}
        if change.verb == "createUser" or "customData" in change.fields:
            custom = dict(state.custom) if state is not None else {}
            command["customData"] = {**custom, CLAIM: claim_of(account, state)}
        await self._write(account.database, command, lock, may_write)

    async def _release(self, account: Account, state: UserState, lock: Lock, may_write: Callable[[], None]) -> None:
        custom = {key: value for key, value in state.custom.items() if key != CLAIM}
        await self._write(account.database, {"updateUser": state.name, "customData": custom}, lock, may_write)

    async def _write(
        self, database: str, command: Mapping[str, Any], lock: Lock, may_write: Callable[[], None]
    ) -> None:
        lock.check()
        may_write()
        token = operation.set("apply")
        try:
            await self._server.run(database, command, self._server.target.limits.statement_timeout, read=False)
        except OperationFailure as error:
            verb = next(iter(command))
            if verb != "dropUser" or error.code != _USER_NOT_FOUND:
                raise self._server.error(error, verb) from None
        except (PyMongoError, OSError) as error:
            raise self._server.error(error, next(iter(command))) from None
        finally:
            operation.reset(token)

    async def _read(self, database: str, command: Mapping[str, Any]) -> dict[str, Any]:
        """A command whose refusal the caller looks at; what is about the connection is an error of ours."""
        try:
            return await self._server.run(database, command, self._server.target.limits.statement_timeout)
        except OperationFailure:
            raise
        except (PyMongoError, OSError) as error:
            raise self._server.error(error, next(iter(command))) from None

    async def _command(self, database: str, command: Mapping[str, Any], *, read: bool) -> dict[str, Any]:
        limit = self._server.target.limits.statement_timeout
        return await self._server.command(database, command, limit, read)


def _nobody_knows() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def _verifies(password: str, known: Mapping[str, Any]) -> bool:
    """Whether this is the password of what ``usersInfo`` shows of a user."""
    try:
        salt = base64.b64decode(known["salt"], validate=True)
        stored = base64.b64decode(known["storedKey"], validate=True)
        iterations = int(known["iterationCount"])
    except (KeyError, ValueError, TypeError, binascii.Error):
        return False
    if not 0 < iterations <= 10_000_000:
        return False
    return hmac.compare_digest(derive(saslprep(password).encode(), salt, iterations).stored, stored)


def _reaches(privilege: Mapping[str, Any], database: str) -> bool:
    """Whether a privilege is more than access to the data of this one database."""
    resource = privilege.get("resource") or {}
    if "db" not in resource or resource["db"] != database:
        return True
    return bool(ADMINISTRATIVE & set(privilege.get("actions") or ()))


def _result(account: Account, users: Users, applied: Iterable[UserChange], drift: tuple[ObjectRef, ...]) -> LoginResult:
    done = tuple(ChangeSummary(x.ref, x.risk, x.summary()) for x in applied if not x.bookkeeping)
    left = previous(account, users)
    return LoginResult(done, drift, tuple(state.name for state in left), sum(state.sessions for state in left))
