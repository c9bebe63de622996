"""A whole Kubernetes, Postgres and MongoDB on one machine, for the demo, the tests and the benchmarks.

Everything is the real program, listens on 127.0.0.1 only, and ends with the process that started it.
"""

from __future__ import annotations

from sandbox.errors import PortTakenError, SandboxError
from sandbox.handles import SandboxMongo, SandboxPostgres
from sandbox.kubectl import run_kubectl
from sandbox.mongodb import MongoEndpoint, MongoServer
from sandbox.postgres import PostgresEndpoint, PostgresServer
from sandbox.sandbox import Sandbox

__all__ = [
    "MongoEndpoint",
    "MongoServer",
    "PortTakenError",
    "PostgresEndpoint",
    "PostgresServer",
    "Sandbox",
    "SandboxError",
    "SandboxMongo",
    "SandboxPostgres",
    "run_kubectl",
]
