"""Real daemons that talk by each transport, and over networks that delay, lose, or let no UDP pass."""

import os
import pathlib

import pytest
from benches.network import namespaces

import harness
from harness import ON_SHOAL, PATIENCE_SECONDS, Gate, Tally, api, daemon_log, on, submodule, wait_until

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.shoal_only(reason="Ray has one transport"),
]

SETTING = "SHOAL_TRANSPORT"
ESTABLISHED_TCP = "01"
MEBIBYTE = 1 << 20


def number_of_this_node():
    return int(api.get_runtime_context().get_node_id()[:8], 16)


@api.remote(num_cpus=0)
def where(value):
    return number_of_this_node(), value


@api.remote(num_cpus=0)
def turn_around(data):
    return data[::-1]


@api.remote(num_cpus=0)
class Counter(harness.Counter):
    pass


@api.remote(num_cpus=0, max_retries=1)
def stay(running, gate):
    running.mark()
    gate.wait()
    return number_of_this_node()


def tcp_connections(nodes):
    """How many TCP connections the ports of these nodes have, from the kernel's table."""
    ports = {int(node.address.rpartition(":")[2]) for node in nodes}
    rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    local_ports = [int(row[1].split(":")[1], 16) for row in rows if row[3] == ESTABLISHED_TCP]
    return sum(port in ports for port in local_ports)


@pytest.mark.parametrize("transport", ["grpc", "quic"])
def test_work_of_all_kinds_passes_and_survives_a_node(transport, start_nodes, monkeypatch, tmp_path):
    monkeypatch.setenv(SETTING, transport)
    cluster, (far,) = start_nodes({"num_cpus": 1, "resources": {"far": 1}})

    tasks = [where.options(**on("far")).remote(index) for index in range(20)]
    assert api.get(tasks, timeout=PATIENCE_SECONDS) == [(far.node_id, index) for index in range(20)]
    counter = Counter.options(**on("far")).remote()
    assert api.get([counter.add.remote() for _ in range(50)], timeout=PATIENCE_SECONDS) == list(range(1, 51))
    data = os.urandom(5 * MEBIBYTE)
    assert api.get(turn_around.options(**on("far")).remote(api.put(data)), timeout=PATIENCE_SECONDS) == data[::-1]

    nodes = cluster.list_all_nodes()
    if transport == "grpc":
        assert tcp_connections(nodes) > 0
    else:
        wait_until(lambda: tcp_connections(nodes) == 0, what="end of the connection with which the node has joined")
    for node in nodes:
        assert "is used instead" not in daemon_log(node), daemon_log(node)

    running, gate = Tally(tmp_path / "running"), Gate(tmp_path / "gate")
    staying = stay.options(**on("far", 0.5)).remote(running, gate)
    running.wait_for(1)
    spare = cluster.add_node(num_cpus=1, resources={"far": 1})
    cluster.remove_node(far, allow_graceful=False)
    running.wait_for(2)
    gate.open()
    assert api.get(staying, timeout=PATIENCE_SECONDS) == spare.node_id


@pytest.fixture
def over(no_cluster):
    """A function that starts a node in each of two hosts; the network between them is as it says."""
    why = namespaces.missing() or ("" if os.path.exists("/dev/net/tun") else "there is no /dev/net/tun")
    if not ON_SHOAL or why:
        pytest.skip(f"hosts of their own cannot be made here: {why}")
    started = []

    def start(**network):
        hosts = namespaces.Hosts(2, **network)
        started.append(hosts)
        hosts.__enter__()
        cluster = submodule("cluster_utils").Cluster()
        started.append(cluster)
        for name, address in zip(hosts.names, hosts.addresses, strict=True):
            cluster.add_node(
                num_cpus=1, resources={address: 1}, network_namespace=name, node_ip_address=address, wait=False
            )
        cluster.connect()
        cluster.wait_for_nodes()
        return cluster, hosts.addresses[1]

    yield start
    api.shutdown()
    for made in reversed(started):
        made.shutdown() if isinstance(made, submodule("cluster_utils").Cluster) else made.__exit__(None, None, None)


def test_where_udp_does_not_pass_grpc_is_used_and_the_log_says_so(over):
    cluster, far = over(udp=False)
    (joined,) = cluster.worker_nodes
    data = os.urandom(MEBIBYTE)
    assert api.get(turn_around.options(**on(far)).remote(api.put(data)), timeout=PATIENCE_SECONDS) == data[::-1]
    line = f"{cluster.address} cannot be reached by QUIC (no answer in time); gRPC is used instead"
    assert line in daemon_log(joined)


@pytest.mark.parametrize("transport", ["auto", "quic", "grpc"])
def test_values_are_right_over_a_network_that_delays_and_loses(over, monkeypatch, transport):
    monkeypatch.setenv(SETTING, transport)
    _, far = over(delay=25, loss=0.05)
    data = os.urandom(MEBIBYTE)
    assert api.get(turn_around.options(**on(far)).remote(api.put(data)), timeout=2 * PATIENCE_SECONDS) == data[::-1]
