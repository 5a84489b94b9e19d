"""The work itself: which identifiers do Python source files use, and how often?"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections import Counter
from pathlib import Path

LIBRARY = Path(sysconfig.get_path("stdlib"))


def library_files() -> list[Path]:
    """The source files of the running interpreter's standard library, largest first.

    Whoever shares them out in this order is left with small ones at the end, when balance matters.
    """
    files = [path for path in LIBRARY.rglob("*.py") if "site-packages" not in path.parts]
    return sorted(files, key=lambda path: (-path.stat().st_size, path))


def identifiers(path: Path) -> Counter[str]:
    """How often each identifier stands in a source file.

    Empty for what does not parse: the library has such files on purpose, as data of its tests.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return Counter()
    return Counter(name for node in ast.walk(tree) for name in names(node))


def names(node: ast.AST) -> list[str]:
    """The identifiers that a node of the syntax tree itself introduces or uses."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.keyword(arg=str(name)):
            return [name]
        case ast.Global(names=several) | ast.Nonlocal(names=several):
            return several
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return [alias.asname or alias.name for alias in aliases]
        case _:
            return []
