"""Which options there are, what they may be, and what the runtime is told."""

import pickle

import pytest

from shoal import options
from shoal.util import scheduling_strategies as strategies

NODE = "00000007" + "0" * 48


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"no_such_option": 1}, ValueError),
        ({"num_cpus": -1}, ValueError),
        ({"num_cpus": float("nan")}, ValueError),
        ({"num_cpus": 0.00001}, ValueError),
        ({"num_cpus": "1"}, TypeError),
        ({"num_gpus": 1.5}, ValueError),
        ({"memory": -1}, ValueError),
        ({"object_store_memory": 1}, ValueError),
        ({"resources": {"CPU": 1}}, ValueError),
        ({"resources": {"memory": 1}}, ValueError),
        ({"resources": {"wheel": -1}}, ValueError),
        ({"resources": {"NPU": 1.5}}, ValueError),
        ({"resources": {1: 1}}, ValueError),
        ({"resources": ["wheel"]}, TypeError),
        ({"num_returns": -1}, ValueError),
        ({"num_returns": "many"}, ValueError),
        ({"num_returns": 1.5}, TypeError),
        ({"max_retries": -2}, ValueError),
        ({"max_retries": 1.5}, TypeError),
        ({"max_retries": True}, TypeError),
        ({"max_calls": -1}, ValueError),
        ({"retry_exceptions": ValueError}, TypeError),
        ({"retry_exceptions": [3]}, ValueError),
        ({"retry_exceptions": [KeyboardInterrupt]}, ValueError),
        ({"_generator_backpressure_num_objects": 0}, ValueError),
        ({"_num_objects_per_yield": 2}, ValueError),
        ({"name": 3}, TypeError),
        ({"scheduling_strategy": "FASTEST"}, ValueError),
        ({"scheduling_strategy": 3}, TypeError),
        ({"runtime_env": {"env_vars": {"A": 1}}}, TypeError),
        ({"runtime_env": {"env_vars": {"A=B": "1"}}}, ValueError),
        ({"runtime_env": {"no_such_field": 1}}, ValueError),
        ({"label_selector": {"zone": "in(a,b"}}, ValueError),
        ({"label_selector": {"zone": "in()"}}, ValueError),
        ({"label_selector": {"zone": "in(a,)"}}, ValueError),
        ({"label_selector": {"zone": "!"}}, ValueError),
        ({"label_selector": {"zone": "!!a"}}, ValueError),
        ({"label_selector": {"zone": "-a"}}, ValueError),
        ({"label_selector": {"zone": 1}}, ValueError),
        ({"label_selector": {"a b": "a"}}, ValueError),
        ({"label_selector": {1: "a"}}, ValueError),
        ({"label_selector": "zone"}, TypeError),
        ({"fallback_strategy": [{"num_cpus": 1}]}, ValueError),
    ],
    ids=str,
)
def test_impossible_task_options(given, error):
    with pytest.raises(error):
        options.validate_task(given, in_options=False)


@pytest.mark.parametrize(
    "given",
    [
        {"runtime_env": {"pip": ["a-package"]}},
        {"fallback_strategy": [{"label_selector": {"zone": "a"}}]},
    ],
    ids=["pip", "fallback"],
)
def test_what_cannot_be_honoured_is_refused(given):
    with pytest.raises(NotImplementedError):
        options.validate_task(given, in_options=False)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"max_retries": 1}, ValueError),
        ({"name": ""}, ValueError),
        ({"namespace": ""}, ValueError),
        ({"lifetime": "eternal"}, ValueError),
        ({"max_concurrency": 0}, ValueError),
        ({"max_restarts": -2}, ValueError),
        ({"max_pending_calls": "1"}, TypeError),
        ({"get_if_exists": True}, ValueError),
        ({"get_if_exists": None}, TypeError),
        ({"concurrency_groups": "io"}, TypeError),
    ],
    ids=str,
)
def test_impossible_actor_options(given, error):
    with pytest.raises(error):
        options.validate_actor(given, in_options=False)


def test_some_options_belong_to_the_definition():
    options.validate_task({"max_calls": 1}, in_options=False)
    with pytest.raises(ValueError, match="max_calls"):
        options.validate_task({"max_calls": 1}, in_options=True)
    options.validate_actor({"concurrency_groups": {"io": 1}}, in_options=False)
    with pytest.raises(ValueError, match="concurrency_groups"):
        options.validate_actor({"concurrency_groups": {"io": 1}}, in_options=True)


