"""DatabaseSchema: what is in one database. Several may share a database; they are compiled into one desired state."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from selvedge.api.base import (
    Bool,
    Checked,
    Column,
    DeletionPolicy,
    Destructive,
    Digest,
    Identifier,
    Int,
    Kind,
    Message,
    Model,
    Namespace,
    ResourceName,
    Rule,
    SchemaName,
    Seconds,
    SecretRef,
    Status,
    Text,
    Time,
    Word,
    listed,
)
from selvedge.api.migrationrun import MOST_SCHEMAS, MigrationSource, MigrationVersion, Placeholders, RunHooks
from selvedge.api.mongodb import (
    Collation,
    Collection,
    Granularity,
    Index,
    IndexKey,
    IndexType,
    MongoDatabase,
    MongoRole,
    Rollout,
    TimeSeries,
    ValidationAction,
    ValidationLevel,
)
from selvedge.api.naming import NamingConventions
from selvedge.api.postgres import (
    Extension,
    GrantMode,
    Membership,
    PostgresDatabase,
    PostgresRole,
    PostgresSchema,
)
from selvedge.api.postgres_grants import ColumnSet, DefaultPrivilege, Grant, GrantObjects, Privilege

__all__ = [
    "Adoption",
    "Apply",
    "Collation",
    "Collection",
    "ColumnSet",
    "DatabaseSchemaSpec",
    "DatabaseSchemaStatus",
    "DefaultPrivilege",
    "Drift",
    "Extension",
    "Grant",
    "GrantMode",
    "GrantObjects",
    "Granularity",
    "Index",
    "IndexKey",
    "IndexType",
    "Membership",
    "Migrations",
    "MongoDatabase",
    "MongoRole",
    "PostgresDatabase",
    "PostgresRole",
    "PostgresSchema",
    "Privilege",
    "Prune",
    "Rollout",
    "ServerRef",
    "TimeSeries",
    "ValidationAction",
    "ValidationLevel",
]


class Adoption(StrEnum):
    """What happens with objects that were there before and that nobody claims."""

    REQUIRE_APPROVAL = "RequireApproval"
    ALLOW = "Allow"
    REFUSE = "Refuse"


class Drift(StrEnum):
    """What happens when someone changed the database by hand."""

    CORRECT = "Correct"
    REPORT = "Report"


class Apply(StrEnum):
    """When a plan is applied."""

    AUTO = "Auto"
    ON_APPROVAL = "OnApproval"


class Prune(StrEnum):
    """What happens with objects that left the declaration and hold data."""

    NEVER = "Never"
    OWNED = "Owned"


class ServerRef(Model):
    """A DatabaseServer."""

    name: ResourceName
    """Name of the DatabaseServer."""
    namespace: Namespace | None = None
    """Its namespace; this resource's where it is left out. The server's access has to allow it."""


class RunAs(Model):
    """A login of your own for migrations."""

    secret_ref: SecretRef
    """The Secret with username and password; it lies beside this resource."""


class Migrations(Model):
    """Migrations of this database."""

    auto_apply: Bool = True
    """Make a MigrationRun by itself whenever the source changes."""
    role: Identifier | None = None
    """SET ROLE before each migration: new objects belong to it. The database's owner where it is left out."""
    target_version: MigrationVersion = ""
    """The version that autoApply goes up to; the newest where it is empty. It never goes down by itself."""
    history_limit: Annotated[Int, Field(ge=1, le=100)] = 10
    """Finished MigrationRuns made by autoApply that are kept."""
    source: MigrationSource
    """The files."""
    environment: Annotated[str, StringConstraints(max_length=63)] = ""
    """Chooses seeds and files with an `-- env:` line in the runs that autoApply makes."""
    run_as: RunAs | None = None
    """A login of your own in place of the one that the operator makes for each run."""
    placeholders: Placeholders | None = None
    """Values that take the place of ${env:NAME} in the files, unless a run has its own. No secrets: texts are kept."""
    hooks: RunHooks | None = None
    """SQL that runs beside the migrations, unless a run has its own."""
    schemas: tuple[SchemaName, ...] = listed(MOST_SCHEMAS)
    """Postgres: run the files in each of these schemas, one after the other, each with a history of its own, such as
    one for each tenant. They have to exist."""
    conventions: NamingConventions | None = None
    """Postgres: the names that the linter advises in every run on this database; Fashion Wallet's where it is left
    out. Advice alone: nothing is refused for its name."""


