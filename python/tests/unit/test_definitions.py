"""What can be said about remote functions and actor classes before anything runs."""

import functools
import inspect

import cloudpickle
import pytest

import shoal
from shoal._actor_description import ClassDescription
from shoal.actor import ActorClass, ActorClassInheritanceException
from shoal.remote_function import RemoteFunction


@shoal.remote
def add(a, b=1):
    """Adds."""
    return a + b


class Base:
    LIMIT = 7

    def __init__(self, start, *, step=1):
        self.value = start

    def plain(self, a):
        return a

    async def later(self, a):
        return a

    def steps(self):
        yield 1

    @staticmethod
    def static(a):
        return a

    @classmethod
    def of_class(cls, a):
        return a

    @shoal.method(num_returns=2, concurrency_group="io")
    def pair(self):
        return 1, 2

    def __len__(self):
        return 3


def test_a_remote_function_looks_like_its_function():
    assert isinstance(add, RemoteFunction)
    assert add.__name__ == "add"
    assert add.__doc__ == "Adds."
    assert add._function(1) == 2
    assert inspect.signature(add._function) == inspect.signature(lambda a, b=1: None)


def test_direct_calls_say_what_to_do():
    with pytest.raises(TypeError, match=r"add\.remote\(\)"):
        add(1)
    with pytest.raises(TypeError, match=r"Base\.remote\(\)"):
        shoal.remote(Base)(1)


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"c": 1}), ((1,), {"a": 1}), ((), {"b": 1})], ids=str
)
def test_wrong_arguments_are_found_before_anything_is_sent(args, kwargs):
    with pytest.raises(TypeError):
        add.remote(*args, **kwargs)


def test_wrong_arguments_of_a_constructor():
    with pytest.raises(TypeError, match="start"):
        shoal.remote(Base).remote()


@pytest.mark.parametrize("wrong", [3, "f", None, object()], ids=str)
def test_only_functions_and_classes_can_be_remote(wrong):
    with pytest.raises(TypeError):
        shoal.remote(wrong)


def test_the_decorator_is_bare_or_has_options():
    for wrong in (lambda: shoal.remote(), lambda: shoal.remote(add._function, num_cpus=1), lambda: shoal.remote(add)):
        with pytest.raises(TypeError):
            wrong()


def test_functions_of_other_kinds():
    assert isinstance(shoal.remote(len), RemoteFunction)
    assert isinstance(shoal.remote(functools.partial(int, "3")), RemoteFunction)
    assert isinstance(shoal.remote(lambda x: x), RemoteFunction)


def test_coroutine_functions_are_no_tasks():
    async def later():
        pass

    with pytest.raises(ValueError, match="async"):
        shoal.remote(later)


def test_streaming_needs_a_generator():
    with pytest.raises(ValueError, match="generator"):
        shoal.remote(num_returns="streaming")(lambda: 1)


def test_variants_leave_the_original_alone_and_are_kept():
    variant = add.options(num_cpus=2)
    assert variant is add.options(num_cpus=2)
    assert variant is not add.options(num_cpus=2.5)
    assert add._default_options == {}
    assert variant.options(name="x")._default_options == {"num_cpus": 2, "name": "x"}
    assert add.options(resources={"wheel": 1})._default_options == {"resources": {"wheel": 1}}
    for number in range(200):
        add.options(name=f"name {number}")
    assert len(add._variants) <= 64


def test_graphs_are_refused():
    for thing in (add, shoal.remote(Base)):
        with pytest.raises(NotImplementedError):
            thing.bind(1)


def test_functions_can_be_pickled_even_if_they_refer_to_themselves():
    @shoal.remote
    def descend(n):
        return n if n == 0 else descend._function(n - 1)

    copy = cloudpickle.loads(cloudpickle.dumps(descend))
    assert copy._function(3) == 0
    with pytest.raises(TypeError):
        copy.remote()
    assert cloudpickle.loads(cloudpickle.dumps(add.options(num_cpus=3)))._default_options == {"num_cpus": 3}


def test_classes_can_be_pickled_even_if_they_refer_to_themselves():
    @shoal.remote
    class Node:
        def child(self):
            return Node

    copy = cloudpickle.loads(cloudpickle.dumps(Node))
    assert isinstance(copy, ActorClass)
    assert copy._class().child() is copy


def test_a_class_cannot_be_derived_from_an_actor_class():
    actor_class = shoal.remote(Base)
    with pytest.raises(ActorClassInheritanceException, match="Base"):

        class Derived(actor_class):
            pass


def test_an_actor_class_has_the_attributes_of_its_class():
    actor_class = shoal.remote(Base)
    assert actor_class.LIMIT == 7
    assert actor_class.static(3) == 3
    with pytest.raises(AttributeError):
        actor_class.no_such_thing  # noqa: B018


def test_the_description_of_a_class():
    description = cloudpickle.loads(cloudpickle.dumps(ClassDescription.of(Base)))
    assert description.name == "Base"
    assert description.asynchronous
    methods = description.methods
    assert {"plain", "later", "steps", "static", "of_class", "pair", "__len__", "__init__"} <= methods.keys()
    assert "__eq__" not in methods
    for name in ("plain", "later", "static", "of_class"):
        methods[name].signature.check((1,), {})
        with pytest.raises(TypeError):
            methods[name].signature.check((), {})
    assert methods["steps"].streams({})
    assert not methods["plain"].streams({})
    assert methods["pair"].options == {"num_returns": 2, "concurrency_group": "io"}
    description.constructor.check((1,), {"step": 2})
    with pytest.raises(ValueError, match="io"):
        description.check_groups({"compute"})


def test_descriptions_of_one_class_are_shared():
    pickled = cloudpickle.dumps(ClassDescription.of(Base))
    assert cloudpickle.loads(pickled) is cloudpickle.loads(pickled)


def test_methods_every_actor_has():
    description = ClassDescription.of(Base)
    for name in ("__shoal_ready__", "__ray_ready__", "__ray_terminate__", "__ray_call__"):
        assert description.method(name) is not None
    assert description.method("no_such_method") is None


def test_a_class_without_constructor_takes_no_arguments():
    class Plain:
        pass

    with pytest.raises(TypeError):
        ClassDescription.of(Plain).constructor.check((1,), {})


@pytest.mark.parametrize("wrong", [{"num_returns": -1}, {"no_such_option": 1}, {"max_task_retries": -2}], ids=str)
def test_impossible_options_of_methods(wrong):
    with pytest.raises(ValueError):
        shoal.method(**wrong)


def test_the_method_decorator_may_be_bare():
    def function(self):
        pass

    assert shoal.method(function) is function
    for wrong in (lambda: shoal.method(), lambda: shoal.method(3)):
        with pytest.raises(TypeError):
            wrong()
