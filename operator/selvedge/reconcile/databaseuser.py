"""DatabaseUser: the login on the server, then the Secret that names it. The Secret is the truth about the password."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import structlog

from selvedge.api.databaseuser import DatabaseUserSpec
from selvedge.api.resource import parse
from selvedge.core.backoff import delay
from selvedge.core.binding import Login, compose
from selvedge.core.breaker import BreakerState
from selvedge.core.conditions import find, timestamp
from selvedge.core.errors import InvalidError, SelvedgeError, TransientError
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef
from selvedge.core.users import (
    Account,
    Credentials,
    LoginResult,
    Wish,
    credentials,
    next_rotation,
    resource_of,
    retires,
)
from selvedge.core.words import count, some
from selvedge.kube.errors import KubeForbidden
from selvedge.kube.resources import DATABASE_SERVERS, DATABASE_USERS
from selvedge.reconcile.accounts import (
    Place,
    account_of,
    base_of,
    check_access,
    endpoint_of,
    place_of,
    wish_of,
)
from selvedge.reconcile.binding import delete_binding, hide, read_binding, read_former, secret_name, write_binding
from selvedge.reconcile.context import Context
from selvedge.reconcile.finalizer import hold
from selvedge.reconcile.outcome import Notice, Outcome, from_error
from selvedge.reconcile.servers import Server
from selvedge.reconcile.store import Object, key_of

_log = structlog.stdlib.get_logger("selvedge.reconcile.databaseuser")

#: How often it is looked whether the sessions of a login are gone whose grace is over.
_RETIRE_SECONDS = 60.0


async def reconcile_user(context: Context, namespace: str, name: str) -> None:
    """One pass over one DatabaseUser."""
    obj = context.store.get(DATABASE_USERS.plural, namespace, name)
    key = ("user", namespace, name)
    if obj is None or obj["metadata"].get("deletionTimestamp"):
        context.failures.pop(key, None)
        return
    started = time.monotonic()
    pause, label = 300.0, "success"
    place: Place | None = None
    try:
        await hold(context, DATABASE_USERS, obj)
        spec: DatabaseUserSpec = parse(obj, strict=False).spec
        pause = spec.interval
        if spec.suspend:
            message = "spec.suspend is true: the login is neither looked at nor changed"
            outcome = Outcome(None, Reason.SUSPENDED, message, retrying=False)
        else:
            place = place_of(context, obj, spec)
            await _write_down(context, obj, place)
            outcome, pause = await _pass(context, obj, spec, place)
        context.failures.pop(key, None)
    except SelvedgeError as error:
        label = str(error.reason)
        pause, outcome = _failed(context, key, place.server if place else None, error, pause)
    context.metrics.reconciled("DatabaseUser", label, time.monotonic() - started)
    await context.write_status(DATABASE_USERS, obj, outcome)
    context.enqueue_after(key, pause * context.random.uniform(0.9, 1.0))


async def _write_down(context: Context, obj: Object, place: Place) -> None:
    """Where the login will be, before it is: a removal has to find it without the DatabaseSchema. Raises KubeError."""
    where = {"server": place.server.name, "database": place.database}
    if where.items() <= (obj.get("status") or {}).items():
        return
    uid = str(obj["metadata"]["uid"])
    context.writing.add(uid)
    try:
        written = await context.kube.patch_status(DATABASE_USERS, *key_of(obj), where)
    finally:
        context.writing.discard(uid)
    if written is None or written["metadata"]["uid"] != uid:
        raise TransientError(Reason.RECONCILING, "the resource is being deleted")
    context.store.answered(DATABASE_USERS.plural, written)


def _failed(
    context: Context, key: tuple[str, ...], server: Server | None, error: SelvedgeError, pause: float
) -> tuple[float, Outcome]:
    """How long to wait after a failed pass, and what is said."""
    _log.warning("the pass failed", reason=str(error.reason), error=error.message)
    if not isinstance(error, TransientError):
        return pause, from_error(error)
    if server is not None and server.breaker.state(time.monotonic()) is not BreakerState.CLOSED:
        # The server's own probe wakes everybody when it answers again: until then nobody asks, and nothing is written.
        context.awaited.add(server.key)
        context.enqueue_after(("server", *server.key), server.breaker.retry_after(time.monotonic()))
        return 600.0, from_error(error)
    attempt = context.failures[key] = context.failures.get(key, 0) + 1
    pause = delay(attempt - 1, base=1.0, cap=60.0, random=context.random)
    return pause, from_error(error, context.now() + timedelta(seconds=pause))


async def _pass(context: Context, obj: Object, spec: DatabaseUserSpec, place: Place) -> tuple[Outcome, float]:
    namespace, _ = key_of(obj)
    await check_access(context, place, obj, spec, base_of(obj, spec))
    name = secret_name(obj, spec)
    held = await read_binding(context, obj, name)
    # Under another name it is the same Secret: what applications hold goes on to work.
    former = await read_former(context, obj, name)
    wish = wish_of(obj, spec, await _given(context, namespace, spec))
    now = context.now()
    wanted = credentials(wish, held.published or former.published, now)
    # Known before it is sent anywhere; the one before goes on working for a while.
    hide(context, namespace, name, wanted.password, held.data.get("password", ""))
    # A template that cannot be filled in is said before anything is changed.
    login = Login(wanted.username, wanted.password)
    data = compose(endpoint_of(place), login, env_keys=spec.secret.env_keys, template=spec.secret.template)
    account = account_of(
        context,
        obj,
        spec,
        place,
        wish,
        wanted,
        may_retire=not wanted.rotating and now >= retires(wish, wanted.rotated),
        verified=not wanted.rotating and is_verified(obj),
    )
    result = await _converge(context, obj, place.server, account)
    written = await write_binding(context, obj, spec, held, data, wanted)
    if former.obj is not None:
        await delete_binding(context, obj, str(former.obj["metadata"]["name"]))
    for ref in result.drift:
        context.metrics.drift(ref.kind, found=1, repaired=1)
    return _outcome(context, obj, spec, place, wish, wanted, result, name, written=written), _next(
        context, spec, wish, wanted, result
    )


async def _given(context: Context, namespace: str, spec: DatabaseUserSpec) -> str | None:
    """The password of the Secret that the DatabaseUser names, or None where it names none.

    Raises InvalidError while it is missing: the password on the server stays as it is then.
    """
    ref = spec.password.secret_ref
    if ref is None:
        return None
    found = await context.secret(namespace, ref.name)
    stays = "the password on the server stays as it is"
    if found is None:
        raise InvalidError(
            Reason.SECRET_NOT_FOUND, f"secret {ref.name}, named in spec.password, does not exist: create it; {stays}"
        )
    try:
        password = found.get(ref.key, b"").decode().strip("\r\n")
    except UnicodeDecodeError:
        password = ""
    if not password or "\0" in password:
        message = f"key {ref.key} of secret {ref.name} is missing, empty or no text: write a password there; {stays}"
        raise InvalidError(Reason.SECRET_KEY_MISSING, message)
    return password


async def _converge(context: Context, obj: Object, server: Server, account: Account) -> LoginResult:
    async def tell(refs: Sequence[ObjectRef]) -> None:
        message = f"changed by hand: {some(sorted(refs))}; being put back"
        try:
            await context.write_status(DATABASE_USERS, obj, Outcome(False, Reason.DRIFT_DETECTED, message))
        except SelvedgeError as error:
            _log.warning("drift is repaired before it stands in the status", error=error.message)

    def may_write() -> None:
        context.may_write()
        # Under the lock of the server: a removal that came first must not be undone by a pass that began before it.
        now = context.store.get(DATABASE_USERS.plural, *key_of(obj))
        if now is None or now["metadata"].get("deletionTimestamp") or now["metadata"]["uid"] != obj["metadata"]["uid"]:
            raise TransientError(Reason.RECONCILING, "the resource is being deleted")

    limit = context.settings.reconcile_timeout
    try:
        async with asyncio.timeout(limit), server.use() as engine:
            return await engine.logins().converge(account, may_write, alive=context.alive, on_drift=tell)
    except TimeoutError:
        message = f"the pass over login {account.base} took longer than {limit:g} s and was cancelled"
        raise TransientError(Reason.TIMEOUT, message) from None


def is_verified(obj: Object) -> bool:
    """Whether this generation was Ready before, so that a difference found now is drift."""
    ready = find((obj.get("status") or {}).get("conditions") or (), "Ready")
    generation = obj["metadata"].get("generation")
    good = ready is not None and (ready.status is True or ready.reason == Reason.DRIFT_DETECTED)
    return good and ready is not None and ready.observed_generation == generation


def _next(context: Context, spec: DatabaseUserSpec, wish: Wish, wanted: Credentials, result: LoginResult) -> float:
    """Seconds until the next look: the interval, or what comes before it."""
    now = context.now()
    moments = [spec.interval]
    due = next_rotation(wish, wanted.rotated)
    if due is not None:
        moments.append((due - now).total_seconds() + 0.1)
    if result.previous:
        left = (retires(wish, wanted.rotated) - now).total_seconds()
        moments.append(left + 0.1 if left > 0 else _RETIRE_SECONDS)
    # the queue's jitter shortens it, and a moment before its time nothing would be due
    return max(1.0, min(moments) / 0.9 if min(moments) < spec.interval else spec.interval)


def _outcome(
    context: Context,
    obj: Object,
    spec: DatabaseUserSpec,
    place: Place,
    wish: Wish,
    wanted: Credentials,
    result: LoginResult,
    secret: str,
    *,
    written: bool,
) -> Outcome:
    due = next_rotation(wish, wanted.rotated)
    status: dict[str, Any] = {
        "binding": {"name": secret},
        "currentUsername": wanted.username,
        "previousUsername": result.previous[0] if result.previous else None,
        "lastRotationTime": None if wish.external else timestamp(wanted.rotated),
        "nextRotationTime": timestamp(due) if due is not None else None,
        "server": place.server.name,
        "database": place.database,
    }
    notices = tuple(_notices(context, wish, wanted, result, secret, written=written))
    if not result.may_connect:
        message = (
            f"login {wanted.username} may not connect to database {place.database}: give one of its roles CONNECT "
            "(a grant with objects: {database: true} in the DatabaseSchema)"
        )
        return Outcome(False, Reason.LOGIN_REFUSED, message, status=status, notices=notices)
    message = f"login {wanted.username} is as declared, and secret {secret} leads to it"
    return Outcome(True, Reason.VERIFIED, message, status=status, notices=notices)


def _notices(
    context: Context, wish: Wish, wanted: Credentials, result: LoginResult, secret: str, *, written: bool
) -> list[Notice]:
    found = []
    if wanted.rotating and not wanted.first:
        found.append(
            Notice(Reason.ROTATED, f"login {wanted.username} has a new password; it stands in secret {secret}")
        )
    elif wanted.first and written:
        found.append(Notice(Reason.CHANGES_APPLIED, f"made secret {secret} for login {wanted.username}"))
    elif result.drift:
        message = f"changed by hand and put back: {some(result.drift)}"
        found.append(Notice(Reason.DRIFT_CORRECTED, message, warning=True))
    elif result.applied or written:
        made = f"made {count(len(result.applied), 'change')} to login {wish.base}"
        found.append(Notice(Reason.CHANGES_APPLIED, made if result.applied else f"wrote secret {secret} anew"))
    if result.sessions and context.now() >= retires(wish, wanted.rotated):
        message = (
            f"login {result.previous[0]} is to be switched off since its grace is over, and applications still use it: "
            f"have them read secret {secret} again"
        )
        found.append(Notice(Reason.PREVIOUS_LOGIN_IN_USE, message, warning=True))
    return found


async def remove_user(context: Context, obj: Object) -> None:
    """``deletionPolicy: Delete``: end sessions, hand over objects, drop the login. Raises our errors until it is done.

    With the server gone, the resource is let go: there is nothing to remove the login from.
    """
    spec: DatabaseUserSpec = parse(obj, strict=False).spec
    status = obj.get("status") or {}
    namespace, _, name = str(status.get("server") or "").partition("/")
    server, database = context.servers.get((namespace, name)), str(status.get("database") or "")
    if not name:
        try:
            place = place_of(context, obj, spec)
            server, database = place.server, place.database
        except TransientError as error:
            if error.reason is Reason.WAITING_FOR_SERVER:
                raise
            return  # nothing was ever made for it: not even its database was known
    if server is None:
        await _without_server(context, obj, (namespace, name))
        return
    base, uid = base_of(obj, spec), str(obj["metadata"]["uid"])
    account = Account(resource_of(*key_of(obj)), uid, context.cluster, database, base, base)
    async with asyncio.timeout(context.settings.reconcile_timeout), server.use() as engine:
        removal = await engine.logins().remove(account, context.may_write)
    if not removal.retained:
        try:
            await delete_binding(context, obj, secret_name(obj, spec))
        except KubeForbidden as error:
            # it goes with its owner, or with its namespace, in which the operator may have lost its rights before
            _log.warning("the Secret of a login that is gone is left to the garbage collector", error=error.message)
    if removal.retained:
        message = f"login {', '.join(removal.retained)} was there before this resource and stays"
        await context.events.post(obj, Reason.LOGIN_RETAINED, message)
    if removal.removed:
        await context.events.post(obj, Reason.DELETED, f"dropped login {', '.join(removal.removed)}")


async def _without_server(context: Context, obj: Object, server: tuple[str, str]) -> None:
    """Let a resource go whose server is gone; wait for one that is only not ready yet."""
    name = "/".join(server)
    if server[0] in context.left_out:
        message = f"DatabaseServer {name} may not be read: {context.left_out[server[0]]}"
        raise TransientError(Reason.WAITING_FOR_SERVER, message)
    if context.store.get(DATABASE_SERVERS.plural, *server) is not None:
        raise TransientError(Reason.WAITING_FOR_SERVER, f"DatabaseServer {name} cannot be used yet: see its status")
    message = f"DatabaseServer {name} is gone: the login stays where it is"
    await context.events.post(obj, Reason.LOGIN_RETAINED, message, type="Warning")
