"""Parsing and exit statuses: what needs no server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from selvedge.cli import main

MANIFEST = """\
apiVersion: selvedge.dev/v1alpha1
kind: DatabaseSchema
metadata: {name: fashion-wallet, namespace: shop}
spec:
  serverRef: {name: main-postgres}
  database: fashion_wallet
  postgres: {schemas: [{name: shared}]}
"""
#: Nothing listens on port 1.
URL = "postgresql://selvedge@localhost:1/?sslmode=disable"


def invoke(*arguments: str, environ: dict[str, str] | None = None, stdin: str = "") -> Result:
    return CliRunner().invoke(main, arguments, env=environ, input=stdin)


def test_help_lists_every_command() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert all(f"\n  {name} " in result.output for name in ("run", "crds", "plan", "apply", "verify"))
    assert invoke("--version").output.startswith("selvedge ")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("plan", "--frobnicate"),
        ("plan", "--url", URL),
        ("verify", "-f", "/nonexistent.yaml", "--url", URL),
        ("verify", "-f", "-", "--url", URL, "-o", "xml"),
        ("verify", "-f", "-", "--url", URL, "--password-file", "-"),
        ("verify", "-f", "-", "--url", "oracle://host"),
        ("crds", "--docs", "somewhere"),
    ],
)
def test_a_wrong_call_is_no_difference(arguments: tuple[str, ...]) -> None:
    """2 means "differs": click's own status for a wrong call has to be another one."""
    result = invoke(*arguments, stdin=MANIFEST)
    assert result.exit_code == 1
    assert result.stdout == ""
    if arguments:
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    result = invoke("plan", "-f", "-", "--url", URL, stdin=MANIFEST)
    assert result.exit_code == 1
    assert result.stderr == "error: server localhost:1 cannot be reached: check host, port and network policies\n"


def test_an_interrupt_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "fashion-wallet.yaml"
    path.write_text(MANIFEST, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        url = f"postgresql://selvedge@127.0.0.1:{silent.getsockname()[1]}/?sslmode=disable"
        command = [sys.executable, "-m", "selvedge", "plan", "-f", str(path), "--url", url]
        environ = {**os.environ, "SELVEDGE_PASSWORD": "marked"}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ) as process:
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert stderr.strip() == "error: interrupted: see with `verify` how the databases stand"


def test_run_names_a_bad_setting() -> None:
    result = invoke("run", environ={"SELVEDGE_HTTP_PORT": "http"})
    assert result.exit_code == 1
    assert result.stderr == "error: SELVEDGE_HTTP_PORT='http' cannot be used: write a whole number from 0 to 65535\n"


def test_crds_are_those_of_the_models() -> None:
    result = invoke("crds")
    assert result.exit_code == 0
    assert "name: databaseschemas.selvedge.dev" in result.output


def test_a_command_loads_only_what_it_needs() -> None:
    """`selvedge --version` in a shell's prompt or a Makefile must not wait for drivers and Kubernetes clients."""
    code = "import sys, json; import selvedge.cli; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert "selvedge.cli.main" in loaded
    assert not {"psycopg", "pymongo", "kopf", "kubernetes", "aiohttp", "pydantic", "rich", "yaml"} & set(loaded)


def test_python_m_is_the_same_program() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "selvedge", "frobnicate"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: no such command 'frobnicate'")


def test_completion_is_clicks_own() -> None:
    result = invoke(environ={"_MAIN_COMPLETE": "bash_complete", "COMP_WORDS": "selvedge ver", "COMP_CWORD": "1"})
    assert result.output.strip() == "plain,verify"
