"""Every reason that a condition, an event or an error can carry, in one place.

Reasons are API: people write alerts on them. A new one is added here, with the sentence that explains it to a
person who has just been woken by it; ``docs/reference/reasons.md`` is generated from this table.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A CamelCase word for why something is as it is (Kubernetes API conventions)."""

    def __new__(cls, value: str, explanation: str) -> Reason:
        """Attach the explanation to the member."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.explanation = explanation
        return member

    explanation: str

    # good
    REACHABLE = "Reachable", "the server answers and the operator's login can log in"
    VERIFIED = "Verified", "the live database was looked at after the last change and equals the declaration"
    PROVISIONED = "Provisioned", "database, extensions, schemas and roles stand; migrations may run"
    APPLIED = "Applied", "every migration of this run stands in the database's history"
    UNDONE = "Undone", "the migrations of this run were undone"
    BASELINED = "Baselined", "the migrations of this run count as run, and none of them was"
    REPAIRED = "Repaired", "the migrations' history was corrected, with an event that says by whom and why"
    PLANNED = "Planned", "what would run stands in the status; nothing was run"
    VALIDATED = "Validated", "the files of the migrations fit the database's history; nothing was run"
    SUSPENDED = "Suspended", "spec.suspend is true: nothing is looked at and nothing is changed"

    # on the way
    RECONCILING = "Reconciling", "work is under way"
    WAITING_FOR_SERVER = "WaitingForServer", "the DatabaseServer that is referred to does not exist or is not ready yet"
    WAITING_FOR_SCHEMA = "WaitingForSchema", "the DatabaseSchema referred to does not exist or is not Provisioned yet"
    WAITING_FOR_SOURCE = "WaitingForSource", "the ConfigMap or image with the migrations is not there, or not read yet"
    WAITING_FOR_OBJECTS = (
        "WaitingForObjects",
        "a grant names a table, sequence or function, or migrations a schema, that is not there yet",
    )
    WAITING_FOR_LOCK = "WaitingForLock", "another session holds the lock; tried again by itself"
    WAITING_FOR_MIGRATIONS = "WaitingForMigrations", "migrations of this database have not all run yet"
    SUPERSEDED = "Superseded", "a plan was approved, and what waits now is another one: read and approve that"
    WAITING_FOR_APPROVAL = "WaitingForApproval", "the plan holds a change that a person has to approve"
    VALIDATION_VIOLATED = "ValidationViolated", "documents violate the validator; it stays at warn until they do not"
    BUILDING_INDEX = "BuildingIndex", "the server is building an index; looked at again by itself"
    RUNNING = "Running", "the migrations are running"

    LOGIN_REFUSED = "LoginRefused", "the login is as declared, and the server does not let it into its database"

    # transient: retried for ever
    UNREACHABLE = "Unreachable", "no connection: wrong host or port, a firewall, or the server is down"
    HOST_NOT_FOUND = "HostNotFound", "the host name does not resolve"
    CONNECTION_TIMEOUT = "ConnectionTimeout", "the server accepted the connection and did not answer in time"
    CONNECTION_LOST = "ConnectionLost", "the connection broke during the work"
    TOO_MANY_CONNECTIONS = "TooManyConnections", "the server has no connection left, or the operator's limit is used up"
    SERVER_STARTING = "ServerStarting", "the server is starting up or shutting down"
    CIRCUIT_OPEN = "CircuitOpen", "the server failed several times in a row; it is probed again after a pause"
    TIMEOUT = "Timeout", "a statement or the whole pass took longer than its limit"
    NOT_CONVERGED = "NotConverged", "the changes were applied and the database still differs; nothing was committed"
    NOT_LEADING = "NotLeading", "this process lost the Lease and may not write any more"
    KUBERNETES_API_ERROR = "KubernetesApiError", "the Kubernetes API refused or did not answer"
    KUBERNETES_FORBIDDEN = (
        "KubernetesForbidden",
        "the operator's account lacks a right in Kubernetes, which is named",
    )
    INTERNAL_ERROR = "InternalError", "a defect in the operator; its log has the traceback"

    # wrong until someone changes something
    INVALID_SPEC = "InvalidSpec", "the resource contradicts itself or names something that cannot be"
    SECRET_NOT_FOUND = "SecretNotFound", "a Secret that is referred to does not exist"
    SECRET_KEY_MISSING = "SecretKeyMissing", "a Secret exists and lacks a key"
    AUTHENTICATION_FAILED = "AuthenticationFailed", "the server refused user name or password"
    TLS_VERIFICATION_FAILED = "TLSVerificationFailed", "the server's certificate was not accepted"
    TLS_UNAVAILABLE = "TLSUnavailable", "the server does not offer TLS and spec.tls.mode demands it"
    UNSUPPORTED_VERSION = "UnsupportedVersion", "the server is older than Postgres 15 or MongoDB 6"
    STANDBY = "Standby", "the server is a read-only standby; changes need the primary"
    POOLER_DETECTED = "PoolerDetected", "a connection pooler answers; locks and settings need a direct connection"
    INSUFFICIENT_PRIVILEGES = (
        "InsufficientPrivileges",
        "the operator's login lacks rights; the message names them",
    )
    EXTENSION_NOT_AVAILABLE = "ExtensionNotAvailable", "the extension's files are not installed on the server"
    UNSUPPORTED = "Unsupported", "the server, or this version of the operator, cannot do this"
    SERVER_REPLACED = "ServerReplaced", "the server has another system identifier than before: nothing is written"
    STATEMENT_FAILED = "StatementFailed", "a statement was refused by the server"
    CHECKSUM_MISMATCH = "ChecksumMismatch", "a migration that ran was changed afterwards"
    MIGRATION_MISSING = "MigrationMissing", "the history names a migration that the source does not have"
    OUT_OF_ORDER = "OutOfOrder", "a migration is older than one that ran already"
    INVALID_MIGRATION = "InvalidMigration", "a migration file cannot be read"
    IRREVERSIBLE = "Irreversible", "a migration that is to be undone has no way down"
    PARTLY_APPLIED = "PartlyApplied", "a migration without a transaction stopped half way and has to be finished first"
    ROLE_NOT_FOUND = "RoleNotFound", "a role that is referred to does not exist"
    ISOLATION_BROKEN = "IsolationBroken", "a probe saw rows that row-level security is to hide; the message says which"
    UNSAFE_OWNER = "UnsafeOwner", "a table's owner may act as an administrator: no declared expression is run as he"

    # conflicts and refusals
    CONFLICT = "Conflict", "two resources claim the same object; the older claim wins"
    ADOPTION_REQUIRED = "AdoptionRequired", "the object existed before and nobody claims it; see spec.adoption"
    ACCESS_DENIED = "AccessDenied", "the server's spec.access does not allow this namespace to do this"
    FORBIDDEN_NAME = "ForbiddenName", "a name that is refused to everyone, such as pg_*"
    DESTRUCTIVE_REFUSED = (
        "DestructiveRefused",
        "data would be lost; destructive is Refuse, here or for the server, or the migration's file does not allow it",
    )
    DRIFT_DETECTED = "DriftDetected", "changed by hand; it is being put back, or stays so since spec.drift is Report"

    # events
    DRIFT_CORRECTED = "DriftCorrected", "someone changed the database by hand; it was put back"
    CHANGES_APPLIED = "ChangesApplied", "the database was changed to match the declaration"
    DELETED = "Deleted", "what this resource made was removed from the database"
    RETAINED = "Retained", "the resource is gone and the database keeps everything"
    ROTATED = "Rotated", "a login has a new password, which stands in its Secret"
    PREVIOUS_LOGIN_IN_USE = (
        "PreviousLoginInUse",
        "the login before the last rotation still has sessions after its grace: it is switched off when they end",
    )
    LOGIN_RETAINED = "LoginRetained", "the resource is gone and its login stays: the server is gone, or it was not ours"
