"""A cluster whose etcd wants to know who asks: the head shows a user, and keeps the password to itself.

The etcd is a real one that each test starts; without one the tests are skipped.
"""

import base64
import json
import os
import pathlib
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import pytest

import harness
from harness import PATIENCE_SECONDS, api, on, submodule, wait_until

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.shoal_only(reason="Ray keeps the log of its head in Redis"),
]

NAME = "head-of-blue"
PASSWORD = "correct horse battery staple"

Counter = api.remote(num_cpus=0)(harness.Counter)


def administer(location, call, **question):
    """One call of etcd's administrator, by the gateway that every etcd has."""
    request = urllib.request.Request(
        f"http://{location.removeprefix('etcd://').split('/')[0]}/v3/auth/{call}",
        data=json.dumps(question).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def is_up(location):
    try:
        administer(location, "role/list")
    except (urllib.error.URLError, OSError):
        return False
    return True


@pytest.fixture
def guarded(etcd):
    """The etcd, which asks for users; ours may do what it likes below the cluster's prefix, and nothing else."""
    wait_until(lambda: is_up(etcd.location), what="etcd")
    for name, password, role in (("root", "toor", "root"), (NAME, PASSWORD, "heads")):
        administer(etcd.location, "role/add", name=role)
        administer(etcd.location, "user/add", name=name, password=password)
        administer(etcd.location, "user/grant", user=name, role=role)
    key, end = (base64.b64encode(text).decode() for text in (b"shoal/", b"shoal0"))
    permission = {"permType": "READWRITE", "key": key, "range_end": end}
    administer(etcd.location, "role/grant", name="heads", perm=permission)
    administer(etcd.location, "enable")
    return etcd


def refusal(arguments, **variables):
    """What `shoal start` says when it starts no head."""
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory() as sessions:
        ended = subprocess.run(
            [*submodule("_daemon").command(), "start", "--head", "--port=0", f"--temp-dir={sessions}", *arguments],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode != 0
    return ended.stdout + ended.stderr


def user_file(path, password=PASSWORD, mode=0o600):
    path.write_text(f"{NAME}:{password}\n")
    path.chmod(mode)
    return f"--etcd-user-file={path}"


def test_a_head_without_the_right_user_does_not_start_and_says_why(no_cluster, guarded, tmp_path):
    state = [f"--state={guarded.location}", f"--state-dir={tmp_path / 'state'}"]
    variables = {"SHOAL_ETCD_USER": NAME, "SHOAL_ETCD_PASSWORD": "a wrong one"}
    wrong = user_file(tmp_path / "wrong", "a wrong one")
    exposed = user_file(tmp_path / "exposed", mode=0o644)
    inline = guarded.location.replace("etcd://", f"etcd://{NAME}:a-wrong-one@")
    for said, reason in [
        (refusal(state), "no user was given"),
        (refusal(state, **variables), "not with this password"),
        (refusal([*state, wrong]), "not with this password"),
        (refusal([*state, exposed]), "chmod 600"),
        (refusal(state, SHOAL_ETCD_USER=NAME), "both or not at all"),
        (refusal([f"--state={inline}"]), "SHOAL_ETCD_PASSWORD instead"),
    ]:
        assert reason in said, said
        assert NAME not in said and "wrong" not in said.replace(str(tmp_path), "").replace("/wrong", ""), said


def test_a_head_goes_on_when_etcd_restarts_and_nobody_sees_the_password(no_cluster, guarded, tmp_path, monkeypatch):
    monkeypatch.setenv("SHOAL_ETCD_USER", NAME)
    monkeypatch.setenv("SHOAL_ETCD_PASSWORD", PASSWORD)
    state = {"state": guarded.location, "state_dir": str(tmp_path / "state")}
    cluster = submodule("cluster_utils").Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **state})
    try:
        node = cluster.add_node(num_cpus=1, resources={"a": 1})
        api.init(address=node.socket, namespace="n")
        cluster.wait_for_nodes()
        kept = Counter.options(name="kept", lifetime="detached", **on("a")).remote(5)
        assert api.get(kept.add.remote(), timeout=PATIENCE_SECONDS) == 6

        # The etcd forgets what it has given to the head; what is written next is written with something new.
        guarded.restart()
        wait_until(lambda: is_up_for_users(guarded.location), what="etcd")
        fresh = Counter.options(name="fresh", lifetime="detached", **on("a")).remote(7)
        assert api.get(fresh.add.remote(), timeout=60) == 8
        time.sleep(4)  # longer than the head is the head without being heard of
        assert api.get(Counter.options(**on("a")).remote(9).add.remote(), timeout=60) == 10
        assert api.get(kept.add.remote(), timeout=PATIENCE_SECONDS) == 7

        variables = api.get(api.remote(lambda: dict(os.environ)).remote(), timeout=PATIENCE_SECONDS)
        command = [*submodule("_daemon").command(), "status", f"--temp-dir={cluster.temp_directory}"]
        shown = [
            *(path.read_bytes() for path in pathlib.Path(cluster.temp_directory).rglob("*.log")),
            *(path.read_bytes() for path in pathlib.Path("/proc").glob("[0-9]*/cmdline") if path.exists()),
            subprocess.run(command, capture_output=True, check=True, timeout=60).stdout,
            subprocess.run([*command, "--json"], capture_output=True, check=True, timeout=60).stdout,
            repr([cluster, *cluster.list_all_nodes(), api.nodes(), variables]).encode(),
        ]
        assert len(shown) > 5
        for text in shown:
            assert PASSWORD.encode() not in text and NAME.encode() not in text, text
    finally:
        api.shutdown()
        cluster.shutdown()


def is_up_for_users(location):
    try:
        administer(location, "authenticate", name=NAME, password=PASSWORD)
    except (urllib.error.URLError, OSError):
        return False
    return True
