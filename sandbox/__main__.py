"""``python -m sandbox``: the sandbox from the command line."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from sandbox import image_base, node, tools
from sandbox.control import is_running
from sandbox.errors import SandboxError
from sandbox.progress import note, step
from sandbox.sandbox import Sandbox, fetch, stop

_DEFAULT_DIRECTORY = Path(".sandbox")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 1 with one sentence on standard error otherwise."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except SandboxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox", description="Kubernetes, Postgres and MongoDB on this machine."
    )
    parser.add_argument(
        "--directory", type=Path, default=_DEFAULT_DIRECTORY, help="where its state is kept (default: %(default)s)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start it and keep it running until Ctrl-C")
    up.add_argument("--detach", action="store_true", help="return when it runs; `down` ends it")
    up.add_argument("--postgres", default="15,18", help="major versions, with commas (default: %(default)s)")
    up.set_defaults(command=_up)
    commands.add_parser("down", help="end it").set_defaults(command=_down)
    commands.add_parser("status", help="what runs, with ports and logs").set_defaults(command=_status)
    build = commands.add_parser("build", help="download and build what it runs, without starting anything")
    build.add_argument("--all", action="store_true", help="also what only some tests need")
    build.set_defaults(command=_build)
    return parser


def _up(options: argparse.Namespace) -> int:
    versions = [version for version in options.postgres.split(",") if version]
    _build_parts(versions)
    if is_running(options.directory):
        sandbox = Sandbox.attach(options.directory)
        print(_how_to_go_on(sandbox), flush=True)
        return 0
    with step("Kubernetes, Postgres and MongoDB start"):
        sandbox = Sandbox.start(postgres=versions, directory=options.directory, owner=0 if options.detach else None)
    print(_how_to_go_on(sandbox), flush=True)
    if not options.detach:
        with sandbox:
            note("running until Ctrl-C")
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            signal.pause()
    return 0


def _down(options: argparse.Namespace) -> int:
    if not options.directory.exists() or not stop(options.directory):
        note(f"no sandbox runs in {options.directory}")
    return 0


def _status(options: argparse.Namespace) -> int:
    state = Sandbox.attach(options.directory).refresh()
    rows = [
        (f"Postgres {name}", server["port"], server["pid"], server["log_path"])
        for name, server in state["postgres"].items()
    ]
    if "mongodb" in state:
        server = state["mongodb"]
        rows.append(("MongoDB", server["port"], server["pid"], server["log_path"]))
    if "node" in state:
        found = state["node"]
        rows.append(("node", found["ports"]["kubernetes"], found["pid"], found["log_path"]))
    plane = state.get("kubernetes", {"pids": {}, "logs": {}})
    for name, pid in plane["pids"].items():
        rows.append((name, plane["port"] if name == "apiserver" else "", pid, plane["logs"][name]))
    rows += [(name, "", process["pid"], process["log_path"]) for name, process in state["processes"].items()]
    for name, port, pid, log in rows:
        print(f"{name:20} {f'127.0.0.1:{port}' if port else '':16} {f'process {pid}' if pid else 'stopped':16} {log}")
    return 0


def _build(options: argparse.Namespace) -> int:
    _build_parts(tools.POSTGRES_VERSIONS if options.all else ("15", "18"))
    tools.helm()  # for the chart's tests
    try:
        node.fetch()
        image_base.base()  # of the operator's image, which the first test on the node builds
    except SandboxError as error:
        note(f"tests on a node will be left out: {error}")
    return 0


def _build_parts(versions: tuple[str, ...] | list[str]) -> None:
    for part in ("kubernetes", "mongodb", *(f"postgres/{version}" for version in versions)):
        fetch(part)


def _how_to_go_on(sandbox: Sandbox) -> str:
    lines = [
        f"export KUBECONFIG={sandbox.kubeconfig}",
        f"export PATH={tools.control_plane()}:{tools.postgres_client()}:$PATH",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
