"""Completion: what kubectl is answered, and the scripts in the shells that are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from selvedge.cli import main
from selvedge.cli.completion import KUBECTL_SCRIPT, answer
from selvedge.cli.kubectl import kubectl


def test_commands_are_completed_with_what_they_do() -> None:
    lines = list(answer(kubectl, [""]))
    names = [line.split("\t")[0] for line in lines[:-1]]
    assert names == ["approve", "completion", "doctor", "explain", "plan", "rotate", "status"]
    assert all("\t" in line for line in lines[:-1])
    assert lines[-1] == ":4"
    assert next(answer(kubectl, ["do"])).startswith("doctor\t")
    assert list(answer(kubectl, [])) == lines


def test_options_and_their_values_are_completed() -> None:
    assert list(answer(kubectl, ["status", "-o", ""])) == ["human", "json", ":4"]
    assert next(answer(kubectl, ["doctor", "--pat"])).startswith("--patience\t")
    assert list(answer(kubectl, ["status", "--kubeconfig", ""])) == [":0"]


def test_reasons_are_completed_however_they_are_written() -> None:
    assert [line.split("\t")[0] for line in answer(kubectl, ["explain", "secret"])] == [
        "SecretNotFound",
        "SecretKeyMissing",
        ":4",
    ]


def test_without_a_cluster_there_are_no_names_and_no_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    for words in (["plan", ""], ["rotate", ""], ["status", "-n", ""], ["status", "--context", ""]):
        assert list(answer(kubectl, words)) == [":4"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", ["users: [{name: u\n  : :", "", "a text", "- a list", "contexts: [{}]"])
def test_a_broken_kubeconfig_brings_no_traceback_to_the_prompt(
    content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config").write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    for words in (["plan", ""], ["status", "-n", ""], ["status", "--context", ""]):
        assert list(answer(kubectl, words)) == [":4"]
    assert capfd.readouterr() == ("", "")


def test_the_contexts_of_the_kubeconfig_are_completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "config"
    cluster = "clusters: [{name: c, cluster: {server: 'https://localhost:1'}}]\nusers: [{name: u, user: {}}]\n"
    contexts = "[{name: prod, context: {cluster: c, user: u}}, {name: test, context: {cluster: c, user: u}}]"
    path.write_text(f"{cluster}contexts: {contexts}\ncurrent-context: prod\n")
    monkeypatch.setenv("KUBECONFIG", str(path))
    assert list(answer(kubectl, ["status", "--context", ""])) == ["prod", "test", ":4"]


def _program(directory: Path) -> None:
    """The program as pip installs it: what it is called decides which variable asks it for candidates."""
    path = directory / "selvedge"
    path.write_text(f"#!{sys.executable}\nfrom selvedge.cli import main\nmain()\n")
    path.chmod(0o755)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_completes_in_a_real_shell(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    _program(tmp_path)
    source = tmp_path / "completion"
    source.write_text(CliRunner().invoke(main, ["completion", shell]).stdout)
    ask = {
        "bash": f"source {source}; COMP_WORDS=(selvedge ver); COMP_CWORD=1; _selvedge_completion selvedge; "
        "printf '%s\\n' \"${COMPREPLY[@]}\"; complete -p selvedge",
        # zsh completes in a terminal only: that it takes the script, and what the program answers it
        "zsh": f"autoload -U compinit; compinit -u -d {tmp_path}/dump; source {source}; print $_comps[selvedge]; "
        "COMP_WORDS='selvedge ver' COMP_CWORD=1 _SELVEDGE_COMPLETE=zsh_complete selvedge",
        "fish": f"source {source}; complete -C 'selvedge ver'",
    }[shell]
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    flags = {"bash": ["--noprofile", "--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *flags, "-c", ask], capture_output=True, text=True, env=environ, timeout=60, check=False
    )
    assert done.stderr == ""
    assert "verify" in done.stdout


def test_what_krew_users_put_on_the_path_is_a_shell_script() -> None:
    assert KUBECTL_SCRIPT.startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-n"], input=KUBECTL_SCRIPT, text=True, check=False).returncode == 0
