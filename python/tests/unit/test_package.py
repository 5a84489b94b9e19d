"""The package itself: what importing it costs, and its names."""

import subprocess
import sys

import pytest

import shoal


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_it_imports_nothing_slow():
    loaded = run("import sys, shoal; print(*sys.modules)").split()
    assert "shoal" in loaded
    for slow in ("numpy", "asyncio", "cloudpickle", "logging", "typing", "inspect", "subprocess", "shoal._shoal"):
        assert slow not in loaded


def test_asking_whether_it_is_initialized_loads_no_extension():
    assert run("import sys, shoal; print(shoal.is_initialized(), 'shoal._shoal' in sys.modules)") == "False False"


@pytest.mark.parametrize("name", shoal.__all__)
def test_every_public_name_is_there(name):
    assert getattr(shoal, name) is not None
    assert name in dir(shoal)


@pytest.mark.parametrize("name", shoal.util.__all__)
def test_every_tool_is_there(name):
    assert getattr(shoal.util, name) is not None


def test_unknown_names():
    with pytest.raises(AttributeError, match="no_such_name"):
        shoal.no_such_name  # noqa: B018


def test_a_program_that_says_ray():
    code = """
import shoal
shoal.install_as_ray()
import ray
import ray.util.queue
from ray.exceptions import RayTaskError, GetTimeoutError
from ray.util import ActorPool
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
import shoal.util.queue, shoal.exceptions
assert ray is shoal
assert ray.util.queue.Queue is shoal.util.queue.Queue
assert RayTaskError is shoal.exceptions.TaskError
assert shoal.util.queue.__spec__.name == shoal.util.queue.__name__ == "shoal.util.queue"
try:
    import ray.no_such_module
except ModuleNotFoundError as error:
    print(error.name)
shoal.install_as_ray()
"""
    assert run(code) == "ray.no_such_module"


def test_ray_must_not_be_there_already():
    code = """
import sys, types
sys.modules["ray"] = types.ModuleType("ray")
import shoal
try:
    shoal.install_as_ray()
except RuntimeError:
    print("refused")
"""
    assert run(code) == "refused"


def test_a_script_runs_as_the_main_program(tmp_path):
    script = tmp_path / "script.py"
    (tmp_path / "beside.py").write_text("VALUE = 5\n")
    script.write_text(
        "import sys, ray, beside\n"
        "class Local: pass\n"
        "print(__name__, Local.__module__, sys.modules['__main__'].Local is Local, sys.argv[1:], beside.VALUE)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "shoal", "run", script, "--option"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "__main__ __main__ True ['--option'] 5", done.stderr
