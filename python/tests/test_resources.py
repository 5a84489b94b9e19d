"""Resources: what tasks and actors ask for, hold and give back."""

import os

import pytest

from harness import Gate, Tally, api, wait_until


@pytest.fixture
def gate(tmp_path):
    return Gate(tmp_path / "gate")


def available(name):
    return api.available_resources().get(name, 0)


def test_the_cluster_lists_its_resources(start_cluster):
    start_cluster(num_cpus=3, num_gpus=2, resources={"wheel": 5})
    resources = api.cluster_resources()
    assert {name: resources[name] for name in ("CPU", "GPU", "wheel")} == {
        "CPU": 3.0,
        "GPU": 2.0,
        "wheel": 5.0,
    }
    assert all(isinstance(amount, float) for amount in resources.values())
    assert resources["memory"] > 0
    assert resources["object_store_memory"] > 0
    assert available("wheel") == 5


def test_resources_that_are_not_there(start_cluster):
    start_cluster(num_cpus=2)
    assert "GPU" not in api.cluster_resources()

    @api.remote
    def ids():
        return api.get_runtime_context().get_accelerator_ids().get("GPU"), os.environ.get("CUDA_VISIBLE_DEVICES")

    ids, _ = api.get(ids.remote())
    assert ids in ([], None)


@pytest.mark.usefixtures("cluster")
class TestCpus:
    def test_held_while_a_task_runs(self, gate):
        @api.remote(num_cpus=3)
        def hold():
            gate.wait()

        reference = hold.remote()
        wait_until(lambda: available("CPU") == 1)
        gate.open()
        api.get(reference)
        wait_until(lambda: available("CPU") == 4)

    def test_given_back_while_a_task_waits(self, gate):
        @api.remote
        def child():
            gate.wait()

        @api.remote(num_cpus=4)
        def parent():
            api.get(child.remote())

        reference = parent.remote()
        wait_until(lambda: available("CPU") == 3)
        gate.open()
        api.get(reference)
        wait_until(lambda: available("CPU") == 4)

    @pytest.mark.parametrize(("num_cpus", "together"), [(1, 4), (2, 2), (0.5, 8), (4, 1), (3, 1)])
    def test_they_limit_what_runs_at_once(self, tmp_path, gate, num_cpus, together):
        running = Tally(tmp_path / "running")

        @api.remote(num_cpus=num_cpus)
        def run():
            running.mark()
            gate.wait()

        references = [run.remote() for _ in range(together + 2)]
        running.wait_for(together)
        api.wait(references, timeout=0.3)
        assert running.count() == together
        gate.open()
        api.get(references)
        assert running.count() == together + 2

    def test_a_task_may_need_none(self, tmp_path, gate):
        @api.remote(num_cpus=4)
        def hold():
            gate.wait()

        @api.remote(num_cpus=0)
        def light():
            return "ran"

        holding = hold.remote()
        wait_until(lambda: available("CPU") == 0)
        assert api.get(light.remote()) == "ran"
        gate.open()
        api.get(holding)

    def test_fractions_add_up_exactly(self, gate):
        @api.remote(num_cpus=0.1)
        def hold():
            gate.wait()

        references = [hold.remote() for _ in range(3)]
        wait_until(lambda: available("CPU") == 3.7)
        gate.open()
        api.get(references)
        wait_until(lambda: available("CPU") == 4)

    def test_given_back_when_a_worker_dies(self):
        @api.remote(num_cpus=4, max_retries=0)
        def crash():
            os._exit(1)

        api.wait([crash.remote()])
        wait_until(lambda: available("CPU") == 4)

    def test_given_back_after_an_error(self):
        @api.remote(num_cpus=4)
        def fail():
            raise ValueError

        api.wait([fail.remote()])
        wait_until(lambda: available("CPU") == 4)

    def test_an_actor_holds_none_by_default(self):
        @api.remote
        class Idle:
            def ready(self):
                return True

        # More actors than CPUs.
        actors = [Idle.remote() for _ in range(6)]
        assert all(api.get([actor.ready.remote() for actor in actors]))
        wait_until(lambda: available("CPU") == 4)

    def test_an_actor_holds_what_it_asks_for_as_long_as_it_lives(self):
        @api.remote(num_cpus=2)
        class Holder:
            def ready(self):
                return True

        holder = Holder.remote()
        assert api.get(holder.ready.remote())
        wait_until(lambda: available("CPU") == 2)
        api.kill(holder)
        wait_until(lambda: available("CPU") == 4)

    def test_an_actor_waits_for_its_resources(self, gate):
        @api.remote(num_cpus=4)
        def hold():
            gate.wait()

        @api.remote(num_cpus=1)
        class Holder:
            def ready(self):
                return True

        holding = hold.remote()
        wait_until(lambda: available("CPU") == 0)
        holder = Holder.remote()
        ready = holder.ready.remote()
        assert api.wait([ready], timeout=0.3)[0] == []
        gate.open()
        assert api.get(ready)
        api.get(holding)

    def test_a_task_that_can_never_run_waits_without_harm(self):
        @api.remote(num_cpus=100)
        def never():
            pass

        reference = never.remote()
        assert api.get(api.remote(lambda: "runs").remote()) == "runs"
        assert api.wait([reference], timeout=0)[0] == []
        api.cancel(reference)

    def test_a_big_task_is_not_starved_by_small_ones(self, tmp_path):
        @api.remote(num_cpus=4)
        def big():
            return "big"

        @api.remote
        def small(i):
            return i

        small_ones = [small.remote(i) for i in range(100)]
        reference = big.remote()
        small_ones += [small.remote(i) for i in range(100)]
        assert api.get(reference) == "big"
        api.get(small_ones)

    def test_memory_is_a_resource(self, gate):
        total = api.cluster_resources()["memory"]

        @api.remote(memory=200 * 1024 * 1024)
        def hold():
            gate.wait()

        reference = hold.remote()
        wait_until(lambda: available("memory") == total - 200 * 1024 * 1024)
        gate.open()
        api.get(reference)
        wait_until(lambda: available("memory") == total)


