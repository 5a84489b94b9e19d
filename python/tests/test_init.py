"""`init`, `shutdown` and what they report."""

import os
import pickle

import pytest

from harness import NAME, Gate, api, exceptions, process_alive, run_driver, wait_until, wait_until_gone


def test_a_program_connects_and_disconnects(no_cluster):
    assert not api.is_initialized()
    api.init(num_cpus=1, include_dashboard=False)
    assert api.is_initialized()
    api.shutdown()
    assert not api.is_initialized()


def test_shutdown_may_be_called_at_any_time(no_cluster):
    api.shutdown()
    api.init(num_cpus=1, include_dashboard=False)
    api.shutdown()
    api.shutdown()
    assert not api.is_initialized()


def test_a_second_init_is_refused(start_cluster):
    start_cluster(num_cpus=1)
    with pytest.raises(RuntimeError):
        api.init(num_cpus=1)
    assert api.is_initialized()
    api.init(num_cpus=1, ignore_reinit_error=True)
    assert api.get(api.put(1)) == 1


def test_unknown_options_are_refused(no_cluster):
    with pytest.raises(RuntimeError, match="no_such_option"):
        api.init(no_such_option=1)
    assert not api.is_initialized()


@pytest.mark.parametrize(
    "options",
    [{"num_cpus": -1}, {"resources": {"CPU": 1}}, {"resources": {"wheel": -1}}],
    ids=["negative CPUs", "CPU as custom resource", "negative custom resource"],
)
def test_impossible_resources_are_refused(no_cluster, options):
    with pytest.raises((ValueError, AssertionError)):
        api.init(include_dashboard=False, **options)
    assert not api.is_initialized()


def test_the_context_is_a_mapping(start_cluster):
    context = start_cluster(num_cpus=1)
    assert context["node_id"] == context.address_info["node_id"]
    assert "session_dir" in context.address_info
    assert hasattr(context, "dashboard_url")
    assert len(context["node_id"]) == 56


def test_the_context_manager_disconnects(no_cluster):
    with api.init(num_cpus=1, include_dashboard=False):
        assert api.get(api.put("inside")) == "inside"
    assert not api.is_initialized()


def test_the_context_can_disconnect(no_cluster):
    context = api.init(num_cpus=1, include_dashboard=False)
    context.disconnect()
    assert not api.is_initialized()


def test_functions_and_classes_outlive_a_session(no_cluster):
    @api.remote
    def double(x):
        return 2 * x

    @api.remote
    class Holder:
        def __init__(self, value):
            self.value = value

        def read(self):
            return self.value

    for value in (1, 2):
        api.init(num_cpus=1, include_dashboard=False)
        assert api.get(double.remote(value)) == 2 * value
        assert api.get(Holder.remote(value).read.remote()) == value
        api.shutdown()


def test_a_handle_of_an_earlier_session_is_refused(no_cluster):
    @api.remote
    class Holder:
        def read(self):
            return 1

    api.init(num_cpus=1, include_dashboard=False)
    holder = Holder.remote()
    assert api.get(holder.read.remote()) == 1
    api.shutdown()
    api.init(num_cpus=1, include_dashboard=False)
    with pytest.raises(Exception, match=r"different cluster|ActorHandleNotFound|session"):
        holder.read.remote()
    with pytest.raises(exceptions.ActorHandleNotFoundError):
        api.kill(holder)


