"""DatabaseServer: a Postgres or MongoDB server that exists, how to log in, and who may use it for what."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from selvedge.api.base import (
    Bool,
    Checked,
    Column,
    Destructive,
    Identifier,
    Int,
    Kind,
    Model,
    ResourceName,
    Rule,
    Seconds,
    SecretKey,
    SecretRef,
    Status,
    Text,
    Word,
    listed,
)

Host = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[a-zA-Z0-9_.:%\[\]-]+$")]
Port = Annotated[Int, Field(ge=1, le=65535)]
Percent = Annotated[Int, Field(ge=0, le=100)]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=63)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]


class EngineType(StrEnum):
    """The kind of server."""

    POSTGRES = "Postgres"
    MONGODB = "MongoDB"


class TlsMode(StrEnum):
    """How far the server's certificate is checked."""

    DISABLE = "Disable"
    REQUIRE = "Require"
    VERIFY_CA = "VerifyCA"
    VERIFY_FULL = "VerifyFull"


class NamespacesFrom(StrEnum):
    """Which namespaces an access entry is for."""

    SAME = "Same"
    SELECTOR = "Selector"
    ALL = "All"


class ReadPreference(StrEnum):
    """Which member of a replica set answers what the operator reads."""

    PRIMARY = "Primary"
    PRIMARY_PREFERRED = "PrimaryPreferred"
    SECONDARY = "Secondary"
    SECONDARY_PREFERRED = "SecondaryPreferred"
    NEAREST = "Nearest"


class SelectorOperator(StrEnum):
    """How a label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class HostPort(Model):
    """Where a server listens."""

    host: Host
    """DNS name or address."""
    port: Port | None = None
    """TCP port; 5432 for Postgres and 27017 for MongoDB where it is left out."""


class SecretKeyRef(Model):
    """One key of a Secret in the resource's own namespace."""

    name: ResourceName
    """Name of the Secret."""
    key: SecretKey = "ca.crt"
    """Key in the Secret's data."""


class CredentialKeys(Model):
    """The names that the Secret's maker gave its keys (CloudNativePG, RDS and Zalando differ)."""

    username: SecretKey = "username"
    """Key that holds the login."""
    password: SecretKey = "password"  # noqa: S105 - the name of a key
    """Key that holds the password."""
    host: SecretKey | None = None
    """Key that holds the host, in place of spec.hosts."""
    port: SecretKey | None = None
    """Key that holds the port, in place of the one in spec.hosts."""
    uri: SecretKey | None = None
    """Key that holds a connection URI; its parameters are parsed, and only known ones are accepted."""


class Credentials(Model):
    """The operator's own login."""

    secret_ref: SecretRef
    """The Secret with the login; it lies beside this resource."""
    keys: CredentialKeys = CredentialKeys()
    """Names of the keys in it."""


class Tls(Model):
    """Encryption of the connection."""

    mode: TlsMode = TlsMode.VERIFY_FULL
    """Disable: plain text. Require: encrypted, certificate not checked. VerifyCA: signed by the CA. VerifyFull: and
    made out to the host."""
    ca_secret_ref: SecretKeyRef | None = None
    """The CA's certificate as PEM; the system's store where it is left out."""
    client_certificate_secret_ref: SecretRef | None = None
    """A Secret with tls.crt and tls.key, sent as the client's certificate."""


class Connections(Model):
    """Limits of the operator's own connections to this server."""

    max: Annotated[Int, Field(ge=1, le=1000)] = 10
    """Most connections at once, over all databases of the server."""
    idle_timeout: Seconds = 30.0
    """An unused connection is closed after this duration."""
    max_lifetime: Seconds = 3600.0
    """A connection is replaced at this age."""
    acquire_timeout: Seconds = 30.0
    """Longest wait for a free connection."""
    connect_timeout: Seconds = 5.0
    """Longest wait for a new connection, TLS and login included."""
    statement_timeout: Seconds = 30.0
    """Postgres statement_timeout, MongoDB maxTimeMS, of the operator's statements; migrations have their own."""
    lock_timeout: Seconds = 3.0
    """Postgres lock_timeout of the operator's statements."""


