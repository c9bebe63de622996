"""The kinds that the operator talks to, and their paths below the API server."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

GROUP = "selvedge.dev"
VERSION = "v1alpha1"
#: On resources whose deletion has work to do (``deletionPolicy: Delete``), and on no other.
FINALIZER = f"{GROUP}/cleanup"


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind as the API server addresses it; ``group`` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """As it stands in a manifest's ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The URL's path: of a collection without ``name``, across all namespaces without ``namespace``."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/" + "/".join(quote(part, safe="") for part in parts)


DATABASE_SERVERS = Resource(GROUP, VERSION, "databaseservers", "DatabaseServer")
DATABASE_SCHEMAS = Resource(GROUP, VERSION, "databaseschemas", "DatabaseSchema")
DATABASE_USERS = Resource(GROUP, VERSION, "databaseusers", "DatabaseUser")
MIGRATION_RUNS = Resource(GROUP, VERSION, "migrationruns", "MigrationRun")
SECRETS = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
JOBS = Resource("batch", "v1", "jobs", "Job")
PODS = Resource("", "v1", "pods", "Pod")
