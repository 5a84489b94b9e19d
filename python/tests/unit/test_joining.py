"""Which cluster `init` joins, and which arguments it refuses. No cluster is started here."""

import fcntl
import os

import pytest

from shoal import _joining
from shoal.job_config import JobConfig
from shoal.logging_config import LoggingConfig


def plan(**arguments):
    rare = arguments.pop("rare", {})
    names = (
        "address num_cpus num_gpus resources labels object_store_memory job_config logging_config namespace runtime_env"
    )
    return _joining.plan(local_mode=False, rare=rare, **{**dict.fromkeys(names.split()), **arguments})


@pytest.fixture
def node(tmp_path):
    """A directory as a running node has it: whoever asks finds its lock taken."""
    directory = tmp_path / f"shoal-{os.getuid()}" / "session-1-abc"
    directory.mkdir(parents=True)
    (directory / "node.sock").touch()
    with open(directory / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory


@pytest.fixture(autouse=True)
def no_address(monkeypatch, tmp_path):
    monkeypatch.delenv("SHOAL_ADDRESS", raising=False)


def nowhere(tmp_path):
    return {"_temp_dir": str(tmp_path)}


def test_without_an_address_a_node_is_started(tmp_path):
    assert plan(rare=nowhere(tmp_path)).socket is None


def test_a_running_node_is_found(tmp_path, node):
    (node.parent / "current").write_text(str(node / "node.sock"))
    assert plan(rare=nowhere(tmp_path)).socket == str(node / "node.sock")
    assert plan(address="auto", rare=nowhere(tmp_path)).socket == str(node / "node.sock")
    assert plan(address="local", rare=nowhere(tmp_path)).socket is None


def test_a_dead_node_is_not_found(tmp_path):
    directory = tmp_path / f"shoal-{os.getuid()}" / "session-1-dead"
    directory.mkdir(parents=True)
    (directory / "node.sock").touch()
    (directory / "lock").touch()
    (directory.parent / "current").write_text(str(directory / "node.sock"))
    assert plan(rare=nowhere(tmp_path)).socket is None
    with pytest.raises(ConnectionError, match="no cluster"):
        plan(address=str(directory))


def test_auto_never_starts_one(tmp_path):
    with pytest.raises(ConnectionError, match="shoal start"):
        plan(address="auto", rare=nowhere(tmp_path))


def test_explicit_addresses(node, monkeypatch):
    assert plan(address=str(node)).socket == str(node / "node.sock")
    assert plan(address=str(node / "node.sock")).socket == str(node / "node.sock")
    monkeypatch.setenv("SHOAL_ADDRESS", str(node))
    assert plan().socket == str(node / "node.sock")
    assert plan(address="auto").socket == str(node / "node.sock")
    with pytest.raises(ConnectionError):
        plan(address="/no/such/place")
    with pytest.raises(TypeError):
        plan(address=3)


@pytest.mark.parametrize(
    "option",
    [{"num_cpus": 1}, {"num_gpus": 0}, {"resources": {"a": 1}}, {"labels": {}}, {"object_store_memory": 10**8}],
    ids=str,
)
def test_a_running_cluster_has_its_resources(node, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        plan(address=str(node), **option)


def test_arguments_of_the_daemon(tmp_path):
    wanted = plan(
        address="local",
        num_cpus=2,
        num_gpus=0,
        resources={"wheel": 1.5},
        labels={"zone": "a"},
        object_store_memory=10**8,
        rare={"_memory": 5, "_node_name": "front desk", "_temp_dir": "/tmp/x"},
    ).daemon
    assert wanted == [
        "--num-cpus=2",
        "--num-gpus=0",
        '--resources={"wheel": 1.5}',
        "--node-name=front desk",
        '--labels={"zone": "a"}',
        "--object-store-memory=100000000",
        "--memory=5",
        "--temp-dir=/tmp/x",
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"num_cpus": -1}, ValueError),
        ({"resources": {"CPU": 1}}, ValueError),
        ({"resources": {"wheel": -1}}, ValueError),
        ({"labels": {"a b": "c"}}, ValueError),
        ({"labels": {"ray.io/node-id": "c"}}, ValueError),
        ({"rare": {"_node_name": ""}}, ValueError),
        ({"rare": {"_node_name": "a\nb"}}, ValueError),
        ({"rare": {"_node_name": 3}}, TypeError),
        ({"object_store_memory": 0}, ValueError),
        ({"namespace": ""}, ValueError),
        ({"namespace": 3}, TypeError),
        ({"runtime_env": {"pip": ["x"]}}, NotImplementedError),
        ({"rare": {"no_such_argument": 1}}, RuntimeError),
    ],
    ids=str,
)
def test_impossible_arguments(arguments, error):
    with pytest.raises(error):
        plan(address="local", **arguments)


def test_local_mode_is_gone():
    with pytest.raises(RuntimeError, match="local_mode"):
        _joining.plan(
            address=None, num_cpus=None, num_gpus=None, resources=None, labels=None, object_store_memory=None,
            local_mode=True, job_config=None, logging_config=None, namespace=None, runtime_env=None, rare={},
        )  # fmt: skip


def test_the_job_config_fills_in():
    config = JobConfig(runtime_env={"env_vars": {"A": "1"}}, ray_namespace="garden")
    assert plan(address="local", job_config=config).namespace == "garden"
    assert ("A", "1") in plan(address="local", job_config=config).variables
    assert plan(address="local", job_config=config, namespace="other").namespace == "other"


def test_workers_get_the_environment(monkeypatch):
    monkeypatch.setenv("COLOUR", "green")
    monkeypatch.setenv("SHOAL_SESSION", "/tmp/another")
    launch = _joining._launch(plan(address="local", runtime_env={"env_vars": {"SHAPE": "round", "HOME": "/x"}}))
    variables = dict(launch["variables"])
    assert (variables["COLOUR"], variables["SHAPE"], variables["HOME"]) == ("green", "round", "/x")
    assert "SHOAL_SESSION" not in variables
    assert all(os.path.isabs(entry) for entry in launch["module_path"])


def test_logging_travels_to_workers():
    config = LoggingConfig(encoding="JSON", log_level="DEBUG")
    assert plan(address="local", logging_config=config).variables == [config.to_variable()]
    with pytest.raises(ValueError, match="encoding"):
        LoggingConfig(encoding="XML")