def test_labels():
    """Selectors and the conditions of `NodeLabelSchedulingStrategy` mean the same to the runtime."""
    selector = {"zone": "in(a, b)", "example.com/disk": "!ssd", "empty": "", "none": "!in(c)"}
    found = [
        ("zone", ["a", "b"], False),
        ("example.com/disk", ["ssd"], True),
        ("empty", [""], False),
        ("none", ["c"], True),
    ]
    options.validate_task({"label_selector": selector}, in_options=True)
    options.validate_actor({"label_selector": selector}, in_options=True)
    assert options.labels({"label_selector": selector}) == found
    assert options.labels({}) == options.labels({"label_selector": None, "scheduling_strategy": "SPREAD"}) == []
    conditions = {"a": strategies.In("b", "c"), "d": strategies.NotIn("e"), "f": strategies.Exists()}
    strategy = strategies.NodeLabelSchedulingStrategy({**conditions, "g": strategies.DoesNotExist()})
    expected = [("a", ["b", "c"], False), ("d", ["e"], True), ("f", [], False), ("g", [], True)]
    given = {"scheduling_strategy": strategy}
    options.validate_task(given, in_options=True)
    assert (options.labels(given), options.placement(given)) == (expected, "hybrid")
    assert options.labels({**given, "label_selector": selector}) == found + expected


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: strategies.In(), ValueError),
        (lambda: strategies.NotIn("a b"), ValueError),
        (lambda: strategies.In(3), ValueError),
        (lambda: strategies.NodeLabelSchedulingStrategy({}), ValueError),
        (lambda: strategies.NodeLabelSchedulingStrategy({"zone": "a"}), ValueError),
        (lambda: strategies.NodeLabelSchedulingStrategy({"a b": strategies.Exists()}), ValueError),
        (lambda: strategies.NodeLabelSchedulingStrategy("zone"), ValueError),
        (lambda: strategies.NodeLabelSchedulingStrategy({}, soft={"a": strategies.Exists()}), NotImplementedError),
        (lambda: strategies.NodeAffinitySchedulingStrategy("zz", soft=True), ValueError),
        (lambda: strategies.NodeAffinitySchedulingStrategy(NODE, False, True), ValueError),
        (lambda: strategies.NodeAffinitySchedulingStrategy(NODE, True, False, True), ValueError),
    ],
)
def test_impossible_strategies(make, error):
    with pytest.raises(error):
        make()


def test_resources_of_a_task():
    assert options.resources({}, cpus_default=1) == {"CPU": 1.0}
    assert options.resources({"num_cpus": 0}, cpus_default=1) == {}
    assert options.resources(
        {"num_cpus": 0.5, "num_gpus": 2, "memory": 10.7, "resources": {"wheel": 4}}, cpus_default=1
    ) == {"CPU": 0.5, "GPU": 2.0, "memory": 10.0, "wheel": 4.0}
    assert options.resources({"accelerator_type": "H100"}, cpus_default=1)["accelerator_type:H100"] == 0.001


@pytest.mark.parametrize(
    ("given", "placement", "held"),
    [
        ({}, {"CPU": 1.0}, {}),
        ({"memory": 5}, {"CPU": 1.0, "memory": 5.0}, {"memory": 5.0}),
        ({"resources": {}}, {"CPU": 1.0}, {}),
        ({"num_cpus": 0}, {}, {}),
        ({"num_cpus": 2}, {"CPU": 2.0}, {"CPU": 2.0}),
        ({"num_gpus": 1}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}),
        ({"resources": {"wheel": 1}, "num_cpus": 0}, {"wheel": 1.0}, {"wheel": 1.0}),
    ],
    ids=str,
)
def test_resources_of_an_actor(given, placement, held):
    assert options.actor_resources(given) == (placement, held)


def test_the_number_of_retries_has_a_default_in_the_environment(monkeypatch):
    monkeypatch.delenv("SHOAL_TASK_MAX_RETRIES", raising=False)
    assert options.task_retries({}) == 3
    monkeypatch.setenv("SHOAL_TASK_MAX_RETRIES", "7")
    assert options.task_retries({}) == 7
    assert options.task_retries({"max_retries": 0}) == 0


def test_retried_exceptions_travel_as_a_pickle():
    assert options.retry_exceptions({}) is False
    assert options.retry_exceptions({"retry_exceptions": True}) is True
    assert pickle.loads(options.retry_exceptions({"retry_exceptions": [KeyError]})) == (KeyError,)


def test_generators_stream_by_default():
    assert options.returns({}, is_generator=True) == -1
    assert options.returns({}, is_generator=False) == 1
    assert options.returns({"num_returns": 2}, is_generator=True) == 2
    with pytest.raises(ValueError, match="generator"):
        options.returns({"num_returns": "streaming"}, is_generator=False)


def test_workers_with_gpus_serve_one_call():
    assert options.max_calls({}) == 0
    assert options.max_calls({"num_gpus": 0.5}) == 1
    assert options.max_calls({"num_gpus": 1, "max_calls": 0}) == 0


def test_concurrency_groups():
    assert options.concurrency_groups({"concurrency_groups": {"io": 2, "compute": 4}}) == [("io", 2), ("compute", 4)]
    for wrong in ({"_ray_system": 1}, {"": 1}, {"io": 0}):
        with pytest.raises(ValueError):
            options.concurrency_groups({"concurrency_groups": wrong})


def test_environment_variables_are_sorted():
    env = {"env_vars": {"B": "2", "A": "1"}}
    assert options.variables(env) == [("A", "1"), ("B", "2")]
    assert options.variables(None) == []
