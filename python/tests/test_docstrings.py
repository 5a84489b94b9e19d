"""The examples in docstrings do what they show."""

import doctest
import importlib
import io
import pkgutil
import sys

import pytest

import shoal

from harness import ON_SHOAL


def examples():
    """Every docstring with an example, by the name of what it documents."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [shoal]
    for found in pkgutil.walk_packages(shoal.__path__, "shoal."):
        if found.name.rpartition(".")[2] not in ("__main__", "_shoal"):
            modules.append(importlib.import_module(found.name))
    tests = {}
    for module in modules:
        for test in finder.find(module, module.__name__):
            if test.examples:
                tests[test.name] = test
    return [pytest.param(test, id=name) for name, test in sorted(tests.items())]


@pytest.mark.skipif(not ON_SHOAL, reason="these are Shoal's docstrings")
@pytest.mark.parametrize("example", examples() if ON_SHOAL else [])
def test_example(example, clusters):
    before = sys.modules.get("ray"), list(sys.meta_path)
    # An example of starting, leaving or having no cluster starts without one.
    if any(word in example.docstring for word in ("init(", "shutdown()", "is_initialized", "shoal.sim")):
        clusters.stop()
    else:
        clusters.share(__name__)
    # A class of an example belongs to a module that workers cannot import, as in a main script.
    example.globs["__name__"] = "__main__"
    output = io.StringIO()
    try:
        failed, attempted = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=output.write)
    finally:
        sys.meta_path[:] = before[1]
        if before[0] is None:
            sys.modules.pop("ray", None)
    assert attempted > 0
    assert failed == 0, output.getvalue()
