"""What the node's programs are told: containerd, CNI, kubelet, kube-proxy and CoreDNS, as the texts of their files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NAME = "node"
#: Of the file that appears when the node is Ready.
STATE_NAME = "node.json"
BRIDGE = "selvedge0"
ADDRESS = "10.244.77.1"
PODS = "10.244.77.0/24"
_FIRST_POD = "10.244.77.10"
#: Names by which pods know the database servers; their certificates carry them.
POSTGRES_HOST = "postgres.test"
MONGODB_HOST = "mongodb.test"
#: And by which deploy/kind knows its own, whose Services can be pointed at these.
SERVICE_HOSTS = ("postgres.databases.svc", "mongodb.databases.svc")
API_PORT, POSTGRES_PORT, MONGODB_PORT = 6443, 5432, 27017
DOMAIN = "cluster.local"
DNS_READY = ("127.0.0.1", 8181)
KUBELET_PORT = 10250
SOCKET = "/run/containerd/containerd.sock"
PAUSE = "localhost/pause:1"

# What kubelet wants to read in these files of /proc/sys. It would set them for the whole machine, so the node sees
# files of its own there, with the wanted content.
KERNEL_SETTINGS = {
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
}

_CONTAINERD = """\
version = 2
root = "{directory}/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # where we lack CAP_SYS_RESOURCE no pod could start otherwise
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{directory}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""

_COREFILE = """\
{domain}:53 {{
    bind {address}
    errors
    ready {ready[0]}:{ready[1]}
    kubernetes {{
        kubeconfig {kubeconfig}
        ttl 5
    }}
}}
.:53 {{
    bind {address}
    hosts {{
        {address} {postgres} {mongodb}
    }}
}}
"""

HOSTS = f"127.0.0.1 localhost\n{ADDRESS} {POSTGRES_HOST} {MONGODB_HOST}\n"


def containerd(directory: Path) -> str:
    """The config.toml of containerd."""
    return _CONTAINERD.format(directory=directory, socket=SOCKET, pause=PAUSE)


def cni(directory: Path) -> str:
    """The list of CNI plugins: a bridge, and the ports that a pod asks of its node."""
    ranges = [[{"subnet": PODS, "rangeStart": _FIRST_POD, "gateway": ADDRESS}]]
    ipam = {
        "type": "host-local",
        "dataDir": str(directory / "ipam"),
        "ranges": ranges,
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": False, "hairpinMode": True, "ipam": ipam}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": "selvedge", "plugins": [bridge, ports]})


def kubelet(directory: Path, client_ca: Path, cgroup: str) -> str:
    """The KubeletConfiguration. ``cgroup`` is where the pods' cgroups go, so that two nodes share a machine."""
    document = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "port": KUBELET_PORT,
        "readOnlyPort": 0,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(client_ca)},
        },
        # only the API server has a certificate of that CA for it
        "authorization": {"mode": "AlwaysAllow"},
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "podLogsDir": str(directory / "pod-logs"),
        "volumePluginDir": str(directory / "volume-plugins"),
        # without it pods get the machine's resolv.conf, and every look-up hangs
        "clusterDNS": [ADDRESS],
        "clusterDomain": DOMAIN,
        "resolvConf": str(directory / "resolv.conf"),
        # a test machine's disk may be nearly full
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "registerWithTaints": [],
    }
    return json.dumps(document, indent=2)


def kube_proxy(kubeconfig: Path) -> str:
    """The KubeProxyConfiguration: iptables, in this network namespace only."""
    untouched = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    document = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "hostnameOverride": NAME,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "nodePortAddresses": ["127.0.0.0/8"],
        # limits of the whole machine
        "conntrack": untouched,
        "iptables": {"localhostNodePorts": False},
    }
    return json.dumps(document, indent=2)


def corefile(kubeconfig: Path) -> str:
    """CoreDNS: the cluster's names, the databases', and no others."""
    return _COREFILE.format(
        domain=DOMAIN,
        address=ADDRESS,
        ready=DNS_READY,
        kubeconfig=kubeconfig,
        postgres=POSTGRES_HOST,
        mongodb=MONGODB_HOST,
    )
