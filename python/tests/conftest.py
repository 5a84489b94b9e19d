"""Fixtures: a cluster shared by the tests of a module, clusters of a test's own, and a check for leaks.

`SHOAL_TEST_API=ray` runs the same tests against Ray.
"""

import os
import pathlib
import uuid

import pytest

import harness

TESTS = pathlib.Path(__file__).parent
TEST_TIMEOUT_SECONDS = int(os.environ.get("SHOAL_TEST_TIMEOUT", "60" if harness.ON_SHOAL else "240"))

# Every process started from here inherits this variable; it tells ours from those of other runs.
RUN_VARIABLE = "SHOAL_TEST_RUN"
os.environ[RUN_VARIABLE] = uuid.uuid4().hex


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "shoal_only(reason): Shoal differs from Ray here on purpose, or the check looks inside Shoal"
    )


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent != TESTS:
            continue
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_SECONDS))
        only = item.get_closest_marker("shoal_only")
        if only is not None:
            assert only.kwargs.get("reason") or only.args, f"{item.nodeid}: shoal_only needs a reason"
            if not harness.ON_SHOAL:
                item.add_marker(pytest.mark.skip(reason=f"Shoal only: {only.kwargs.get('reason') or only.args[0]}"))


class Clusters:
    """Keeps at most one cluster connected to this process, and knows which tests share it."""

    def __init__(self):
        self.shared_by = None

    def share(self, module):
        """Connect to the cluster that the tests of `module` share; start it when there is none."""
        api = harness.api
        if self.shared_by != module or not api.is_initialized():
            self.start(num_cpus=4)
            self.shared_by = module

    def start(self, **options):
        self.stop()
        return harness.api.init(include_dashboard=False, **options)

    def stop(self):
        self.shared_by = None
        harness.api.shutdown()


@pytest.fixture(scope="session")
def clusters():
    clusters = Clusters()
    yield clusters
    clusters.stop()
    if harness.ON_SHOAL:
        check_nothing_left()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.call_failed = report.failed
    return report


@pytest.fixture
def cluster(request, clusters):
    """The module's shared cluster with 4 CPUs. A failed test ends it, so that the next one starts clean."""
    clusters.share(request.module.__name__)
    yield harness.api
    if getattr(request.node, "call_failed", True):
        clusters.stop()


@pytest.fixture
def start_cluster(clusters):
    """A function that starts a cluster for this test alone; it takes the options of `init`."""
    clusters.stop()
    yield clusters.start
    clusters.stop()


@pytest.fixture
def no_cluster(clusters):
    """No cluster is connected when the test starts, and none when the next one does."""
    clusters.stop()
    yield harness.api
    clusters.stop()


@pytest.fixture
def start_nodes(no_cluster):
    """A function that starts a cluster: a head with `head_cpus`, and a node for each dictionary of arguments.

    This process connects to the head's node, or to the one of that index. The cluster and the nodes come back.
    """
    started = []

    def start(*arguments, connect_to=None, head_cpus=1):
        cluster = harness.submodule("cluster_utils").Cluster(
            initialize_head=True, head_node_args={"num_cpus": head_cpus}
        )
        started.append(cluster)
        added = [cluster.add_node(**given) for given in arguments]
        if connect_to is None:
            cluster.connect()
        else:
            harness.api.init(address=added[connect_to].socket)
        cluster.wait_for_nodes()
        return cluster, added

    yield start
    harness.api.shutdown()
    for cluster in started:
        cluster.shutdown()


@pytest.fixture
def etcd():
    """An etcd that this test starts."""
    try:
        server = harness.submodule("cluster_utils").EtcdServer()
    except FileNotFoundError as error:
        pytest.skip(f"no etcd is installed here (Debian: apt-get install etcd-server): {error}")
    yield server
    server.stop()


def check_nothing_left():
    """Fail when a process or a named shared-memory file of this run outlives its clusters."""
    harness.wait_until(lambda: not processes_of_this_run(), what="end of all processes of this run")
    left = [entry.name for entry in pathlib.Path("/dev/shm").iterdir() if "shoal" in entry.name]
    assert not left, f"shared-memory files were left behind: {left}"


def processes_of_this_run():
    """The live processes, other than this one, that descend from this run of the tests."""
    mark = f"{RUN_VARIABLE}={os.environ[RUN_VARIABLE]}".encode()
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes() and harness.process_alive(int(entry.name)):
                found.append(f"{entry.name} {(entry / 'cmdline').read_bytes().replace(bytes(1), b' ').decode()}")
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue
    return found