def test_calls_before_init_start_a_cluster(no_cluster, tmp_path):
    done = run_driver(
        """
        @api.remote
        def f():
            return "ran"

        assert not api.is_initialized()
        print(api.get(f.remote()))
        assert api.is_initialized()
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "ran" in done.stdout


def test_starting_by_itself_can_be_switched_off(no_cluster, tmp_path):
    done = run_driver(
        f"""
        try:
            api.put(1)
        except Exception as error:
            print("refused", {NAME!r} + ".init" in str(error))
        """,
        tmp_path,
        environment={f"{NAME.upper()}_ENABLE_AUTO_CONNECT": "0"},
    )
    assert "refused True" in done.stdout, done.stderr


def test_address_local_always_starts_a_cluster(no_cluster):
    api.init(address="local", num_cpus=3, include_dashboard=False)
    assert api.cluster_resources()["CPU"] == 3


def test_a_task_cannot_call_init(cluster):
    @api.remote
    def f():
        api.init()

    with pytest.raises(RuntimeError):
        api.get(f.remote())


def test_a_task_is_connected(cluster):
    @api.remote
    def f():
        return api.is_initialized()

    assert api.get(f.remote()) is True


def test_the_namespace_is_kept(start_cluster):
    start_cluster(num_cpus=1, namespace="garden")
    assert api.get_runtime_context().namespace == "garden"

    @api.remote
    def namespace():
        return api.get_runtime_context().namespace

    assert api.get(namespace.remote()) == "garden"


def test_nodes_describe_the_cluster(cluster):
    (node,) = api.nodes()
    assert node["Alive"] is True
    assert node["NodeID"] == api.get_runtime_context().get_node_id()
    assert node["Resources"]["CPU"] == 4.0
    assert {"NodeManagerAddress", "Labels"} <= node.keys()


def test_the_timeline_shows_tasks(cluster, tmp_path):
    @api.remote
    def a_task_to_find():
        return 1

    api.get([a_task_to_find.remote() for _ in range(3)])

    def events():
        return [event for event in api.timeline() if "a_task_to_find" in event["name"]]

    (event, *_) = wait_until(events, what="a task in the timeline")
    assert {"cat", "name", "pid", "tid", "ts", "dur", "ph"} <= event.keys()

    path = tmp_path / "timeline.json"
    api.timeline(filename=str(path))
    assert "a_task_to_find" in path.read_text()


@pytest.mark.parametrize("kind", ["ActorID", "TaskID", "JobID", "NodeID", "WorkerID", "ObjectRef"])
def test_ids_behave_alike(kind):
    id_type = getattr(api, kind)
    nil = id_type.nil()
    assert nil.is_nil()
    assert id_type(nil.binary()) == nil
    assert len(nil.binary()) == id_type.size()
    assert nil.hex() == nil.binary().hex()
    assert kind in repr(nil)
    if kind not in ("JobID", "TaskID", "ActorID"):
        one, other = id_type.from_random(), id_type.from_random()
        assert one != other
        assert not one.is_nil()
        assert {one: 1}[id_type(one.binary())] == 1
    if kind != "ObjectRef":
        assert id_type.from_hex(nil.hex()) == nil
        assert pickle.loads(pickle.dumps(nil)) == nil


def test_the_version_is_text():
    assert isinstance(api.__version__, str)
    assert api.__version__


def test_the_end_of_the_driver_ends_its_processes(no_cluster, tmp_path):
    done = run_driver(
        """
        import os
        api.init(num_cpus=2, include_dashboard=False)

        @api.remote
        def pid():
            return os.getpid()

        @api.remote
        class Pid:
            def pid(self):
                return os.getpid()

        actor = Pid.remote()
        print(*api.get([pid.remote(), pid.remote(), actor.pid.remote()]))
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for pid in done.stdout.split():
        wait_until_gone(int(pid))


def test_shutdown_stops_running_tasks(no_cluster, tmp_path):
    started = Gate(tmp_path / "started")

    @api.remote
    def run_for_ever(started):
        started.path.write_text(str(os.getpid()))
        while True:
            Gate(tmp_path / "never").wait()

    api.init(num_cpus=1, include_dashboard=False)
    run_for_ever.remote(started)
    pid = int(wait_until(lambda: started.is_open() and started.path.read_text()))
    assert process_alive(pid)
    api.shutdown()
    wait_until_gone(pid)


def test_an_error_in_the_driver_still_cleans_up(no_cluster, tmp_path):
    done = run_driver(
        """
        import os
        api.init(num_cpus=1, include_dashboard=False)

        @api.remote
        def pid():
            return os.getpid()

        print(api.get(pid.remote()), flush=True)
        raise KeyError("the driver fails")
        """,
        tmp_path,
    )
    assert done.returncode == 1
    assert "the driver fails" in done.stderr
    wait_until_gone(int(done.stdout))


@pytest.mark.shoal_only(reason="it is about Ray's name")
def test_programs_that_import_ray_run_unchanged(no_cluster, tmp_path):
    done = run_driver(
        """
        api.install_as_ray()
        import ray
        import ray.exceptions
        from ray.util import ActorPool
        from ray.util.queue import Queue

        ray.init(num_cpus=1)

        @ray.remote
        def f():
            import ray
            return ray.get(ray.put(7))

        @ray.remote
        def fail():
            raise ValueError

        print(ray.get(f.remote()))
        try:
            ray.get(fail.remote())
        except ray.exceptions.RayTaskError:
            print("caught")
        """,
        tmp_path,
    )
    assert done.stdout.split() == ["7", "caught"], done.stderr


@pytest.mark.shoal_only(reason="Ray takes more than a second to import")
def test_import_loads_no_heavy_module(tmp_path):
    done = run_driver(
        """
        import sys
        print(*sorted({"numpy", "pyarrow", "pandas", "torch"} & set(sys.modules)))
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.shoal_only(reason="Ray keeps some descriptors open after shutdown")
def test_sessions_leave_no_descriptor_open(no_cluster):
    def session():
        api.init(num_cpus=1, include_dashboard=False)
        api.get(api.remote(lambda: 1).remote())
        api.shutdown()
        return len(os.listdir("/proc/self/fd"))

    session()
    first = session()
    counts = [session() for _ in range(4)]
    assert max(counts) <= first, f"{first} open descriptors became {counts}"
