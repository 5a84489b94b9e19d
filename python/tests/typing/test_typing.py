"""mypy sees in the files beside this one what they say it sees."""

import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
PACKAGE = HERE.parent.parent

pytest.importorskip("mypy")


def run_mypy(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", PACKAGE / "pyproject.toml", *arguments],
        cwd=PACKAGE,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.timeout(320)
@pytest.mark.parametrize("name", ["functions", "actors"])
def test_types_are_what_the_file_says(name):
    done = run_mypy(HERE / f"{name}.py")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(320)
def test_a_wrong_expectation_is_found(tmp_path):
    # A check of the check: it must be able to fail.
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import shoal\n\n@shoal.remote\ndef f(x: int) -> int:\n    return x\n\nf.remote('a')\n")
    done = run_mypy(wrong)
    assert done.returncode == 1
    assert "call-overload" in done.stdout, done.stdout + done.stderr


@pytest.mark.timeout(320)
def test_the_package_is_strictly_typed():
    done = run_mypy()
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(320)
def test_the_stub_describes_the_extension():
    arguments = ["--mypy-config-file", PACKAGE / "pyproject.toml", "--ignore-unused-allowlist"]
    arguments += ["--allowlist", HERE / "stubtest_allowlist.txt"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "shoal._shoal", *arguments],
        cwd=PACKAGE,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
