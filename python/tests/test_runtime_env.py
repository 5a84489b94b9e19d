"""`runtime_env`: environment variables of tasks, actors and jobs."""

import os

import pytest

from harness import api, run_driver

pytestmark = pytest.mark.usefixtures("cluster")


@api.remote
def variable(name):
    return os.environ.get(name)


def test_variables_of_a_task():
    coloured = variable.options(runtime_env={"env_vars": {"COLOUR": "red"}})
    assert api.get(coloured.remote("COLOUR")) == "red"
    assert api.get(variable.remote("COLOUR")) is None
    other = variable.options(runtime_env={"env_vars": {"COLOUR": "blue"}})
    assert api.get([other.remote("COLOUR"), coloured.remote("COLOUR")]) == ["blue", "red"]


def test_variables_of_an_actor():
    @api.remote(runtime_env={"env_vars": {"COLOUR": "red"}})
    class Reader:
        def __init__(self):
            self.at_start = os.environ.get("COLOUR")

        def read(self):
            return self.at_start, os.environ.get("COLOUR")

    assert api.get(Reader.remote().read.remote()) == ("red", "red")


def test_variables_of_a_job(tmp_path):
    done = run_driver(
        """
        import os
        api.init(num_cpus=1, include_dashboard=False, runtime_env={"env_vars": {"COLOUR": "red", "SIZE": "big"}})

        @api.remote
        def variables():
            return os.environ.get("COLOUR"), os.environ.get("SIZE")

        @api.remote
        class Reader:
            def read(self):
                return os.environ.get("COLOUR"), os.environ.get("SIZE")

        print(*api.get(variables.remote()), *api.get(Reader.remote().read.remote()))
        changed = variables.options(runtime_env={"env_vars": {"SIZE": "small"}})
        print(*api.get(changed.remote()))
        """,
        tmp_path,
    )
    assert done.stdout.split() == ["red", "big", "red", "big", "red", "small"], done.stderr


def test_children_inherit_the_variables_of_their_parent():
    @api.remote
    def parent():
        return api.get(variable.remote("COLOUR"))

    assert api.get(parent.options(runtime_env={"env_vars": {"COLOUR": "red"}}).remote()) == "red"


def test_the_runtime_context_knows_them():
    @api.remote
    def own():
        return dict(api.get_runtime_context().runtime_env)["env_vars"]

    assert api.get(own.options(runtime_env={"env_vars": {"COLOUR": "red"}}).remote()) == {"COLOUR": "red"}


@pytest.mark.parametrize(
    "wrong", [{"env_vars": ["COLOUR"]}, {"env_vars": {"COLOUR": 1}}, {"env_vars": {1: "red"}}], ids=str
)
def test_variables_are_text(wrong):
    with pytest.raises((TypeError, ValueError)):
        api.get(variable.options(runtime_env=wrong).remote("COLOUR"))
