"""The house: rooms in an order, each module small, and what is private to another library in one
place.
"""

import ast
from pathlib import Path

import pytest

import faeval_core

PACKAGE = Path(faeval_core.__file__).resolve().parent
# each imports of those before it alone; modules of one room form no circle
ROOMS = ("ground", "owncode", "settings", "models", "methods", "config", "measure", "data")
ROOMS += ("training", "preflight", "runs", "report", "cli", "__main__")
MODULES = {
    ".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): p
    for p in sorted(PACKAGE.rglob("*.py"))
}
LONGEST_FILE, LONGEST_CLASS = 350, 150


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(name: str) -> set[str]:
    """The modules of the package that a module imports when it is imported."""
    path = MODULES[name]
    package = list(path.relative_to(PACKAGE).parent.parts)
    tree, found = tree_of(path), set()
    later = {
        id(n)
        for f in ast.walk(tree)
        if isinstance(f, (ast.FunctionDef, ast.If))
        for n in ast.walk(f)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in later:
            base = package[: len(package) - node.level + 1]
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                full = ".".join([*base, alias.name])
                found.add(full if full in MODULES else ".".join(base))
    return found - {"", name}


def room(name: str) -> str:
    return name.partition(".")[0]


def test_every_module_has_a_room():
    assert {room(name) for name in MODULES} - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("name", [n for n in MODULES if n != "__init__"])
def test_a_module_imports_only_from_rooms_below_its_own(name):
    above = {n for n in imported(name) if ROOMS.index(room(n)) > ROOMS.index(room(name))}
    assert not above


def test_no_module_imports_itself_by_way_of_others():
    needs = {name: imported(name) for name in MODULES if name != "__init__"}
    left = dict(needs)
    while free := [n for n, of in left.items() if not of & left.keys()]:
        for n in free:
            del left[n]
    assert not left, f"a circle among {sorted(left)}"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is_for_and_is_small(name):
    path = MODULES[name]
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{name} has no docstring"
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{name} has {lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= LONGEST_CLASS, f"{name}.{node.name} has {length} lines"


def test_what_is_private_to_torch_is_used_in_one_place():
    for name, path in MODULES.items():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                private = node.value.id == "torch" and node.attr.startswith("_")
                dunder = node.attr.startswith("__")
                assert dunder or not private or name == "training.torch_private", (name, node.attr)


def test_no_product_code_patches():
    for path in MODULES.values():
        assert "unittest" not in path.read_text(encoding="utf-8")


def fitted(node: ast.AST) -> list[float]:
    """Small numbers that a line of a test takes for the rounding that it allows."""
    allowed = []
    if isinstance(node, ast.Call):
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if called in ("approx", "assert_close", "allclose", "assert_allclose", "isclose"):
            allowed = [k.value for k in node.keywords if k.arg in ("abs", "rel", "atol", "rtol")]
    if isinstance(node, ast.Compare) and any(isinstance(op, (ast.Lt, ast.LtE)) for op in node.ops):
        compared = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        allowed = node.comparators if compared & {"apart", "cosine"} else []
    numbers = [n.value for n in allowed if isinstance(n, ast.Constant)]
    return [n for n in numbers if isinstance(n, float) and n < 1e-3]


TESTS = sorted(Path(__file__).parent.glob("test_*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_what_rounding_may_do_is_never_a_number_that_fitted_one_machine(path):
    """A bound is that of conftest.py, or follows from a step, a digit or a twin in the test."""
    lines = [node for node in ast.walk(tree_of(path)) if hasattr(node, "lineno")]
    found = {node.lineno: fitted(node) for node in lines if fitted(node)}
    assert not found


def test_a_number_that_fitted_is_found():
    for line in ("assert x == approx(1, abs=1e-4)", "assert apart(a, b) < 1e-4"):
        assert any(map(fitted, ast.walk(ast.parse(line)))), line
    for line in ("assert x == approx(1, abs=ROUNDING)", "assert apart(a, b) < 10 * step"):
        assert not any(map(fitted, ast.walk(ast.parse(line)))), line
