"""The notebooks of a sequence and their parameters, all checked before the first of them runs."""

import ast
import dataclasses
from pathlib import Path

import nbformat

from .. import data
from ..config import CHOICES, RunConfig
from ..ground import environment
from ..ground.checks import check_known, checked
from ..training.device import resolve_device

FOLDERS = ("results", "figures")
SMOKE = {
    "dataset": "digits",
    "width": 32,
    "depth": 3,
    "depths": [2, 3],
    "epochs": 3,
    "augment": False,
    "seeds": [42, 123],
}
SMOKE |= {
    "branches": ["zero_target"],
    "mixes": ["raw"],
    "snapshots": [0.5, 1.0],
    "models": ["studentnet"],
    "levels": ["a_l"],
}
SMOKE |= {
    "rules": ["dfa", "sb"],
    "penalties": [0.0, 0.01],
    "treatments": ["own rule", "random init"],
}
# for the synthetic students
SMOKE |= {"size": "-small", "alphas": [0.0, 1.0], "tgws": [0.0, 1.0], "wrs": [0.0, 0.5]}
SMOKE |= {"train": True, "results": "../smoke/results", "figures": "../smoke/figures"}
# values for the parameters of these names and for those that end in _<name>, as in table_epochs
PROFILES = {"paper": {"train": False}, "smoke": SMOKE}


def select(root: Path, names=None) -> list[Path]:
    """Notebooks of root/notebooks in order; `names` picks by stem (11_audit), number (11) or title
    (audit).
    """
    known = {
        name: p
        for p in sorted((root / "notebooks").glob("[0-9]*.ipynb"))
        for name in (p.stem, *p.stem.split("_", 1))
    }
    if not known:
        raise FileNotFoundError(
            f"no notebooks in {root / 'notebooks'}; run this from a clone of the repository"
        )
    wanted = [Path(name).stem for name in names or known]
    check_known("notebook", wanted, known)
    return sorted({known[name] for name in wanted})


def declared(path: Path) -> dict:
    """Name -> default of a notebook's cell tagged `parameters`, which holds assignments of plain
    literals and nothing else.
    """
    found = {}
    try:
        (cell,) = [
            c
            for c in nbformat.read(path, as_version=4).cells
            if "parameters" in c.metadata.get("tags", ())
        ]
        for node in ast.parse(cell.source).body:
            (target,) = node.targets
            found[target.id] = ast.literal_eval(node.value)
    except (AttributeError, SyntaxError, TypeError, ValueError) as e:
        raise ValueError(
            f"{path} needs exactly one cell tagged 'parameters', of lines `name = plain "
            f"literal` ({e})"
        ) from e
    return found


def fits(value, default) -> bool:
    """Whether a value is of the type of a notebook's default: anything for None, an int too for a
    float, lists item by item.
    """
    if isinstance(default, list):
        return isinstance(value, list) and all(fits(v, d) for d in default[:1] for v in value)
    return (
        default is None
        or type(value) is type(default)
        or (type(value), type(default)) == (int, float)
    )


FIELDS = {f.name: f.default for f in dataclasses.fields(RunConfig)}
# of parameters that are fields by another name
NAMES = {"dim": "width", "rules": "method", "penalties": "penalty"}


def check_value(name: str, value) -> None:
    """Raise ValueError for a value that no run can take: of a list, none or one twice; of a field
    of RunConfig, as `epochs` and `fit_epochs` or, one by one, `depths` are, what the field does not
    take.
    """
    if isinstance(value, list):
        if not value or len(set(map(repr, value))) < len(value):
            raise ValueError(f"{name} must be one or more values, each of them once, not {value}")
    last = name.rpartition("_")[2]
    for word in (name, last, NAMES.get(last), last.removesuffix("s")):
        if word in FIELDS:
            for each in value if isinstance(value, list) else [value]:
                check_field(word, each, name)
            return


def check_field(field: str, value, name: str) -> None:
    """Raise ValueError, under the name of a parameter, for a value that this field of RunConfig
    does not take.
    """
    default = FIELDS[field]
    if field in CHOICES:
        check_known(name, [value], CHOICES[field])
    elif type(default) in (bool, int, float):
        checked(name, value, default, least=1 if type(default) is int and field != "seed" else 0)


def prepare(root: Path, profile: str, notebooks, given: dict) -> list[tuple[Path, dict, dict]]:
    """(notebook, parameters to pass, all its parameters) in order; every mistake is found here,
    before anything starts.
    """
    check_known("profile", [profile], PROFILES)
    cells = {p: declared(p) for p in select(root, notebooks)}
    check_known("notebook parameter", given, {name for cell in cells.values() for name in cell})
    if "dataset" in given:
        data.check_name(given["dataset"], root / "results")
    resolve_device(given.get("device", "auto"))
    environment.training()
    environment.check_threads()
    given = given | {
        name: str(Path(str(given[name])).resolve()) for name in FOLDERS if name in given
    }
    plan = []
    for path, cell in cells.items():
        if missing := {*FOLDERS, "train"} - cell.keys():
            raise ValueError(
                f"notebook {path.stem} lacks parameters that every notebook needs: "
                f"{', '.join(sorted(missing))}"
            )
        passed = {
            k: v
            for k in cell
            if (v := given.get(k, PROFILES[profile].get(k.rpartition("_")[2]))) is not None
        }
        for name, value in passed.items():
            if not fits(value, cell[name]):
                raise ValueError(
                    f"parameter {name!r} of notebook {path.stem} must be like {cell[name]!r}, "
                    f"not {value!r}"
                )
            if name in given:
                check_value(name, value)
        for name in FOLDERS:
            if profile == "smoke" and (path.parent / passed[name]).resolve().is_relative_to(
                root / name
            ):
                raise ValueError(
                    f"smoke results must not land in {root / name}; choose another folder for "
                    f"{name!r}"
                )
        plan.append((path, passed, cell | passed))
    return plan