class DatabaseSchemaSpec(Checked):
    """What is in one database: exactly one of postgres and mongodb."""

    server_ref: ServerRef
    """The DatabaseServer that has the database."""
    database: Identifier
    """Name of the database; CREATE DATABASE if it is absent. It cannot be changed."""
    adoption: Adoption = Adoption.REQUIRE_APPROVAL
    """What happens with a database, role or other object that was there before and that nobody claims."""
    interval: Seconds = 300.0
    """Time between two comparisons with the live database; 10s or more."""
    drift: Drift = Drift.CORRECT
    """Correct: what was changed by hand is put back. Report: it is only shown."""
    apply: Apply = Apply.AUTO
    """Auto: changes are made at once. OnApproval: a person approves each plan."""
    destructive: Destructive = Destructive.REQUIRE_APPROVAL
    """What happens with changes that lose data."""
    approved_plan: Digest = ""
    """Digest of the plan that a person approved (sha256:…). Setting it needs the verb approve."""
    prune: Prune = Prune.NEVER
    """Owned: objects with data that this resource made are dropped when they leave it. Access that left is always
    taken away."""
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    """Retain: deleting this resource leaves the database as it is. Delete: what only it made is removed."""
    suspend: Bool = False
    """Neither look at the database nor change it."""
    migrations: Migrations | None = None
    """Migrations of this database."""
    postgres: PostgresDatabase | None = None
    """What is in a Postgres database."""
    mongodb: MongoDatabase | None = None
    """What is in a MongoDB database."""

    RULES = (
        Rule(
            "has(self.postgres) != has(self.mongodb)",
            "exactly one of postgres and mongodb: remove one, or add the one that fits the server",
            lambda self: (self.postgres is None) != (self.mongodb is None),
        ),
        Rule(
            "self.database == oldSelf.database",
            "database cannot be changed: make a new DatabaseSchema",
            path=".database",
        ),
        Rule(
            "!has(self.postgres) || !(self.database in ['template0', 'template1'])",
            "template databases cannot be declared: choose another name",
            lambda self: self.postgres is None or self.database not in ("template0", "template1"),
            path=".database",
        ),
        Rule(
            "!has(self.mongodb) || !(self.database in ['admin', 'local', 'config'])",
            "admin, local and config belong to MongoDB: choose another name",
            lambda self: self.mongodb is None or self.database not in ("admin", "local", "config"),
            path=".database",
        ),
        Rule(
            "!has(self.mongodb) || !self.database.matches('[./\\\\\\\\ $*<>:|?]')",
            "a MongoDB database's name has no space and none of . / \\ $ * < > : | ?: choose another name",
            lambda self: self.mongodb is None or not set(self.database) & set("./\\ $*<>:|?"),
            path=".database",
        ),
        Rule(
            "!has(self.mongodb) || !has(self.migrations) || !has(self.migrations.schemas) || "
            "size(self.migrations.schemas) == 0",
            "a MongoDB database has no schemas: leave migrations.schemas out",
            lambda self: self.mongodb is None or self.migrations is None or not self.migrations.schemas,
        ),
        Rule(
            "!has(self.mongodb) || !has(self.migrations) || !has(self.migrations.conventions)",
            "naming conventions are for Postgres: leave migrations.conventions out",
            lambda self: self.mongodb is None or self.migrations is None or self.migrations.conventions is None,
        ),
        Rule(
            "!has(self.interval) || !self.interval.matches('^(0+(s|m|h|d)|0*[0-9]s|0*[0-9]{1,4}ms)$')",
            "interval is 10s or more: a shorter one would only load the server",
            lambda self: self.interval >= 10.0,
            path=".interval",
        ),
    )


