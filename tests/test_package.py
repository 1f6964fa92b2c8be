"""The package as others install it: light to import, complete in a wheel, its extras true."""

import ast
import html
import importlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import Distribution, distribution, distributions, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import faeval_core
from faeval_core import RunConfig
from faeval_core.__main__ import COMMANDS
from faeval_core.cli import commands
from faeval_core.ground.extras import EXTRAS, way_out

PACKAGE = Path(faeval_core.__file__).resolve().parent
ROOT = PACKAGE.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The extra that a module or folder belongs to: it is imported by those alone who have installed
# this extra.
BELONGS = {
    "measure.comparisons": "audit",
    "measure.judge": "audit",
    "measure.judge_measures": "audit",
    "measure.protocol": "audit",
    "measure.stats": "audit",
    "report": "audit",
    "report.kernels": "notebooks",
    "report.outputs": "notebooks",
    "report.parameters": "notebooks",
    "report.pipeline": "notebooks",
    "report.preloaded": "notebooks",
    "report.readme": "notebooks",
}
HEAVY = {"torch", "matplotlib", "pandas", "scipy", "sklearn", "torchvision", "PIL"}
HEAVY |= {"IPython", "ipykernel", "jupyter_client", "nbformat", "papermill", "distributed"}


# -- what an import costs -------------------------------------------------------------------------


def imported_by(*lines) -> set[str]:
    """The names in HEAVY that a fresh process has imported after these lines."""
    told = f"import json, sys\n{chr(10).join(lines)}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", told], check=True, capture_output=True, encoding="utf-8", cwd=ROOT
    )
    return HEAVY & set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["reproduse"]])
def test_the_command_line_waits_for_nothing_before_a_command_is_named(arguments):
    lines = ["from contextlib import suppress", "from faeval_core.__main__ import main"]
    lines += ["with suppress(SystemExit):", f"    main({arguments})"]
    assert imported_by(*lines) == set()


def test_importing_the_package_imports_none_of_what_only_some_need():
    assert imported_by("import faeval_core") == set()
    assert imported_by("from faeval_core import *") == {"torch"}


def test_public_names_and_modules_are_found_as_before():
    for name in faeval_core.__all__:
        assert getattr(faeval_core, name).__class__ and name in dir(faeval_core)
    assert faeval_core.data.load and faeval_core.methods.METHODS is faeval_core.METHODS
    with pytest.raises(AttributeError, match="'faeval_core' has no attribute 'rum'"):
        faeval_core.rum  # noqa: B018
    with pytest.raises(ImportError):
        from faeval_core import rum  # noqa: F401
    assert not hasattr(faeval_core, "worker")


def test_a_module_that_is_asked_for_without_its_folder_is_told_with_it():
    for path in PACKAGE.glob("*/[a-z]*.py"):
        now = f"faeval_core.{path.parent.name}.{path.stem}"
        old = f"faeval_core.{path.stem}"
        if not (PACKAGE / path.stem).exists() and not (PACKAGE / f"{path.stem}.py").exists():
            with pytest.raises(ModuleNotFoundError, match=re.escape(now)):
                importlib.import_module(old)


def test_every_command_that_help_lists_has_its_flags_and_work():
    assert list(COMMANDS) == list(commands.COMMANDS)


# -- what the extras bring ------------------------------------------------------------------------


@cache
def direct(extra: str | None) -> frozenset[str]:
    """Names of the distributions that an extra asks for; None: those of the base."""
    table = PROJECT["optional-dependencies"]
    asked = map(Requirement, PROJECT["dependencies"] if extra is None else table[extra])
    found = set()
    for r in asked:
        own = r.name == PROJECT["name"]
        found |= set().union(*map(direct, r.extras)) if own else {canonicalize_name(r.name)}
    return frozenset(found)


def allowed(extra: str | None) -> frozenset[str]:
    return direct(None) | (frozenset() if extra is None else direct(extra))


