"""DatabaseUser: a login for one database, its password, and the Secret that an application reads."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from selvedge.api.base import (
    Bool,
    Checked,
    Column,
    DeletionPolicy,
    Identifier,
    Int,
    Kind,
    Model,
    ResourceName,
    Rule,
    Seconds,
    SecretKey,
    Status,
    Time,
    listed,
)
from selvedge.api.databaseschema import Adoption
from selvedge.api.migrationrun import SchemaRef
from selvedge.api.postgres import Settings

LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=317)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
AnnotationValue = Annotated[str, StringConstraints(max_length=4096)]
TemplateKey = Annotated[str, StringConstraints(min_length=1, max_length=253)]
TemplateText = Annotated[str, StringConstraints(max_length=4096)]


class PasswordManagement(StrEnum):
    """Who sets the password on the server."""

    OPERATOR = "Operator"
    EXTERNAL = "External"


class RotationStrategy(StrEnum):
    """How a password is changed."""

    IN_PLACE = "InPlace"
    DUAL_USER = "DualUser"


class UserRole(Model):
    """A role that the login is a member of."""

    role: Identifier
    """Postgres: GRANT role TO login. MongoDB: a role of the database, or a built-in one (read, readWrite)."""
    database: Annotated[str, StringConstraints(max_length=63)] = ""
    """MongoDB: the role's database; that of the DatabaseSchema where it is left out. Not for Postgres."""


class PasswordSecretRef(Model):
    """One key of a Secret in the resource's own namespace."""

    name: ResourceName
    """Name of the Secret."""
    key: SecretKey = "password"
    """Key in the Secret's data."""


class Password(Checked):
    """Where the password comes from."""

    length: Annotated[Int, Field(ge=16, le=128)] = 32
    """Length of a generated password, in letters and digits."""
    secret_ref: PasswordSecretRef | None = None
    """A password of your own, in place of a generated one. While the Secret or its key is missing, the password on the
    server stays as it is."""
    management: PasswordManagement = PasswordManagement.OPERATOR
    """Operator: set on the server, as a SCRAM verifier, and put back when someone changes it. External: Vault or a
    person sets it; the login is created without a password, and nobody's password is ever changed."""


class Rotation(Checked):
    """When and how a password is changed."""

    every: Seconds | None = None
    """Age at which a generated password is changed, 1m or more; never by itself where it is left out."""
    strategy: RotationStrategy = RotationStrategy.IN_PLACE
    """InPlace: the password of the one login is changed; who has the old one cannot log in any more. DualUser: two
    logins take turns, both act as the role of that username, and the old one works on until grace is over."""
    grace: Seconds = 3600.0
    """DualUser: how long the old login works after a rotation. It is switched off then, once it has no session."""

    RULES = (
        Rule(
            "!has(self.every) || !self.every.matches("
            "'^(0+(s|m|h|d|ms)|0*[0-5]?[0-9]s|0*[0-9]{1,4}ms|0*[0-5][0-9]{4}ms)$')",
            "every is 1m or more: applications have to read each new password",
            lambda self: self.every is None or self.every >= 60.0,
            path=".every",
        ),
    )