class ObjectCounts(Model):
    """Declared objects by state."""

    ready: int | None = None
    """As declared."""
    waiting: int | None = None
    """Wait for a table, a lock or an approval."""
    failed: int | None = None
    """Refused, in conflict, or failed."""


class NotReady(Model):
    """An object that is not as declared."""

    kind: Word = ""
    """role, grant, schema, collection …"""
    name: Text = ""
    """Its name."""
    state: Word = ""
    """Waiting, Failed, Conflict or Pending."""
    message: Message = ""
    """Why, and the next step."""


class Risks(Model):
    """Changes of a plan by risk."""

    additive: int | None = Field(default=None, alias="Additive")
    """Nothing can be lost."""
    narrowing: int | None = Field(default=None, alias="Narrowing")
    """Takes access or freedom away."""
    locking: int | None = Field(default=None, alias="Locking")
    """Needs a lock on a table."""
    destructive: int | None = Field(default=None, alias="Destructive")
    """Loses data."""


class PlanStatus(Model):
    """Changes that were found and not made."""

    digest: Digest | None = None
    """What approvedPlan has to be."""
    changes: int | None = None
    """How many."""
    risks: Risks | None = None
    """How many of each risk."""
    config_map: Word | None = None
    """ConfigMap with the whole plan."""
    rows: Word | None = None
    """Rows or documents that are lost with it, and whether they were counted or estimated when the plan was made."""
    statements: tuple[Message, ...] = listed(10)
    """The first ones."""


class ProbeCounts(Model):
    """Probes by result."""

    passed: int | None = None
    """As expected."""
    failed: int | None = None
    """Rows were seen that should not be, or the reverse."""
    not_probed: int | None = None
    """The table has no rows to tell by."""


class RowLevelSecurityStatus(Model):
    """Row-level security of one table as last seen."""

    table: Text = ""
    """The table."""
    policies: int | None = None
    """Policies that stand."""
    probes: ProbeCounts | None = None
    """Results of the probes."""


class LastDrift(Model):
    """The last time that the database was found changed by hand."""

    time: Time | None = None
    """When it was found."""
    objects: int | None = None
    """How many objects differed."""


class DatabaseSchemaStatus(Status):
    """What was last seen of the database."""

    objects: ObjectCounts | None = None
    """Declared objects by state."""
    not_ready: tuple[NotReady, ...] = listed(100)
    """Objects that are not as declared, the first 100."""
    drift: int | None = None
    """Objects that differ from the declaration now because someone changed them by hand."""
    pending: int | None = None
    """Changes that were found and not made, because they wait for an approval or drift is Report."""
    plan: PlanStatus | None = None
    """Changes that were found and not made."""
    row_level_security: tuple[RowLevelSecurityStatus, ...] = listed(200)
    """Row-level security by table."""
    last_drift: LastDrift | None = None
    """The last time that the database was found changed by hand."""
    advice: tuple[Text, ...] = listed(50)
    """What would be better otherwise."""
    system_identifier: Word | None = None
    """The server that this was seen on; another one is not written to."""


KIND = Kind(
    kind="DatabaseSchema",
    short="dbs",
    spec=DatabaseSchemaSpec,
    status=DatabaseSchemaStatus,
    description="What is in one database of a DatabaseServer.",
    first=(
        Column("Server", ".spec.serverRef.name", "The DatabaseServer"),
        Column("Database", ".spec.database", "The database"),
    ),
    more=(
        Column("Drift", ".status.drift", "Objects that were changed by hand", "integer"),
        Column("Pending", ".status.pending", "Changes that wait", "integer"),
    ),
)