class Monitoring(Model):
    """How often the server is looked at, and when a figure is worth a warning."""

    interval: Seconds = 30.0
    """Time between two looks at the server's own figures."""
    objects_interval: Seconds = 300.0
    """Time between two looks at sizes of tables, indexes and collections."""
    slow_statement: Seconds = 0.2
    """A statement that takes longer counts as slow."""
    connections_warning: Percent = 80
    """Used connections, in percent of those that can be used, from which a warning is given."""
    connections_critical: Percent = 95
    """The same, from which it is critical."""
    replication_lag: Seconds = 1.0
    """A replica that lies further behind is reported."""
    cache_hit_ratio: Percent = 95
    """Percentage of blocks found in memory below which a warning is given."""


class LabelRequirement(Model):
    """One condition on a label."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=317)]
    """The label."""
    operator: SelectorOperator
    """In, NotIn, Exists or DoesNotExist."""
    values: tuple[LabelValue, ...] = listed(32)
    """What the label's value is compared with."""


class LabelSelector(Model):
    """Chooses namespaces by their labels; all conditions have to hold."""

    match_labels: dict[Annotated[str, StringConstraints(max_length=317)], LabelValue] = Field(
        default_factory=dict, max_length=32
    )
    """Labels that a namespace has."""
    match_expressions: tuple[LabelRequirement, ...] = listed(32)
    """Conditions on its labels."""


class AccessNamespaces(Checked):
    """The namespaces that an access entry is for."""

    from_: NamespacesFrom = Field(default=NamespacesFrom.SAME, alias="from")
    """Same: this resource's. Selector: those that selector chooses. All: every namespace."""
    selector: LabelSelector | None = None
    """With from Selector: which ones."""

    RULES = (
        Rule(
            "(has(self.from) && self.from == 'Selector') == has(self.selector)",
            "selector stands with from: Selector and only there",
            lambda self: (self.from_ is NamespacesFrom.SELECTOR) == (self.selector is not None),
        ),
    )


class Access(Model):
    """What the resources of some namespaces may do on this server."""

    namespaces: AccessNamespaces = AccessNamespaces()
    """For whom this entry is."""
    databases: tuple[Glob, ...] = listed(100, default=("*",))
    """Databases that may be declared, as names or patterns with *."""
    role_prefixes: tuple[Annotated[str, StringConstraints(max_length=63)], ...] = listed(100, default=("",))
    """How the names of roles that may be declared or joined begin; an empty one allows all but reserved names. A
    reserved name (rds_iam, pg_read_all_data) is allowed only where it is listed here whole."""
    extensions: tuple[Glob, ...] = listed(100, default=("*",))
    """Extensions that may be declared, as names or patterns with *."""


class ServerPolicy(Model):
    """A floor below every resource that uses this server: none can loosen it."""

    destructive: Destructive = Destructive.REQUIRE_APPROVAL
    """The least strict treatment of changes that lose data."""


#: The words on changes that lose data, from the loosest to the strictest.
_STRICTNESS = (Destructive.ALLOW, Destructive.REQUIRE_APPROVAL, Destructive.REFUSE)


def floored(word: Destructive, policy: ServerPolicy | None) -> Destructive:
    """What holds on a server with this policy for a resource with this word: the stricter of the two."""
    return word if policy is None else max(word, policy.destructive, key=_STRICTNESS.index)


def deciding_fields(word: Destructive, policy: ServerPolicy | None, own: str, server: str) -> str:
    """The fields that say what holds, for messages: ``own``, which says ``word``, the server's policy, or both."""
    holds = floored(word, policy)
    named = [own] if word is holds else []
    if policy is not None and policy.destructive is holds:
        named.append(f"spec.policy.destructive of DatabaseServer {server}")
    return " as well as ".join(named)


class PostgresServer(Model):
    """What only a Postgres server has."""

    maintenance_database: Identifier = "postgres"
    """The database in which roles and databases are managed and cluster-wide claims are kept."""


