"""``make image`` with Docker: a daemon of the test's own, from Debian's package, in namespaces of its own.

It reaches the network by slirp4netns, as the build asks package registries. The base is the sandbox's, given to Docker
by ``docker import``, so that no registry of images is asked.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import image, image_base, node, node_packages
from sandbox.errors import SandboxError

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("node")]
_PACKAGES = ("docker.io", "containerd", "runc", "iptables", "iproute2", "slirp4netns")
_SECONDS = 500
_ROOT = Path(__file__).parents[2]

#: Outside: a network that leads out, for the namespaces of what is inside.
_OUTSIDE = """
unshare --net --mount --pid --fork --kill-child=KILL --propagation private bash -euc "$1" &
inside=$!
until child=$(cat /proc/$inside/task/$inside/children) && [ -n "$child" ]; do sleep 0.1; done
slirp4netns --configure --disable-host-loopback ${child% } tap0 > /dev/null 2>&1 &
network=$!
trap 'kill $network' EXIT
wait $inside
"""
_INSIDE = """
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DOCKER_BUILDKIT=1
ip link set lo up
for _ in $(seq 100); do ip route | grep -q ^default && break; sleep 0.1; done
dockerd --data-root {data} --exec-root /run/docker --pidfile /run/docker.pid > {log} 2>&1 &
for _ in $(seq 300); do docker version > /dev/null 2>&1 && break; sleep 0.1; done
docker import {base} selvedge-base:1
{python} -m sandbox.make_image --base docker.io/library/selvedge-base:1
run="docker run --rm --network none --read-only --cap-drop ALL --security-opt no-new-privileges"
echo "version: $($run {image} --version)"
echo "user: $($run --entrypoint /usr/bin/python3 {image} -c 'import os; print(os.getuid())')"
echo "label: $(docker inspect --format '{{{{index .Config.Labels "org.opencontainers.image.version"}}}}' {image})"
kill %1
wait
"""


def test_docker_builds_what_runs_as_a_restricted_pod(tmp_path: Path) -> None:
    if reason := node.missing():
        pytest.skip(f"no namespaces: {reason}")
    try:
        command = node_packages.wrap(_PACKAGES, ["bash", "-euc", _OUTSIDE, "bash", _inside(tmp_path)])
    except SandboxError as error:
        if os.environ.get("SELVEDGE_REQUIRE_NODE"):
            raise
        pytest.skip(f"no Docker: {error}")
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False)
    finally:
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
    assert done.returncode == 0, done.stdout + done.stderr
    name = image.reference().removeprefix("docker.io/library/")
    assert f"{name} is among docker's images" in done.stdout
    told = dict(
        line.split(": ", 1) for line in done.stdout.splitlines() if line.startswith(("version", "user", "label"))
    )
    assert image.version() in told["version"]
    assert (told["user"], told["label"]) == ("65532", image.version())


def _inside(directory: Path) -> str:
    words = {
        "data": directory / "data",
        "log": directory / "dockerd.log",
        "base": image_base.base(),
        "python": sys.executable,
        "image": image.reference().removeprefix("docker.io/library/"),
    }
    return _INSIDE.format(**{name: shlex.quote(str(word)) for name, word in words.items()})