class TestCustom:
    def test_they_limit_what_runs_at_once(self, start_cluster, tmp_path, gate):
        start_cluster(num_cpus=4, resources={"licence": 2})
        running = Tally(tmp_path / "running")

        @api.remote(num_cpus=0, resources={"licence": 1})
        def run():
            running.mark()
            gate.wait()

        references = [run.remote() for _ in range(4)]
        running.wait_for(2)
        wait_until(lambda: available("licence") == 0)
        api.wait(references, timeout=0.3)
        assert running.count() == 2
        gate.open()
        api.get(references)
        wait_until(lambda: available("licence") == 2)

        @api.remote(resources={"licence": 2})
        class Holder:
            def resources(self):
                return api.get_runtime_context().get_assigned_resources()

        holder = Holder.remote()
        assert api.get(holder.resources.remote())["licence"] == 2
        wait_until(lambda: available("licence") == 0)
        del holder
        wait_until(lambda: available("licence") == 2)

        half = run.options(resources={"licence": 0.5})
        api.get([half.remote() for _ in range(5)])


class TestGpus:
    """Two GPUs that exist only in the books, so that no hardware is needed."""

    @pytest.fixture(autouse=True)
    def two_gpus(self, start_cluster):
        start_cluster(num_cpus=4, num_gpus=2)

    def test_tasks_and_actors_see_their_own(self, tmp_path, gate):
        @api.remote(num_gpus=1)
        def one():
            gate.wait()
            return visible()

        @api.remote(num_gpus=2)
        def both():
            return visible()

        @api.remote(num_gpus=0)
        def none():
            return visible()

        @api.remote(num_gpus=1)
        class Holder:
            def visible(self):
                return visible()

        def visible():
            ids = api.get_gpu_ids()
            return sorted(int(i) for i in ids), os.environ.get("CUDA_VISIBLE_DEVICES")

        pair = [one.remote(), one.remote()]
        wait_until(lambda: available("GPU") == 0)
        gate.open()
        results = api.get(pair)
        assert sorted(ids for ids, _ in results) == [[0], [1]]
        for ids, variable in results:
            assert variable == str(ids[0])

        ids, variable = api.get(both.remote())
        assert ids == [0, 1]
        assert sorted(variable.split(",")) == ["0", "1"]
        assert api.get(none.remote())[0] == []

        holders = [Holder.remote(), Holder.remote()]
        held = api.get([holder.visible.remote() for holder in holders])
        assert sorted(ids for ids, _ in held) == [[0], [1]]

    def test_fractions_share_a_device(self, tmp_path, gate):
        running = Tally(tmp_path / "running")

        @api.remote(num_gpus=0.5, num_cpus=0)
        def half():
            running.mark()
            gate.wait()
            return int(api.get_gpu_ids()[0])

        references = [half.remote() for _ in range(5)]
        running.wait_for(4)
        api.wait(references, timeout=0.3)
        assert running.count() == 4
        wait_until(lambda: available("GPU") == 0)
        gate.open()
        ids = api.get(references)
        assert sorted(ids[:4]) == [0, 0, 1, 1]
        wait_until(lambda: available("GPU") == 2)

    def test_accelerator_ids_in_the_runtime_context(self):
        @api.remote(num_gpus=1)
        def ids():
            context = api.get_runtime_context()
            return context.get_accelerator_ids()["GPU"], context.get_assigned_resources()["GPU"]

        (only,), amount = api.get(ids.remote())
        assert only in ("0", "1")
        assert amount == 1