class MongoServer(Model):
    """What only a MongoDB server has."""

    replica_set: Annotated[str, StringConstraints(max_length=128)] = ""
    """Name of the replica set; found out where it is empty."""
    srv: Bool = False
    """The host is a mongodb+srv name that DNS resolves to the members."""
    auth_source: Annotated[str, StringConstraints(min_length=1, max_length=63)] = "admin"
    """The database in which the login is defined."""
    read_preference: ReadPreference = ReadPreference.PRIMARY_PREFERRED
    """Which member answers what is only read."""


class DatabaseServerSpec(Checked):
    """A server that exists, how to log in, and who may use it for what."""

    engine: EngineType
    """Postgres or MongoDB. It cannot be changed."""
    hosts: tuple[HostPort, ...] = listed(32)
    """Where the server listens. Of several Postgres hosts the one that accepts writes is used; MongoDB's are the seed
    list."""
    read_replicas: tuple[HostPort, ...] = listed(32)
    """Replicas that are watched and offered to readers; the operator never writes to them."""
    credentials: Credentials
    """The operator's own login."""
    tls: Tls = Tls()
    """Encryption of the connection."""
    connections: Connections = Connections()
    """Limits of the operator's own connections."""
    monitoring: Monitoring = Monitoring()
    """How often the server is looked at."""
    access: tuple[Access, ...] = listed(64)
    """Who may use this server, and for what. Where it is empty, the resource's own namespace for all that is not
    refused to everyone."""
    policy: ServerPolicy | None = None
    """What no resource that uses this server can loosen."""
    postgres: PostgresServer | None = None
    """Only with engine Postgres."""
    mongodb: MongoServer | None = None
    """Only with engine MongoDB."""

    RULES = (
        Rule("self.engine == oldSelf.engine", "engine cannot be changed: make a new DatabaseServer", path=".engine"),
        Rule(
            "!(has(self.postgres) && self.engine != 'Postgres')",
            "postgres stands only with engine: Postgres; remove it or correct engine",
            lambda self: self.postgres is None or self.engine is EngineType.POSTGRES,
        ),
        Rule(
            "!(has(self.mongodb) && self.engine != 'MongoDB')",
            "mongodb stands only with engine: MongoDB; remove it or correct engine",
            lambda self: self.mongodb is None or self.engine is EngineType.MONGODB,
        ),
        Rule(
            "(has(self.hosts) && size(self.hosts) > 0)"
            " || (has(self.credentials.keys) && (has(self.credentials.keys.host) || has(self.credentials.keys.uri)))",
            "no host: give hosts, or name the key of the Secret that holds it in credentials.keys.host or .uri",
            lambda self: bool(self.hosts or self.credentials.keys.host or self.credentials.keys.uri),
        ),
    )


class ReplicaStatus(Model):
    """A replica as last seen."""

    host: Text = ""
    """host:port."""
    state: Word = ""
    """Streaming, Reachable or Unreachable."""


class MissingPrivilege(Model):
    """Something that the operator's login may not do."""

    statement: Text = ""
    """What an administrator runs to allow it."""


class DatabaseServerStatus(Status):
    """What was last seen of the server."""

    version: Word | None = None
    """The server's version."""
    role: Word | None = None
    """Primary or Standby."""
    system_identifier: Word | None = None
    """Postgres system identifier or MongoDB replica set id; a change means another server."""
    replicas_ready: Word | None = None
    """Members that can be used and all that are known, such as 2/2."""
    replicas: tuple[ReplicaStatus, ...] = listed(64)
    """The replicas as last seen."""
    capabilities: tuple[Word, ...] = listed(64)
    """What server and login can do."""
    missing_privileges: tuple[MissingPrivilege, ...] = listed(32)
    """The statements that an administrator has to run for the operator's login."""


KIND = Kind(
    kind="DatabaseServer",
    short="dbsrv",
    spec=DatabaseServerSpec,
    status=DatabaseServerStatus,
    description="A Postgres or MongoDB server that exists: how to log in, and who may use it for what.",
    first=(
        Column("Engine", ".spec.engine", "Postgres or MongoDB"),
        Column("Version", ".status.version", "Version of the server"),
        Column("Role", ".status.role", "Primary or Standby"),
        Column("Replicas", ".status.replicasReady", "Members that can be used, of all"),
    ),
)
