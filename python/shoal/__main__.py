"""The ``shoal`` command, and ``python -m shoal run`` for programs written for Ray."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that the command line names, and exit with its code."""
    if sys.argv[1:2] == ["run"]:
        run(sys.argv[2:])
        return
    from shoal import _shoal
    from shoal._daemon import command

    sys.exit(_shoal.main(command(), sys.argv[1:]))


def run(arguments: list[str]) -> None:
    """Run a Python script in which ``import ray`` finds Shoal: ``shoal run script.py [args]``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("Usage: shoal run script.py [arguments]\n\nRun a program written for Ray on Shoal.")
        sys.exit(0 if arguments else 2)
    import builtins
    import os
    import types

    from shoal._ray_compat import install_as_ray

    script = arguments[0]
    try:
        with open(script, "rb") as file:
            code = compile(file.read(), script, "exec")
    except OSError as error:
        sys.exit(f"shoal run: {error}")
    install_as_ray()
    sys.argv = arguments
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    # The script's classes and functions must be found where its name says: in `__main__`.
    module = types.ModuleType("__main__")
    module.__file__ = script
    module.__builtins__ = builtins  # type: ignore[attr-defined]
    sys.modules["__main__"] = module
    exec(code, module.__dict__)


if __name__ == "__main__":
    main()
