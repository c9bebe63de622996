"""Operators that are started before they are asked for: while one test waits for its databases, the next one's begins.

A test still has an operator process, a namespace and a Lease of its own, as nobody has used it before: only the time in
which it imports, connects and acquires its Lease is spent beside the test before.
"""

from __future__ import annotations

import uuid
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.kube_api import KubeApi
from tests.cluster.operator_process import OperatorProcess


@dataclass(frozen=True, slots=True)
class Spare:
    """A namespace, and an operator that watches only it."""

    namespace: str
    operator: OperatorProcess


class Spares:
    """One is under way at any time once the first was taken."""

    def __init__(self, kubeconfig: Path, directory: Path) -> None:
        self._kubeconfig = kubeconfig
        self._directory = directory
        self._next: Spare | None = None

    def take(self) -> Spare:
        """One that leads; whoever takes it ends it and deletes its namespace."""
        spare = self._next or self._begin()
        self._next = None
        spare.operator.start()
        self._next = self._begin()
        return spare

    def close(self) -> None:
        """End the one that nobody took."""
        if self._next is not None:
            self._next.operator.kill()
            with closing(KubeApi(self._kubeconfig, self._next.namespace)) as api:
                api.delete_namespace(self._next.namespace)

    def _begin(self) -> Spare:
        namespace = f"test-{uuid.uuid4().hex[:12]}"
        with closing(KubeApi(self._kubeconfig, namespace)) as api:  # one that is kept would be closed meanwhile
            api.create_namespace(namespace)
        operator = OperatorProcess(
            self._kubeconfig,
            self._directory / f"{namespace}.log",
            namespaces=(namespace,),
            lease_namespace=namespace,
        )
        operator.daemon.start()
        return Spare(namespace, operator)
