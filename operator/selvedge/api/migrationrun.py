"""MigrationRun: run migrations on the database of one DatabaseSchema, once."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from selvedge.api.base import (
    Checked,
    Column,
    Destructive,
    Digest,
    Kind,
    Message,
    Model,
    ResourceName,
    Rule,
    SchemaName,
    Seconds,
    Status,
    Text,
    Time,
    Word,
    listed,
)

INLINE_LIMIT = 64 * 1024
"""Bytes that all inline files may have together."""

MOST_SCHEMAS = 200
"""Schemas that one set of files runs in."""

MigrationVersion = Annotated[str, StringConstraints(max_length=20, pattern=r"^[0-9]*$")]
FileName = Annotated[str, StringConstraints(min_length=1, max_length=253)]


class Action(StrEnum):
    """What a run does."""

    UP = "Up"
    DOWN = "Down"
    TO = "To"
    REDO = "Redo"
    BASELINE = "Baseline"
    REPAIR = "Repair"
    VALIDATE = "Validate"
    PLAN = "Plan"


class TransactionMode(StrEnum):
    """How migrations share transactions."""

    PER_MIGRATION = "PerMigration"
    ALL = "All"


class OutOfOrder(StrEnum):
    """What happens with a migration that is older than one that ran."""

    REFUSE = "Refuse"
    APPLY = "Apply"


class ConfigMapRef(Model):
    """A ConfigMap in the resource's own namespace."""

    name: ResourceName
    """Name of the ConfigMap; each key is a file."""


class InlineFiles(Checked):
    """Migration files in the resource itself."""

    files: dict[FileName, Annotated[str, StringConstraints(max_length=INLINE_LIMIT)]] = Field(
        max_length=100, min_length=1
    )
    """Files by name, such as 20250101000000_users.sql; 64 KiB together."""

    RULES = (
        Rule(
            f"self.files.map(name, size(self.files[name])).sum() <= {INLINE_LIMIT}",
            "the inline files are larger than 64 KiB together: put them into a ConfigMap",
            lambda self: sum(len(text.encode()) for text in self.files.values()) <= INLINE_LIMIT,
        ),
    )


class PullSecretRef(Model):
    """A Secret in the resource's own namespace."""

    name: ResourceName
    """Name of the Secret."""


class ImageSource(Checked):
    """Migration files in a container image, which is only read and never started."""

    reference: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    """The image, with tag or digest."""
    path: Annotated[str, StringConstraints(max_length=512)] = "/migrations"
    """Directory in the image."""
    pull_secrets: tuple[PullSecretRef, ...] = listed(8, "name")
    """Secrets of type kubernetes.io/dockerconfigjson for the registry."""


class MigrationSource(Checked):
    """Where migration files come from."""

    config_maps: tuple[ConfigMapRef, ...] = listed(32, "name")
    """ConfigMaps whose keys are the files; taken together."""
    inline: InlineFiles | None = None
    """Files in the resource itself."""
    image: ImageSource | None = None
    """Files in a container image."""

    RULES = (
        Rule(
            "[has(self.configMaps) && size(self.configMaps) > 0, has(self.inline), has(self.image)]"
            ".filter(given, given).size() == 1",
            "source needs exactly one of configMaps, inline and image",
            lambda self: [bool(self.config_maps), self.inline is not None, self.image is not None].count(True) == 1,
        ),
    )


class Timeouts(Model):
    """Limits of the migrations' sessions."""

    lock: Seconds = 5.0
    """Postgres lock_timeout of each statement; it is tried again until lockWait is over."""
    statement: Seconds = 0.0
    """Postgres statement_timeout of each statement; 0s is no limit."""
    lock_wait: Seconds = 600.0
    """Longest wait for the migrations' lock, and for locks on tables, over the whole run."""


class SchemaRef(Model):
    """A DatabaseSchema in the same namespace."""

    name: ResourceName
    """Name of the DatabaseSchema."""


PlaceholderName = Annotated[str, StringConstraints(min_length=1, max_length=63)]
PlaceholderValue = Annotated[str, StringConstraints(max_length=256, pattern=r"^[A-Za-z0-9_ .,:/@+=*-]*$")]
Placeholders = Annotated[dict[PlaceholderName, PlaceholderValue], Field(max_length=32)]
"""Values by name; more about them is checked when they are used (:mod:`selvedge.migrate.placeholders`)."""

HookText = Annotated[str, StringConstraints(min_length=1, max_length=16 * 1024)]


class RunHooks(Model):
    """SQL beside the migrations; Postgres only. A file of the source named beforeRun.sql and so on is the same."""

    before_run: HookText | None = None
    """Before a run that has something to do, in a transaction of its own."""
    after_run: HookText | None = None
    """After such a run, in a transaction of its own."""
    before_each: HookText | None = None
    """At the beginning of each migration's transaction."""
    after_each: HookText | None = None
    """At the end of each migration's transaction."""


CHANGED = "a MigrationRun cannot be changed, approvedPlan aside: make a new one"
_DEFAULTED = ("schemaRef", "action", "transaction", "outOfOrder", "destructive", "environment")
_OPTIONAL = ("target", "timeouts", "source", "placeholders", "hooks", "schemas")


def _unchanged(name: str) -> str:
    """CEL: an optional field is as it was."""
    return f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"


_UNCHANGED = " && ".join([f"self.{name} == oldSelf.{name}" for name in _DEFAULTED] + [_unchanged(n) for n in _OPTIONAL])


