"""``python -m sandbox.demo``: Fashion Wallet from ``kubectl apply`` to Ready on real servers, with every claim checked.

Each step says in one sentence what it shows and fails if that does not hold. The exit status is 0 only if all held.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

import psycopg
from pymongo.errors import PyMongoError

from sandbox import tools
from sandbox.control import is_running
from sandbox.demo_steps import Steps
from sandbox.errors import SandboxError
from sandbox.narrator import Narrator
from sandbox.node_wallet import NodeWallet
from sandbox.process import last_line
from sandbox.progress import step
from sandbox.sandbox import Sandbox, fetch
from sandbox.wallet import EXAMPLES, KINDS, NAMESPACE, POSTGRES, Wallet

_DRIFT_INTERVAL = "10s"
_LOG_LINES = 12


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 0 when every step held, 1 when one did not, 130 on Ctrl-C."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for part in ["node"] if options.node else ["kubernetes", "mongodb", f"postgres/{POSTGRES}"]:
            fetch(part)
        if options.keep is not None:
            return _keep(options.keep, options.examples, on_node=options.node)
        return _demo(options.examples, on_node=options.node)
    except SandboxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what was started has ended", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--examples", type=Path, default=EXAMPLES, help="the manifests to apply (default: examples/fashion-wallet)"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIRECTORY", help="show nothing: leave it all running, with its state there"
    )
    parser.add_argument(
        "--node", action="store_true", help="the operator in pods on a Kubernetes node, installed by helm (needs root)"
    )
    return parser


def _demo(examples: Path, *, on_node: bool) -> int:
    narrator = Narrator()
    narrator.say("Selvedge: Fashion Wallet, from `kubectl apply` to Ready, on real servers in a sandbox of its own.")
    with _started(narrator, on_node=on_node) as sandbox:
        wallet = _wallet(sandbox, examples, _DRIFT_INTERVAL, on_node=on_node)
        try:
            Steps(wallet, narrator).run()
        except (SandboxError, psycopg.Error, PyMongoError) as error:
            narrator.bad(" ".join(str(error).split()))
            _explain(wallet, narrator)
            narrator.summary()
            narrator.say("The demo does not hold: the step marked NO says why.")
            return 1
        narrator.summary()
        narrator.say("Every step held. Everything that was started ends now; `make up` leaves it running.")
    return 0


def _started(narrator: Narrator, *, on_node: bool) -> Sandbox:
    title = f"Start a Kubernetes {'node' if on_node else 'control plane'}, Postgres and MongoDB"
    where = "in namespaces of their own" if on_node else "on free ports of 127.0.0.1"
    with narrator.step(title, f"Real programs {where}, with TLS and passwords of their own."):
        sandbox = _start(None, owner=None, on_node=on_node)
        for name in (f"Postgres {POSTGRES}", "MongoDB 6.0", "kube-apiserver", *["kubelet"] * on_node):
            narrator.good(f"{name} answers")
    return sandbox


def _start(directory: Path | None, *, owner: int | None, on_node: bool) -> Sandbox:
    if not on_node:
        return Sandbox.start(postgres=(POSTGRES,), directory=directory, owner=owner)
    # the node brings databases and a control plane of its own
    sandbox = Sandbox.start(postgres=(), mongodb=False, kubernetes=False, directory=directory, owner=owner)
    try:
        sandbox.ensure("node")
    except BaseException:
        sandbox.close()
        raise
    return sandbox


def _wallet(sandbox: Sandbox, examples: Path, interval: str = "5m", *, on_node: bool) -> Wallet:
    return NodeWallet(sandbox.node, examples, interval) if on_node else Wallet(sandbox, examples, interval)


def _explain(wallet: Wallet, narrator: Narrator) -> None:
    """What a person would look at next."""
    narrator.say("")
    narrator.command(f"kubectl get {KINDS} -n {NAMESPACE}")
    shown = wallet.sandbox.kubectl("get", KINDS, "-n", NAMESPACE, check=False)
    narrator.output(shown.stdout or shown.stderr)
    if wallet.operator_log.is_file():
        narrator.say("   The last warnings in the operator's log:")
        lines = wallet.operator_log.read_text(encoding="utf-8", errors="replace").splitlines()
        telling = dict.fromkeys(filter(None, map(_telling, lines)))
        narrator.output("\n".join(list(telling)[-_LOG_LINES:]))


def _telling(line: str) -> str:
    """What a line of the operator's log says to a person; nothing if it reports ordinary work."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if entry.get("level") in {"debug", "info"}:
        return ""
    where = " ".join(str(entry[key]) for key in ("resource", "name", "database") if entry.get(key))
    why = entry.get("error") or last_line(str(entry.get("exception", "")))
    return f"{entry.get('level')}: {where}: {entry.get('event')}: {why}"


def _keep(directory: Path, examples: Path, *, on_node: bool) -> int:
    """``make up``: the same deployment, left running until ``make down``."""
    if is_running(directory):
        sandbox = Sandbox.attach(directory)
        if ("node" in sandbox.refresh()) != on_node:
            raise SandboxError(f"a sandbox {'without' if on_node else 'on'} a node runs already: `make down` ends it")
        return _how_to_go_on(sandbox, on_node=on_node)
    with step("Kubernetes, Postgres and MongoDB start"):
        sandbox = _start(directory, owner=0, on_node=on_node)
    try:
        with step("Fashion Wallet, from kubectl apply to Ready"):
            wallet = _wallet(sandbox, examples, on_node=on_node)
            wallet.install()
            wallet.start_operator()
            wallet.secrets()
            wallet.migrations()
            for _, manifest in wallet.manifests():
                wallet.apply(manifest)
            wallet.wait_ready(KINDS)
    except BaseException:
        sandbox.close()
        raise
    return _how_to_go_on(sandbox, on_node=on_node)


def _how_to_go_on(sandbox: Sandbox, *, on_node: bool) -> int:
    kubeconfig = sandbox.node.kubeconfig if on_node else sandbox.kubeconfig
    print(f"export KUBECONFIG={kubeconfig} PATH={tools.control_plane()}:{tools.postgres_client()}:$PATH")
    print(f"kubectl get {KINDS} -n {NAMESPACE}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