class BindingSecret(Checked):
    """The Secret that an application reads."""

    name: ResourceName | None = None
    """Name of the Secret; the resource's own name with -db where it is left out."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=32)
    """Labels of the Secret."""
    annotations: dict[LabelKey, AnnotationValue] = Field(default_factory=dict, max_length=32)
    """Annotations of the Secret."""
    template: dict[TemplateKey, TemplateText] = Field(default_factory=dict, max_length=32)
    """Keys of your own. $(key) is replaced by the value of that key (uri, username …); $$(key) is not. Nothing else is
    looked at."""
    env_keys: Bool = False
    """Postgres: PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD and PGSSLMODE too."""

    RULES = (
        Rule(
            "!has(self.template) || self.template.all(key, key.matches('^[-._a-zA-Z0-9]+$'))",
            "a key of template has only letters, digits, -, _ and .: a Secret takes no others",
            lambda self: all(re.fullmatch(r"[-._a-zA-Z0-9]+", key) for key in self.template),
            path=".template",
        ),
    )


class DatabaseUserSpec(Checked):
    """A login for the database of a DatabaseSchema."""

    schema_ref: SchemaRef
    """The DatabaseSchema whose database the login is for."""
    username: Identifier | None = None
    """Name of the login; the resource's own name with _ for - where it is left out. It cannot be changed."""
    roles: tuple[UserRole, ...] = listed(64)
    """What the login may do, and nothing else: memberships that are not listed are taken away."""
    connection_limit: Annotated[Int, Field(ge=-1, le=1_000_000)] = -1
    """Postgres: CONNECTION LIMIT; -1 is no limit."""
    valid_until: Time | None = None
    """Postgres: VALID UNTIL, after which nobody can log in with the password."""
    settings: Settings = Field(default_factory=dict)
    """Postgres: ALTER ROLE … SET: of context user, or with a prefix of your own (app.tenant)."""
    password: Password = Password()
    """Where the password comes from."""
    rotation: Rotation = Rotation()
    """When and how the password is changed. By hand: annotate selvedge.dev/rotate with a text that was not there."""
    secret: BindingSecret = BindingSecret()
    """The Secret that an application reads."""
    adoption: Adoption = Adoption.REQUIRE_APPROVAL
    """What happens with a login of this name that was there before: RequireApproval and Refuse leave it, Allow takes it
    over, with a new password."""
    interval: Seconds = 300.0
    """How often the login is looked at; 10s or more."""
    deletion_policy: DeletionPolicy = DeletionPolicy.DELETE
    """Delete: sessions ended, objects handed to somebody who gains nothing by it, login dropped. Retain: login and
    Secret stay."""
    suspend: Bool = False
    """True: the login is neither looked at nor changed."""

    RULES = (
        Rule(
            "!has(self.interval) || !self.interval.matches('^(0+(s|m|h|d)|0*[0-9]s|0*[0-9]{1,4}ms)$')",
            "interval is 10s or more: a shorter one would only load the server",
            lambda self: self.interval >= 10.0,
            path=".interval",
        ),
        Rule(
            "has(self.username) == has(oldSelf.username) && (!has(self.username) || self.username == oldSelf.username)",
            "username cannot be changed: make a new DatabaseUser",
        ),
        Rule("self.schemaRef == oldSelf.schemaRef", "schemaRef cannot be changed: make a new DatabaseUser"),
        Rule(
            "!has(self.username) || !(self.username.lowerAscii().startsWith('pg_') || "
            "self.username.lowerAscii() in ['public', 'none'])",
            "names that begin with pg_, and public and none, are not for logins: choose another username",
            lambda self: self.username is None or not _reserved(self.username.lower()),
            path=".username",
        ),
        Rule(
            "!(has(self.rotation) && has(self.rotation.every)) || !has(self.password) || !(has(self.password.secretRef)"
            " || (has(self.password.management) && self.password.management == 'External'))",
            "rotation.every needs a generated password: remove it, or password.secretRef and management External",
            lambda self: self.rotation.every is None or self.password == Password(length=self.password.length),
        ),
        Rule(
            "!(has(self.rotation) && has(self.rotation.strategy) && self.rotation.strategy == 'DualUser') || "
            "!has(self.password) || !has(self.password.management) || self.password.management != 'External'",
            "rotation.strategy DualUser needs password.management Operator",
            lambda self: (
                self.rotation.strategy is not RotationStrategy.DUAL_USER
                or self.password.management is not PasswordManagement.EXTERNAL
            ),
        ),
    )


def _reserved(lowered: str) -> bool:
    return lowered.startswith("pg_") or lowered in ("public", "none")


class Binding(Model):
    """The Secret, where Service Binding looks for it."""

    name: Annotated[str, StringConstraints(max_length=253)] | None = None
    """Name of the Secret."""


class DatabaseUserStatus(Status):
    """What a DatabaseUser reports; it is a Provisioned Service (servicebinding.io)."""

    binding: Binding | None = None
    """The Secret with the credentials, once it is there."""
    current_username: Annotated[str, StringConstraints(max_length=63)] | None = None
    """The login that the Secret names."""
    previous_username: Annotated[str, StringConstraints(max_length=63)] | None = None
    """The login before the last rotation, as long as it still works."""
    last_rotation_time: Time | None = None
    """When the password was changed last."""
    next_rotation_time: Time | None = None
    """When it is changed next; absent where nothing is changed by itself."""
    server: Annotated[str, StringConstraints(max_length=317)] | None = None
    """The DatabaseServer (namespace/name) that the login is on: known also once the DatabaseSchema is gone."""
    database: Annotated[str, StringConstraints(max_length=63)] | None = None
    """The database that the login is for."""


KIND = Kind(
    kind="DatabaseUser",
    short="dbu",
    spec=DatabaseUserSpec,
    status=DatabaseUserStatus,
    description="A login for one database, with its password and the Secret that an application reads.",
    first=(
        Column("Schema", ".spec.schemaRef.name", "The DatabaseSchema"),
        Column("Username", ".status.currentUsername", "The login in use"),
        Column("Secret", ".status.binding.name", "The Secret with the credentials"),
        Column("Next Rotation", ".status.nextRotationTime", "When the password is changed next"),
    ),
)
