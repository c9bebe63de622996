"""What each reason asks of a person: whether to wait, to act or to decide, and the next step.

The meaning of a reason is with the reason itself (:mod:`selvedge.core.reasons`); here is what is done about it, for
``kubectl selvedge explain`` and ``doctor``. A test holds that no reason is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from selvedge.core.reasons import Reason


class Standing(StrEnum):
    """Who has to move."""

    __slots__ = ()

    GOOD = "Good"
    """Nobody: it is as declared."""
    WORKING = "Working"
    """The operator, which goes on by itself; nothing failed."""
    RETRIED = "Retried"
    """Something failed that may pass; the operator tries again for ever."""
    ACTION = "Action"
    """A person: waiting does not help."""
    DECISION = "Decision"
    """A person has to say yes or no."""
    EVENT = "Event"
    """Nobody: it says what happened."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """What is done about a reason; ``step`` has the places {namespace}, {name} and {resource}."""

    standing: Standing
    step: str

    def shown(self, resource: str = "dbs", namespace: str = "NAMESPACE", name: str = "NAME") -> str:
        """The step for one object, or with NAMESPACE and NAME to be filled in."""
        return self.step.format(resource=resource, namespace=namespace, name=name)


_NOTHING = "nothing to do"
_WAIT = "wait: it is tried again by itself"
_SEE = "kubectl -n {namespace} describe {resource} {name}"
_RECHECK = "kubectl -n {namespace} annotate {resource} {name} --overwrite selvedge.dev/reconcile-now=$(date +%s)"
_READ_AT_ONCE = "a Secret labelled selvedge.dev/watch=true is read at once where Secrets are watched"
_RESTORE_FILE = "a file that ran is never edited: put it back as it was, and write what is new into a new one"


_TABLE: dict[Reason, Remedy] = {
    Reason.REACHABLE: Remedy(Standing.GOOD, _NOTHING),
    Reason.VERIFIED: Remedy(Standing.GOOD, _NOTHING),
    Reason.PROVISIONED: Remedy(Standing.GOOD, _NOTHING),
    Reason.APPLIED: Remedy(Standing.GOOD, _NOTHING),
    Reason.UNDONE: Remedy(Standing.GOOD, _NOTHING),
    Reason.BASELINED: Remedy(Standing.GOOD, _NOTHING),
    Reason.REPAIRED: Remedy(Standing.GOOD, _NOTHING),
    Reason.PLANNED: Remedy(Standing.GOOD, "read it: kubectl -n {namespace} get mig {name} -o yaml"),
    Reason.VALIDATED: Remedy(Standing.GOOD, _NOTHING),
    Reason.SUSPENDED: Remedy(Standing.DECISION, "set spec.suspend to false to go on"),
    Reason.RECONCILING: Remedy(Standing.WORKING, "wait: a pass is under way"),
    Reason.WAITING_FOR_SERVER: Remedy(
        Standing.WORKING, "make the DatabaseServer that spec.serverRef names Ready; kubectl get dbsrv -A lists them"
    ),
    Reason.WAITING_FOR_SCHEMA: Remedy(
        Standing.WORKING, "make the DatabaseSchema that spec.schemaRef names Provisioned; it lies in the same namespace"
    ),
    Reason.WAITING_FOR_SOURCE: Remedy(
        Standing.ACTION,
        "create the ConfigMap with the migrations, labelled selvedge.dev/watch=true, or correct its name in the spec; "
        "of an image the message says what its pod waits for",
    ),
    Reason.WAITING_FOR_OBJECTS: Remedy(
        Standing.WORKING, "run the migration that creates the object, or correct its name in the spec"
    ),
    Reason.WAITING_FOR_LOCK: Remedy(
        Standing.RETRIED,
        "wait; if it lasts, find who holds the lock: SELECT pid, query FROM pg_stat_activity "
        "WHERE pid = ANY(pg_blocking_pids(…)) on the server",
    ),
    Reason.WAITING_FOR_MIGRATIONS: Remedy(
        Standing.WORKING, "see its MigrationRuns: kubectl -n {namespace} get mig; one that failed says why"
    ),
    Reason.SUPERSEDED: Remedy(
        Standing.DECISION,
        "read what waits now and approve that: kubectl selvedge -n {namespace} plan {name}, then approve {name}",
    ),
    Reason.WAITING_FOR_APPROVAL: Remedy(
        Standing.DECISION,
        "read it and decide: kubectl selvedge -n {namespace} plan {name}, then approve {name}; "
        "a MigrationRun is named mig/NAME",
    ),
    Reason.VALIDATION_VIOLATED: Remedy(
        Standing.ACTION, "correct the documents that violate the validator; the message says how many there are"
    ),
    Reason.BUILDING_INDEX: Remedy(Standing.WORKING, "wait: the server builds it; db.currentOp() shows how far it is"),
    Reason.RUNNING: Remedy(Standing.WORKING, "wait; how far it is: kubectl -n {namespace} get mig"),
    Reason.LOGIN_REFUSED: Remedy(
        Standing.ACTION, "grant CONNECT on the database to one of the login's roles in the DatabaseSchema"
    ),
    Reason.UNREACHABLE: Remedy(
        Standing.RETRIED,
        "check host and port in spec.hosts, that the server runs, and that firewalls and NetworkPolicies let the "
        "operator's pod through",
    ),
    Reason.HOST_NOT_FOUND: Remedy(
        Standing.RETRIED, "correct the host in spec.hosts, or the DNS of the operator's namespace"
    ),
    Reason.CONNECTION_TIMEOUT: Remedy(
        Standing.RETRIED, "look at the server's load and locks; a firewall that drops packets looks the same"
    ),
    Reason.CONNECTION_LOST: Remedy(Standing.RETRIED, "wait; if it repeats, look into the server's log"),
    Reason.TOO_MANY_CONNECTIONS: Remedy(
        Standing.RETRIED,
        "raise max_connections on the server or spec.connections.max of the DatabaseServer, or end what holds them",
    ),
    Reason.SERVER_STARTING: Remedy(Standing.RETRIED, _WAIT),
    Reason.CIRCUIT_OPEN: Remedy(Standing.RETRIED, "see why its DatabaseServer is not Ready: kubectl get dbsrv -A"),
    Reason.TIMEOUT: Remedy(
        Standing.RETRIED,
        "see what the server does; a statement that needs longer: spec.connections.statementTimeout of the "
        "DatabaseServer, or spec.timeouts of the MigrationRun",
    ),
    Reason.NOT_CONVERGED: Remedy(
        Standing.RETRIED, "see which object differs still; a trigger or another tool may be changing it back"
    ),
    Reason.NOT_LEADING: Remedy(Standing.RETRIED, "nothing: the operator that holds the Lease goes on"),
    Reason.KUBERNETES_API_ERROR: Remedy(
        Standing.RETRIED, "see that the API server answers and the operator's ServiceAccount has the chart's rights"
    ),
    Reason.KUBERNETES_FORBIDDEN: Remedy(
        Standing.RETRIED,
        "give the operator's ServiceAccount the verb that the message names: helm upgrade restores its rules, those on "
        "Secrets in the namespaces of rbac.secretNamespaces where that is used",
    ),
    Reason.INTERNAL_ERROR: Remedy(Standing.RETRIED, "read the traceback in the operator's log and report it"),
    Reason.INVALID_SPEC: Remedy(Standing.ACTION, "correct the field that the message names, and apply it again"),
    Reason.SECRET_NOT_FOUND: Remedy(
        Standing.ACTION,
        f"create the Secret in namespace {{namespace}}, where it is referred to, or correct its name; {_READ_AT_ONCE}",
    ),
    Reason.SECRET_KEY_MISSING: Remedy(
        Standing.ACTION, f"add the key to the Secret, or name the one that it has in the spec; {_READ_AT_ONCE}"
    ),
    Reason.AUTHENTICATION_FAILED: Remedy(
        Standing.ACTION, f"put the right user name and password into the Secret of spec.credentials; {_READ_AT_ONCE}"
    ),
    Reason.TLS_VERIFICATION_FAILED: Remedy(
        Standing.ACTION,
        "put the CA that signed the server's certificate into the Secret of spec.tls.caSecretRef; the certificate has "
        "to be made out to the very name in spec.hosts",
    ),
    Reason.TLS_UNAVAILABLE: Remedy(
        Standing.ACTION, "switch TLS on at the server; spec.tls.mode: Disable sends passwords over the wire unencrypted"
    ),
    Reason.UNSUPPORTED_VERSION: Remedy(Standing.ACTION, "upgrade the server to Postgres 15 or MongoDB 6 at least"),
    Reason.STANDBY: Remedy(
        Standing.RETRIED, "name the primary in spec.hosts, or all members: the writable one is found"
    ),
    Reason.POOLER_DETECTED: Remedy(Standing.ACTION, "name the server itself in spec.hosts, not its pooler"),
    Reason.INSUFFICIENT_PRIVILEGES: Remedy(
        Standing.ACTION, "have an administrator of the database server run the statements that the message names"
    ),
    Reason.EXTENSION_NOT_AVAILABLE: Remedy(
        Standing.ACTION, "install the extension's package on the server, or mark it optional: true"
    ),
    Reason.UNSUPPORTED: Remedy(
        Standing.ACTION, "remove the field, or upgrade what cannot do it; the message says which"
    ),
    Reason.SERVER_REPLACED: Remedy(
        Standing.DECISION,
        "find out why it is another server; sure that it is right, delete this DatabaseServer and apply it again",
    ),
    Reason.STATEMENT_FAILED: Remedy(
        Standing.ACTION, "correct what the message says of the statement, then make a new MigrationRun or a new spec"
    ),
    Reason.CHECKSUM_MISMATCH: Remedy(Standing.ACTION, f"{_RESTORE_FILE}; or a MigrationRun with action: Repair"),
    Reason.MIGRATION_MISSING: Remedy(
        Standing.ACTION, "put the file back into the source, or a MigrationRun with action: Repair"
    ),
    Reason.OUT_OF_ORDER: Remedy(
        Standing.ACTION, "rename the file so that it is the newest, or set outOfOrder: Apply in the MigrationRun"
    ),
    Reason.INVALID_MIGRATION: Remedy(
        Standing.ACTION, "correct the file and the line that the message names; selvedge migrate lint finds more"
    ),
    Reason.IRREVERSIBLE: Remedy(
        Standing.ACTION, "write a new migration that goes forward; what is lost is not made again by a way down"
    ),
    Reason.PARTLY_APPLIED: Remedy(
        Standing.ACTION, "see what stands and finish it by hand or with the same run, then action: Repair if need be"
    ),
    Reason.ROLE_NOT_FOUND: Remedy(Standing.ACTION, "declare the role in the DatabaseSchema, or correct its name"),
    Reason.ISOLATION_BROKEN: Remedy(
        Standing.ACTION,
        "look at it now, since tenants may see each other's rows: correct the policy that the message names",
    ),
    Reason.UNSAFE_OWNER: Remedy(
        Standing.ACTION, "give the table to an owner that is no superuser and has no way to one: ALTER TABLE … OWNER TO"
    ),
    Reason.CONFLICT: Remedy(
        Standing.DECISION, "remove the object from one of the two resources; the one that came first keeps it"
    ),
    Reason.ADOPTION_REQUIRED: Remedy(
        Standing.DECISION,
        "set spec.adoption to Allow to take over what exists (it needs the verb approve), or choose another name",
    ),
    Reason.ACCESS_DENIED: Remedy(
        Standing.ACTION, "have the owner of the DatabaseServer add namespace {namespace} to its spec.access"
    ),
    Reason.FORBIDDEN_NAME: Remedy(
        Standing.ACTION, "choose another name, or have the server's spec.access list this one"
    ),
    Reason.DESTRUCTIVE_REFUSED: Remedy(
        Standing.DECISION,
        "take it out of the spec; or set the field that the message names to RequireApproval and approve the plan; in "
        "a migration: -- allow: RULE",
    ),
    Reason.DRIFT_DETECTED: Remedy(
        Standing.DECISION, "find out who changed it; spec.drift: Correct puts it back, or declare what it is now"
    ),
    Reason.DRIFT_CORRECTED: Remedy(Standing.EVENT, "find out who changed it by hand: the server's log names the login"),
    Reason.CHANGES_APPLIED: Remedy(Standing.EVENT, _NOTHING),
    Reason.DELETED: Remedy(Standing.EVENT, _NOTHING),
    Reason.RETAINED: Remedy(Standing.EVENT, "drop the database by hand if nobody needs it any more"),
    Reason.ROTATED: Remedy(Standing.EVENT, "applications read the Secret again"),
    Reason.PREVIOUS_LOGIN_IN_USE: Remedy(
        Standing.EVENT, "restart the applications that have not read their Secret since the rotation"
    ),
    Reason.LOGIN_RETAINED: Remedy(Standing.EVENT, "drop the login by hand if nobody needs it any more"),
}

_UNKNOWN = Remedy(Standing.ACTION, _SEE)
_KNOWN = {str(reason): reason for reason in Reason}


def known(word: str) -> Reason | None:
    """The reason of this name, or None: a status may have been written by a newer operator."""
    return _KNOWN.get(word)


def remedy_of(word: str) -> Remedy:
    """What is done about the reason of this name; for one that this version does not know, to look at the object."""
    reason = known(word)
    return _UNKNOWN if reason is None else _TABLE[reason]


def step_of(word: str, resource: str, namespace: str, name: str) -> str:
    """The next step for an object with this reason."""
    return remedy_of(word).shown(resource, namespace, name)


def again(resource: str, namespace: str, name: str) -> str:
    """The command that asks for a pass now."""
    return _RECHECK.format(resource=resource, namespace=namespace, name=name)