def imports(path: Path) -> list[tuple[str, bool]]:
    """(dotted name, whether it is imported with the module) of a file's imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ("faeval_core", *path.relative_to(PACKAGE).parent.parts)
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1])
            base = f"{base}.{node.module}" if node.module else base
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        found += [(name, id(node) not in inside) for name in names]
    return found


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def extra_of(module: str) -> str | None:
    """The extra that a module, or else its folder, belongs to."""
    return BELONGS.get(module, BELONGS.get(module.partition(".")[0]))


SOURCES = sorted(PACKAGE.rglob("*.py"))
INSTALLED = {canonicalize_name(d.metadata["Name"]) for d in distributions()}
PROVIDERS = {
    module: {canonicalize_name(name) for name in names}
    for module, names in packages_distributions().items()
}
FOREIGN = [
    (path, top, at_once)
    for path in SOURCES
    for name, at_once in imports(path)
    if (top := name.partition(".")[0]) not in {"faeval_core", "__future__"}
    and top not in sys.stdlib_module_names
]


def test_a_module_imports_at_once_only_what_its_extra_brings():
    for path, top, at_once in FOREIGN:
        if at_once:
            brought = allowed(extra_of(module_of(path)))
            assert PROVIDERS[top] & brought, f"{path.name} imports {top}, which nothing asks for"


def test_what_a_function_imports_is_brought_by_the_extra_that_its_error_names():
    """`faeval_core.extras` says which extra brings a module; pyproject has to agree."""
    of = {module: extra for extra, modules in EXTRAS.items() for module in modules}
    for path, top, at_once in FOREIGN:
        if not at_once and not PROVIDERS[top] & allowed(extra_of(module_of(path))):
            assert top in of, f"{path.name} imports {top}, which no extra brings"
    for module, extra in of.items():
        assert PROVIDERS[module] & direct(extra)
        assert way_out(f"{module}.part") == f"pip install 'faeval-core[{extra}]'"


def test_a_module_imports_at_once_no_module_of_an_extra_that_it_does_not_have():
    extras = PROJECT["optional-dependencies"]
    has = {None: {None}, **{e: {None, e} for e in extras}}
    for extra, asked in extras.items():
        for r in map(Requirement, asked):
            has[extra] |= set(r.extras) if r.name == PROJECT["name"] else set()
    for path in SOURCES:
        for name, at_once in imports(path):
            top, _, module = name.partition(".")
            if module == "measure":
                continue
            if top == "faeval_core" and at_once:
                assert extra_of(module) in has[extra_of(module_of(path))], (path.name, module)


def test_nothing_is_asked_for_in_vain():
    """What the base, `audit`, `images` and `scale` bring is imported somewhere in the package."""
    used = set().union(*(PROVIDERS[top] for _, top, _ in FOREIGN))
    used |= {"cryptography"}  # which makes the certificates of distributed
    for extra in (None, "audit", "images", "scale"):
        assert direct(extra) <= used


def closure(names) -> dict[str, Distribution]:
    """The distributions of these names and all that they need here, by canonical name."""
    found, left = {}, [(name, "") for name in names]
    seen = set()
    while left:
        name, extra = left.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found[name] = distribution(name)
        for r in map(Requirement, found[name].requires or ()):
            if r.marker is None or r.marker.evaluate({"extra": extra}):
                left += [(canonicalize_name(r.name), e) for e in ("", *r.extras)]
    return found


def test_the_version_is_one():
    version = faeval_core.__version__
    told = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", told, re.MULTILINE).group(1) == version
    newest = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", newest, re.MULTILINE).group(1) == version


def test_what_is_committed_is_formatted_by_the_pinned_ruff():
    pinned = re.search(
        r"^ruff==(.*)$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.M
    )
    told = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.search(r"ruff-pre-commit\n *rev: v(.*)$", told, re.M).group(1) == pinned.group(1)


def test_the_lock_is_whole():
    """Every distribution that an extra asks for, and all that these need, stands there in one
    version; torch's own packages of CUDA it names itself.
    """
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    pinned = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==\S+$", lock, re.M)}
    extras = PROJECT["optional-dependencies"]
    assert set().union(direct(None), *map(direct, extras)) <= pinned
    needed = closure(name for name in pinned if name in INSTALLED)
    own = re.compile(r"(nvidia|cuda)-.*|triton|pip")
    assert {name for name in needed if not own.fullmatch(name)} <= pinned


# -- a wheel, elsewhere ---------------------------------------------------------------------------


def run(*command, cwd) -> str:
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """bin/ of an environment that has the package from a wheel, the distributions that
    faeval-core[audit] asks for, and nothing else.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    source = folder / "source"
    shutil.copytree(PACKAGE, source / "faeval_core", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    offline = ("--no-deps", "--no-index")
    run(*pip, "wheel", *offline, "--no-build-isolation", "-w", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    shutil.rmtree(source)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    for dist in closure(allowed("audit")).values():
        for top in {file.parts[0] for file in dist.files} - {"..", "__pycache__"}:
            place = site / top
            if not place.exists():
                place.symlink_to(dist.locate_file(top))
    run(*pip, "--python", folder / "env/bin/python", "install", *offline, wheel, cwd=folder)
    return folder / "env" / "bin"


RULE = '''
from faeval_core import LocalMethod, register

@register
class Copied(LocalMethod):
    """The exact gradient at the top, copied to every level."""
    name = "copied"

    def credit(self, p, s, hs, logits, y):
        return [self.exact_credit(p, hs, y, level=len(hs) - 1)] * len(hs)
'''
ASKED = """
import json, faeval_core, rule
from faeval_core import RunConfig, tables
from importlib.metadata import version
told = {"file": faeval_core.__file__, "version": version("faeval-core")}
told["ids"] = [RunConfig(name, "digits", width=8, depth=2, epochs=1).id for name in NAMES]
told["reference"] = len(tables.with_ours([]))
print(json.dumps(told))
"""


def test_a_wheel_audits_a_rule_elsewhere_with_the_audit_extra_alone(
    installed, tmp_path, monkeypatch
):
    work = tmp_path / "work"
    work.mkdir()
    (work / "rule.py").write_text(RULE, encoding="utf-8")
    assert "usage: faeval" in run(installed / "faeval", "--help", cwd=work)
    asked = ASKED.replace("NAMES", "['dfa', 'cb', 'copied']")
    told = json.loads(run(installed / "python", "-c", asked, cwd=work))
    assert Path(told["file"]).is_relative_to(installed.parent)
    assert told["version"] == faeval_core.__version__
    assert told["reference"] == len(faeval_core.tables.with_ours([])) > 0

    monkeypatch.syspath_prepend(work)
    known = dict(faeval_core.METHODS)
    try:
        import rule  # noqa: F401

        shape = {"width": 8, "depth": 2, "epochs": 1}
        here = [RunConfig(name, "digits", **shape).id for name in ("dfa", "cb", "copied")]
    finally:
        faeval_core.METHODS.clear()
        faeval_core.METHODS.update(known)
        sys.modules.pop("rule", None)
    assert told["ids"] == here, "a run has one id, wherever the package is installed"

    flags = "--seeds 1,2 --width 8 --depth 2 --epochs 1 --html page.html --method-file rule.py"
    verdict = run(installed / "faeval", "audit", "copied", *flags.split(), cwd=work)
    page = html.unescape((work / "page.html").read_text(encoding="utf-8"))
    assert "Audit of copied" in page and "<svg" in page
    sentence = verdict.splitlines()[-1]
    assert "paired by seed" in sentence and sentence in page
    records = list((work / "results" / "records").glob("*.json"))
    assert len(records) == 5 * 2
    for record in records:
        made_by = json.loads(record.read_text(encoding="utf-8"))["provenance"]
        wheel = {"package": told["version"], "commit": None, "clean": None}
        assert wheel.items() <= made_by.items()