class MigrationRunSpec(Checked):
    """Migrations to run on the database of a DatabaseSchema. Only approvedPlan can be changed afterwards."""

    schema_ref: SchemaRef
    """The DatabaseSchema whose database is migrated."""
    action: Action = Action.UP
    """Up: newer ones. Down: back. To: up or down to target. Redo: the newest down and up. Baseline: mark as run.
    Repair: correct the history (annotation selvedge.dev/repair). Validate: compare files and history. Plan: only say
    what would run."""
    target: MigrationVersion | None = None
    """Version to stop at; the newest for Up, one step for Down, where it is left out. 0 is the empty database."""
    source: MigrationSource | None = None
    """The files; those of the DatabaseSchema where it is left out."""
    transaction: TransactionMode = TransactionMode.PER_MIGRATION
    """PerMigration: BEGIN and COMMIT around each migration with its history row. All: around all of them."""
    out_of_order: OutOfOrder = OutOfOrder.REFUSE
    """What happens with a migration that is older than one that ran already."""
    destructive: Destructive = Destructive.REQUIRE_APPROVAL
    """What happens with a migration that loses data (DROP TABLE, DROP COLUMN, TRUNCATE …)."""
    approved_plan: Digest = ""
    """Digest of the plan that a person approved (sha256:…), used up by the run. Of no effect once the run is over."""
    timeouts: Timeouts = Timeouts()
    """Limits of the migrations' sessions."""
    environment: Annotated[str, StringConstraints(max_length=63)] = ""
    """Chooses seeds and files with an `-- env:` line."""
    placeholders: Placeholders | None = None
    """Values that take the place of ${env:NAME} in the files; the DatabaseSchema's where it is left out. No secrets."""
    hooks: RunHooks | None = None
    """SQL that runs beside the migrations; the DatabaseSchema's where it is left out."""
    schemas: tuple[SchemaName, ...] = listed(MOST_SCHEMAS)
    """Postgres: the files run in each of these schemas, one after the other, each with a history of its own; the
    DatabaseSchema's where it is left out. They have to exist."""

    RULES = (
        Rule(_UNCHANGED, CHANGED),
        Rule(
            "!(has(self.action) && self.action in ['To', 'Baseline']) || (has(self.target) && self.target != '')",
            "actions To and Baseline need a target: give the version",
            lambda self: self.action not in (Action.TO, Action.BASELINE) or bool(self.target),
        ),
    )


class MigrationError(Model):
    """Why a migration failed."""

    file: Text = ""
    """The file."""
    line: int | None = None
    """Line in the file, from 1."""
    statement: Text = ""
    """The beginning of the statement."""
    sqlstate: Word = ""
    """SQLSTATE of Postgres, or code name of MongoDB."""
    message: Message = ""
    """What the server said."""
    hint: Text = ""
    """The next step."""


class MigrationStatus(Model):
    """One migration of this run."""

    in_schema: Word = Field(default="", alias="schema")
    """The schema that it runs in, where the run is for several."""
    version: Word = ""
    """Its version."""
    name: Text = ""
    """Its description."""
    kind: Word = ""
    """Repeatable or Seed, for one without a version."""
    direction: Word = ""
    """up, down, mark, unmark or accept."""
    checksum: Word = ""
    """sha256 of the text that runs, and of its directives; the plan's digest is taken of it, version and direction."""
    state: Word = ""
    """Pending, Running, Failed or Skipped; at its end Applied, Undone, Marked, Unmarked or Accepted."""
    statements: Word = ""
    """Statements that ran, of all: 3/5."""
    started_at: Time | None = None
    """When it began."""
    duration: Word = ""
    """How long it took, such as 1.2s."""
    waiting_for: Text = ""
    """The lock or the index build that it waits for."""
    error: MigrationError | None = None
    """Why it failed."""


class MigrationRunStatus(Status):
    """How far the run is."""

    phase: Word | None = None
    """Pending, WaitingForApproval, Running, Succeeded or Failed."""
    progress: Word | None = None
    """Migrations that are done, of all of this run: 2/3."""
    version: Word | None = None
    """The newest version in the database's history."""
    target: Word | None = None
    """The version that the run goes to, as it was settled on before the first statement."""
    plan: Digest | None = None
    """Digest of what this run does; approvedPlan has to equal it where a person has to approve."""
    inputs: tuple[Text, ...] = listed(64)
    """What else the digest is taken of: values of placeholders, checksums of hooks, the history where it goes back."""
    advice: tuple[Text, ...] = listed(50)
    """What the linter says of the migrations that run, worst first: what running code or a busy server suffers from."""
    started_at: Time | None = None
    """When the first statement ran."""
    finished_at: Time | None = None
    """When the run came to its end."""
    migrations: tuple[MigrationStatus, ...] = listed(200)
    """The migrations of this run, in order; the last 200 of more."""


KIND = Kind(
    kind="MigrationRun",
    short="mig",
    spec=MigrationRunSpec,
    status=MigrationRunStatus,
    description="Migrations that are run once on the database of a DatabaseSchema.",
    first=(
        Column("Schema", ".spec.schemaRef.name", "The DatabaseSchema"),
        Column("Action", ".spec.action", "What the run does"),
        Column("Phase", ".status.phase", "How far it is"),
        Column("Progress", ".status.progress", "Migrations that are done, of all"),
        Column("Version", ".status.version", "Newest version in the history"),
    ),
)
