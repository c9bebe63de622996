"""From a DatabaseUser and what it refers to, to the account that an engine is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from selvedge.api.databaseschema import Adoption, DatabaseSchemaSpec
from selvedge.api.databaseserver import EngineType
from selvedge.api.databaseuser import DatabaseUserSpec, PasswordManagement, RotationStrategy
from selvedge.api.resource import parse
from selvedge.core.binding import Endpoint
from selvedge.core.errors import InvalidError, RefusedError, TransientError
from selvedge.core.names import check_identifier
from selvedge.core.own_roles import SUFFIXES, ends_like_own, is_shortened, own_roles
from selvedge.core.postgres.settings import stored
from selvedge.core.reasons import Reason
from selvedge.core.users import Account, Credentials, RoleRef, Wish, default_username, resource_of
from selvedge.kube.resources import DATABASE_SCHEMAS
from selvedge.reconcile.binding import REQUEST
from selvedge.reconcile.context import Context
from selvedge.reconcile.permits import check_database, check_role, permit
from selvedge.reconcile.servers import Server
from selvedge.reconcile.store import Object, key_of, unit_of

_DEFAULT_PORT = {EngineType.POSTGRES: 5432, EngineType.MONGODB: 27017}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a login is: the server, and the database on it."""

    server: Server
    database: str

    @property
    def mongodb(self) -> bool:
        """Whether it is a MongoDB server."""
        return self.server.spec.engine is EngineType.MONGODB


def place_of(context: Context, obj: Object, spec: DatabaseUserSpec) -> Place:
    """The server and the database of a DatabaseUser; raises TransientError while they are not there."""
    namespace, _ = key_of(obj)
    found = context.store.get(DATABASE_SCHEMAS.plural, namespace, spec.schema_ref.name)
    if found is None:
        message = (
            f"DatabaseSchema {namespace}/{spec.schema_ref.name} does not exist: apply it, or correct spec.schemaRef"
        )
        raise TransientError(Reason.WAITING_FOR_SCHEMA, message)
    schema: DatabaseSchemaSpec = parse(found, strict=False).spec
    server_key = unit_of(found)[:2]
    server = context.servers.get(server_key)
    if server is None:
        message = f"DatabaseServer {'/'.join(server_key)} cannot be used yet: see its status"
        raise TransientError(Reason.WAITING_FOR_SERVER, message)
    return Place(server, schema.database)


async def check_access(context: Context, place: Place, obj: Object, spec: DatabaseUserSpec, base: str) -> None:
    """Whether the namespace may have this login with these roles; raises RefusedError and InvalidError."""
    namespace, _ = key_of(obj)
    rule = await permit(context, place.server, namespace)
    check_database(rule, namespace, place.database)
    check_identifier(base, "username")
    if ends_like_own(base):
        # Taken by somebody, it would keep every migration or probe of that database from running.
        message = f"username {base} is refused: names that end in {', '.join(SUFFIXES)} are the operator's own"
        raise RefusedError(Reason.FORBIDDEN_NAME, message + "; choose another")
    check_role(rule, namespace, f"username {base}", base, listed=False)
    own = own_roles(place.database)
    for role in spec.roles:
        if place.mongodb:
            check_database(rule, namespace, role.database or place.database)
            continue
        if role.role in own or is_shortened(role.role):
            message = f"role {role.role} of spec.roles is the operator's own in database {place.database}"
            raise RefusedError(Reason.FORBIDDEN_NAME, message + "; name another")
        check_role(rule, namespace, f"role {role.role} of spec.roles", role.role)


def base_of(obj: Object, spec: DatabaseUserSpec) -> str:
    """The username that is declared, or follows from the resource's name."""
    return spec.username or default_username(str(obj["metadata"]["name"]))


def wish_of(obj: Object, spec: DatabaseUserSpec, given: str | None) -> Wish:
    """What is asked for, as far as passwords go; ``given`` is the password of somebody else's Secret."""
    dual = spec.rotation.strategy is RotationStrategy.DUAL_USER
    if dual and spec.rotation.every is not None and spec.rotation.every <= spec.rotation.grace:
        message = "spec.rotation.every is not longer than spec.rotation.grace: the old login would still be needed"
        raise InvalidError(Reason.INVALID_SPEC, message)
    return Wish(
        base=base_of(obj, spec),
        dual=dual,
        length=spec.password.length,
        given=given,
        external=spec.password.management is PasswordManagement.EXTERNAL,
        every=spec.rotation.every,
        grace=spec.rotation.grace if dual else 0.0,
        request=str((obj["metadata"].get("annotations") or {}).get(REQUEST, "")),
    )


def account_of(
    context: Context,
    obj: Object,
    spec: DatabaseUserSpec,
    place: Place,
    wish: Wish,
    credentials: Credentials,
    *,
    may_retire: bool,
    verified: bool,
) -> Account:
    """The account; raises InvalidError for what the server's engine does not know."""
    _fits(spec, place)
    roles = tuple(RoleRef(role.role, role.database or place.database) for role in spec.roles)
    return Account(
        resource=resource_of(*key_of(obj)),
        uid=str(obj["metadata"]["uid"]),
        cluster=context.cluster,
        database=place.database,
        base=wish.base,
        current=credentials.username,
        password="" if wish.external else credentials.password,
        roles=roles,
        connection_limit=spec.connection_limit,
        valid_until=_utc(spec.valid_until),
        settings={name.lower(): stored(name.lower(), value) for name, value in spec.settings.items()},
        adopt=spec.adoption is Adoption.ALLOW,
        may_retire=may_retire,
        verified=verified,
    )


def endpoint_of(place: Place) -> Endpoint:
    """How an application reaches the database."""
    target = place.server.target
    return Endpoint(
        mongodb=place.mongodb,
        hosts=target.hosts,
        database=place.database,
        tls_mode=target.tls.mode,
        ca=target.tls.ca,
        replicas=target.read_replicas,
        replica_set=target.replica_set,
        srv=target.srv,
    )


def _fits(spec: DatabaseUserSpec, place: Place) -> None:
    if not place.mongodb:
        other = next((role.role for role in spec.roles if role.database), None)
        if other is not None:
            message = f"role {other} of spec.roles names a database, which Postgres does not know: remove it"
            raise InvalidError(Reason.INVALID_SPEC, message)
        return
    given = {
        "connectionLimit": spec.connection_limit != -1,
        "validUntil": spec.valid_until is not None,
        "settings": bool(spec.settings),
    }
    fields = ", ".join(f"spec.{name}" for name, there in given.items() if there)
    if fields:
        raise InvalidError(Reason.UNSUPPORTED, f"MongoDB knows no {fields}: remove it")


def _utc(text: str | None) -> str:
    """A time of the declaration in UTC with whole seconds, or empty."""
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidError(
            Reason.INVALID_SPEC, "spec.validUntil is no time: write it as 2030-01-31T12:00:00Z"
        ) from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
