"""Actors found by name, in namespaces, and actors that outlive their makers."""

import gc
import os

import pytest

from harness import api, exceptions, in_threads, submodule, wait_until, wait_until_gone

pytestmark = pytest.mark.usefixtures("cluster")


@api.remote
class Counter:
    def __init__(self, value=0):
        self.value = value

    def add(self):
        self.value += 1
        return self.value

    def pid(self):
        return os.getpid()


@pytest.fixture
def name(request):
    """A name that no other test uses."""
    return request.node.name


def test_an_actor_is_found_by_its_name(name):
    counter = Counter.options(name=name).remote()
    assert api.get(counter.add.remote()) == 1
    assert api.get(api.get_actor(name).add.remote()) == 2
    assert api.get_actor(name) == counter


def test_tasks_find_actors(name):
    @api.remote
    def find():
        return api.get(api.get_actor(name).add.remote())

    counter = Counter.options(name=name).remote()
    assert api.get(find.remote()) == 1
    assert api.get(counter.add.remote()) == 2


def test_a_name_that_was_just_given_is_found(name):
    # Nothing is awaited in between.
    counters = [Counter.options(name=f"{name} {i}").remote() for i in range(3)]
    assert [api.get_actor(f"{name} {i}") for i in range(3)] == counters


@pytest.mark.parametrize("wrong", ["nobody has this name", ""])
def test_an_unknown_name(wrong):
    with pytest.raises(ValueError):
        api.get_actor(wrong)


def test_a_name_is_given_once(name):
    counter = Counter.options(name=name).remote()
    with pytest.raises(exceptions.ActorAlreadyExistsError):
        Counter.options(name=name).remote()
    with pytest.raises(ValueError, match=r"taken|exists"):
        Counter.options(name=name).remote()
    assert api.get(counter.add.remote()) == 1


def test_a_name_is_free_again_after_a_kill(name):
    counter = Counter.options(name=name).remote()
    assert api.get(counter.add.remote()) == 1
    api.kill(counter)

    def try_again():
        try:
            return Counter.options(name=name).remote()
        except ValueError:
            return None

    assert api.get(wait_until(try_again).add.remote()) == 1


def test_a_name_is_free_again_when_the_last_handle_goes(name):
    counter = Counter.options(name=name).remote()
    pid = api.get(counter.pid.remote())
    del counter
    gc.collect()
    wait_until_gone(pid)

    def unknown():
        try:
            api.get_actor(name)
        except ValueError:
            return True
        return False

    wait_until(unknown)


def test_a_found_handle_does_not_keep_the_actor(name):
    counter = Counter.options(name=name).remote()
    found = api.get_actor(name)
    pid = api.get(found.pid.remote())
    del counter
    gc.collect()
    wait_until_gone(pid)
    with pytest.raises(exceptions.RayActorError):
        api.get(found.add.remote())


def test_get_if_exists(name):
    options = {"name": name, "get_if_exists": True}
    first = Counter.options(**options).remote(10)
    second = Counter.options(**options).remote(20)
    assert first == second
    assert api.get([first.add.remote(), second.add.remote()]) == [11, 12]


def test_get_if_exists_in_many_threads(name):
    actors = in_threads(lambda _: Counter.options(name=name, get_if_exists=True).remote(), 8)
    assert len({api.get(actor.pid.remote()) for actor in actors}) == 1
    assert sorted(api.get([actor.add.remote() for actor in actors])) == list(range(1, 9))


def test_get_if_exists_in_many_tasks(name):
    @api.remote
    def make():
        counter = Counter.options(name=name, get_if_exists=True, lifetime="detached").remote()
        return api.get(counter.pid.remote())

    assert len(set(api.get([make.remote() for _ in range(4)]))) == 1
    api.kill(api.get_actor(name))


def test_get_if_exists_needs_a_name():
    with pytest.raises(ValueError):
        Counter.options(get_if_exists=True).remote()


# Namespaces


def test_a_name_belongs_to_a_namespace(name):
    here = Counter.options(name=name).remote()
    there = Counter.options(name=name, namespace="there").remote(100)
    assert api.get([here.add.remote(), there.add.remote()]) == [1, 101]
    assert api.get_actor(name) == here
    assert api.get_actor(name, namespace="there") == there
    with pytest.raises(ValueError):
        api.get_actor(name, namespace="elsewhere")


def test_tasks_share_the_namespace_of_their_driver(name):
    @api.remote
    def make():
        return Counter.options(name=name, lifetime="detached").remote()

    made = api.get(make.remote())
    assert api.get_actor(name) == made
    assert api.get(made.add.remote()) == 1
    api.kill(made)


def test_named_actors_are_listed(name):
    list_named_actors = submodule("util").list_named_actors
    here = Counter.options(name=name).remote()
    there = Counter.options(name=name, namespace="list there").remote()
    api.get([here.add.remote(), there.add.remote()])
    assert name in list_named_actors()
    assert {"name": name, "namespace": "list there"} in list_named_actors(all_namespaces=True)
    api.kill(here)
    wait_until(lambda: name not in list_named_actors())


# Detached


def test_a_detached_actor_outlives_its_handles(name):
    pid = api.get(Counter.options(name=name, lifetime="detached").remote().pid.remote())
    gc.collect()
    found = api.get_actor(name)
    assert api.get(found.pid.remote()) == pid
    api.kill(found)
    wait_until_gone(pid)


def test_a_detached_actor_outlives_its_maker(name):
    @api.remote
    class Maker:
        def make(self):
            self.made = Counter.options(name=name, lifetime="detached").remote()
            return api.get(self.made.add.remote())

    maker = Maker.remote()
    assert api.get(maker.make.remote()) == 1
    api.kill(maker)
    with pytest.raises(exceptions.RayActorError):
        api.get(maker.make.remote())
    found = api.get_actor(name)
    assert api.get(found.add.remote()) == 2
    api.kill(found)


def test_an_actor_that_is_not_detached_ends_with_its_maker(name):
    @api.remote
    class Maker:
        def make(self):
            self.made = Counter.options(name=name).remote()
            return api.get(self.made.pid.remote())

    maker = Maker.remote()
    pid = api.get(maker.make.remote())
    api.kill(maker)
    wait_until_gone(pid)


def test_a_detached_actor_restarts(name):
    counter = Counter.options(name=name, lifetime="detached", max_restarts=1, max_task_retries=1).remote()
    pid = api.get(counter.pid.remote())
    os.kill(pid, 9)
    wait_until_gone(pid)
    assert api.get(api.get_actor(name).add.remote()) == 1
    api.kill(counter)


def test_a_lifetime_is_a_known_word():
    with pytest.raises(ValueError):
        Counter.options(lifetime="eternal").remote()
