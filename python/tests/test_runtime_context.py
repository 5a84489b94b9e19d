"""What a task or an actor can learn about itself."""

import os

import pytest

from harness import api

pytestmark = pytest.mark.usefixtures("cluster")


def context():
    return api.get_runtime_context()


def test_the_driver():
    assert len(context().get_job_id()) == 8
    assert len(context().get_node_id()) == 56
    assert len(context().get_worker_id()) == 56
    assert context().get_actor_id() is None
    assert context().get_task_id() is None or isinstance(context().get_task_id(), str)
    assert isinstance(context().namespace, str)
    assert os.path.isdir(context().get_temp_dir())
    assert context().get_session_name().startswith("session")


def test_a_task_shares_the_job_and_has_a_worker_of_its_own():
    @api.remote
    def ids():
        return context().get_job_id(), context().get_node_id(), context().get_worker_id(), context().get_actor_id()

    job, node, worker, actor = api.get(ids.remote())
    assert job == context().get_job_id()
    assert node == context().get_node_id()
    assert worker != context().get_worker_id()
    assert actor is None


def test_a_task_knows_its_id():
    @api.remote
    def task():
        return context().get_task_id()

    references = [task.remote() for _ in range(3)]
    assert api.get(references) == [reference.task_id().hex() for reference in references]


def test_names_of_tasks():
    @api.remote
    def plain():
        return context().get_task_name(), context().get_task_function_name()

    @api.remote(name="given a name")
    def named():
        return context().get_task_name()

    name, function = api.get(plain.remote())
    assert name.endswith("plain")
    assert function.endswith("plain")
    assert api.get(named.remote()) == "given a name"
    assert api.get(named.options(name="another name").remote()) == "another name"


def test_an_actor_knows_itself():
    @api.remote
    class Actor:
        def __init__(self):
            self.in_constructor = context().get_actor_id()

        def ids(self):
            return self.in_constructor, context().get_actor_id(), context().get_actor_name()

        def myself(self):
            return context().current_actor

        def task(self):
            return context().get_task_id(), context().get_task_name()

    actor = Actor.options(name="known as").remote()
    in_constructor, now, name = api.get(actor.ids.remote())
    assert in_constructor == now
    assert len(now) == 32
    assert name == "known as"
    assert api.get(actor.myself.remote()) == actor
    reference = actor.task.remote()
    task, task_name = api.get(reference)
    assert task == reference.task_id().hex()
    assert task_name.endswith("task")


def test_the_handle_of_the_current_actor_works():
    @api.remote
    class Actor:
        def __init__(self):
            self.value = 1

        def read(self):
            return self.value

        def give_to_a_task(self):
            return [use.remote(context().current_actor)]

    @api.remote
    def use(actor):
        return api.get(actor.read.remote())

    actor = Actor.remote()
    (reference,) = api.get(actor.give_to_a_task.remote())
    assert api.get(reference) == 1


def test_only_an_actor_has_a_current_actor():
    with pytest.raises(RuntimeError):
        _ = context().current_actor


def test_actor_names_are_optional():
    @api.remote
    class Actor:
        def name(self):
            return context().get_actor_name()

    assert api.get(Actor.remote().name.remote()) in (None, "")


def test_resources_assigned_to_a_task():
    @api.remote(num_cpus=2)
    def resources():
        return context().get_assigned_resources()

    @api.remote(num_cpus=0.5)
    class Actor:
        def resources(self):
            return context().get_assigned_resources()

    assert api.get(resources.remote())["CPU"] == 2
    assert api.get(resources.options(num_cpus=0.25).remote())["CPU"] == 0.25
    assert api.get(Actor.remote().resources.remote())["CPU"] == 0.5


def test_no_task_was_reconstructed_at_first():
    @api.remote
    class Actor:
        def reconstructed(self):
            return context().was_current_actor_reconstructed

    assert api.get(Actor.remote().reconstructed.remote()) is False


def test_no_placement_group_by_default():
    @api.remote
    def group():
        return context().get_placement_group_id()

    assert api.get(group.remote()) is None


def test_nested_tasks_have_ids_of_their_own():
    @api.remote
    def child():
        return context().get_task_id()

    @api.remote
    def parent():
        before = context().get_task_id()
        children = api.get([child.remote(), child.remote()])
        assert context().get_task_id() == before
        return [before, *children]

    assert len(set(api.get(parent.remote()))) == 3


def test_node_labels():
    labels = context().get_node_labels()
    assert isinstance(labels, dict)
