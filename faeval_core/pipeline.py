"""The papermill sequence: check the parameters of every notebook first, run them side by side or in
order, believe only what is checked here.

Papermill only warns of an unknown parameter, and may call a notebook completed whose kernel was
killed. So a notebook counts as complete when it ran without an error and its last code cell has
printed `<stem>: done`.
"""

import ast
import dataclasses
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from unittest.mock import patch

import nbclient
import nbformat
import papermill
from traitlets.config import Config

from . import __version__, backlog, data, environment, latex, readme, tables
from .config import CHOICES, RunConfig, check_known, checked
from .device import resolve_device
from .files import check_writable, publish, publish_json, studies
from .kernels import CAN_FORK, ForkedKernel, Kernel
from .progress import Progress, closing, expected, opening
from .store import Store

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
FORKING_PAYS = 8  # notebooks from which on one import for all of them is quicker
MOST = 8  # notebooks at a time, as each kernel holds most of a gigabyte
# else ipykernel warns of plain-text local sockets
ENCRYPTED = Config({"KernelManager": {"transport_encryption": "auto"}})


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


def code(nb) -> list:
    """The code cells of a notebook or executed copy, without the one that papermill adds."""
    cells = [c for c in nb.cells if c.cell_type == "code" and c.source.strip()]
    return [c for c in cells if "injected-parameters" not in c.metadata.get("tags", ())]


def execute(
    path: Path, passed: dict, copy: Path, write_back=False, progress=True, kernel=Kernel
) -> dict | None:
    """Run one notebook in its own folder, keep the executed copy, and say what failed in which code
    cell (from 1), or None.
    """
    copy.unlink(missing_ok=True)
    # papermill formats its paths
    source, target = (str(p).replace("{", "{{").replace("}", "}}") for p in (path, copy))
    try:
        papermill.execute_notebook(
            source,
            target,
            passed,
            # not `cwd`, for which papermill moves the whole process, with all other notebooks
            resources={"metadata": {"path": str(path.parent)}},
            kernel_name="python3",
            language="python",
            progress_bar=False,
            config=ENCRYPTED,
            shutdown_kernel="immediate",
            record_timing=False,
            stderr_file=sys.stderr if progress else None,
            kernel_manager_class=kernel,
        )
        printed = "".join(
            o.text
            for o in code(nbformat.read(copy, as_version=4))[-1].outputs
            if o.get("name") == "stdout"
        )
        if f"{path.stem}: done" not in printed.splitlines():
            raise RuntimeError(f"the last code cell did not print '{path.stem}: done'")
        if write_back:
            put_back(path, copy)
        return None
    except papermill.exceptions.PapermillExecutionError as e:
        error, traceback = (
            f"{e.ename}: {e.evalue}",
            re.sub(r"\x1b\[[\d;]*m", "", "\n".join(e.traceback)).splitlines(),
        )
    except Exception as e:
        # whatever stops one notebook (a dead kernel, a full disk) must not stop the others
        error, traceback = f"{type(e).__name__}: {e}", []
    finally:
        Kernel.end_own()
    cells = code(nbformat.read(copy, as_version=4)) if copy.exists() else []
    started = [c.source for c in cells if c.metadata.papermill.start_time]
    where = {"cell": len(started), "source": started[-1] if started else ""}
    return where | {"error": " ".join(error.split()), "traceback": traceback[-15:]}


def merged(outputs) -> list:
    """Outputs of a cell with all that it printed in one, where its first print stood, as a terminal
    shows it: of a line that carriage returns overwrite, the last state."""
    found, printed = [], {}
    for output in outputs:
        first = (
            printed.setdefault(output["name"], output)
            if output["output_type"] == "stream"
            else output
        )
        if first is output:
            found.append(output)
        else:
            first["text"] += output["text"]
    # not by nbclient, whose time goes with the square of a line's length
    for output in printed.values():
        lines = output["text"].split("\n")
        output["text"] = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
    return found


def put_back(path: Path, copy: Path) -> None:
    """Put the outputs of an executed copy, less stderr and widgets, into its notebook; all else
    there stays as it is.
    """
    put_outputs(path, nbformat.read(copy, as_version=4))


def put_outputs(path: Path, ran, besides="") -> None:
    """Put the outputs of a notebook that ran into the one at `path`, but for the cell `besides`."""
    nb = nbformat.read(path, as_version=4)
    if [c.source for c in code(nb)] != [c.source for c in code(ran)]:
        raise ValueError(f"{path.name} was edited while it ran; its outputs are not written back")
    widget = "application/vnd.jupyter.widget-view+json"
    for count, (cell, done) in enumerate(zip(code(nb), code(ran)), 1):
        shown = [
            o for o in done.outputs if o.get("name") != "stderr" and widget not in o.get("data", ())
        ]
        if cell.source != besides:
            cell.outputs = merged(shown)
        for part in (cell, *cell.outputs):
            if "execution_count" in part:
                part.execution_count = count
    publish(path, nbformat.writes(nb) + "\n")


def write_summary(root: Path, manifest: dict) -> None:
    """Bring the outputs of reproduce_all.ipynb up to the results, as if it had run the notebooks of
    `manifest` itself.
    """
    path = root / "reproduce_all.ipynb"
    ran = nbformat.read(path, as_version=4)
    (call,) = [c for c in code(ran) if "pipeline.reproduce(" in c.source]
    asked = call.source
    call.source = asked[: asked.index("manifest = ")] + f"manifest = {manifest!r}"
    nbclient.NotebookClient(
        ran,
        config=ENCRYPTED,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(root)}},
    ).execute()
    call.source = asked
    put_outputs(path, ran, besides=asked)


def workers(profile: str, trains: bool, count: int) -> int:
    """How many notebooks run at a time: training at the study's sizes takes all cores by itself."""
    if profile != "smoke" and trains:
        return 1
    return max(1, min(os.cpu_count() or 1, MOST, count))


def execute_all(
    plan, out: Path, seconds, side_by_side: int, write_back, progress, kernel=Kernel
) -> list[dict]:
    """Run the notebooks of a plan, `side_by_side` at a time; their rows of the manifest, in the
    order of the plan. An interrupt ends all kernels.
    """
    names = [path.stem for path, *_ in plan]
    shown = progress and side_by_side == 1  # what several write to stderr would be a jumble
    line = Progress(names, seconds, plain=shown)

    def row(path, passed, values):
        line.begin(path.stem)
        began = time.monotonic()
        error = execute(path, passed, out / path.name, write_back, shown, kernel)
        status, took = "failed" if error else "complete", round(time.monotonic() - began, 1)
        told = {"name": path.stem, "status": status, "seconds": took, "error": error}
        return told | {"parameters": values}

    # the longest first, so that none of them is left alone at the end
    order = sorted(range(len(plan)), key=lambda i: -(seconds or {}).get(names[i], 0))
    rows, Kernel.stopped = {}, False
    executor = ThreadPoolExecutor(side_by_side)
    try:
        places = {executor.submit(row, *plan[i]): i for i in order}
        for future in as_completed(places):
            made = rows[places[future]] = future.result()
            error = made["error"]
            told = f"FAILED in cell {error['cell']}: {error['error']}" if error else "complete"
            line.end(made["name"], "\n    ".join([told, *(error["traceback"] if error else ())]))
    finally:
        if len(rows) < len(plan):
            Kernel.end_all()
        executor.shutdown(cancel_futures=True)
        line.close()
    return [rows[i] for i in range(len(plan))]


def _train_backlog(root, plan) -> None:
    """Train what these notebooks have listed before and the store lacks, the most telling first."""
    store = Store((root / "notebooks" / plan[0][2]["results"]).resolve())
    listed = [path.stem for path, *_ in plan if path.stem in studies(store.root)]
    if listed and environment.training():
        backlog.train(store, listed, device=plan[0][2].get("device", "auto"))


def reproduce(
    profile="smoke",
    notebooks=None,
    parameters=None,
    out=None,
    write_back=False,
    root=None,
    progress=True,
) -> dict:
    """Run notebooks through papermill and return the manifest, which is also written last to
    out/manifest.json.

    They run side by side, one per core, where their nets are tiny or nothing is trained; their only
    tie is the store, which lets one of them train what several ask for.

    parameters: values for the notebooks' own parameters; unknown names and wrong types raise
    ValueError before anything starts.
    out: folder of the executed copies, default work/executed/<profile>. write_back: put the outputs
    of complete notebooks into notebooks/*.ipynb (paper profile with its own parameters only).
    progress: show what the notebooks write to stderr.
    """
    root = Path(root or Path(__file__).parents[1]).resolve()
    plan = prepare(root, profile, notebooks, parameters or {})
    if write_back and (profile != "paper" or set(parameters or ()) - {"train", "device"}):
        raise ValueError(
            "outputs are written back from the paper profile with the notebooks' own "
            "parameters only"
        )
    out = Path(out or root / "work" / "executed" / profile).absolute()
    for place in (
        out / "manifest.json",
        (root / "notebooks" / plan[0][2]["results"] / "reproduction.csv").resolve(),
    ):
        check_writable(place)
    (out / "manifest.json").unlink(missing_ok=True)
    if profile == "paper" and plan[0][2]["train"]:
        _train_backlog(root, plan)
    trains = plan[0][2]["train"]  # by the profile or by what was asked for: of all of them
    side_by_side = workers(profile, trains, len(plan))
    seconds = expected([path.stem for path, *_ in plan], profile, trains)
    print(opening(profile, seconds, len(plan), side_by_side), flush=True)
    # whatever the notebook forgets
    environment = {} if trains else {"FAEVAL_TRAIN": "0"}
    # the package that runs the notebooks is the one that they import
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # nets so small that two threads would only wait
    environment |= {"OMP_NUM_THREADS": "1"} if profile == "smoke" else {}
    with patch.dict(os.environ, environment):
        forks = CAN_FORK and profile == "smoke" and len(plan) >= FORKING_PAYS
        kernel = ForkedKernel if forks else Kernel
        rows = execute_all(plan, out, seconds, side_by_side, write_back, progress, kernel)
    places = {name: (root / "notebooks" / plan[0][2][name]).resolve() for name in FOLDERS} | {
        "executed": out
    }
    results = places["results"]
    publish(
        results / "reproduction.csv",
        tables.reproduction(results).to_csv(index=False, float_format="%.6g"),
    )
    failed = [r["name"] for r in rows if r["error"]]
    if failed:
        print("the paper's numbers stay as they were, since they need every notebook")
    elif results == root / "results" and (root / "paper").is_dir():
        latex.write(results, root / "paper")
        readme.write(root)
        if write_back:
            readme.write_badges(root)
    manifest = {
        "profile": profile,
        "status": "failed" if failed else "complete",
        "failed": failed,
        "notebooks": rows,
    }
    manifest |= {
        "package": __version__,
        "python": sys.version.split()[0],
        **{k: str(v) for k, v in places.items()},
    }
    publish_json(out / "manifest.json", manifest)
    whole = len(plan) == len(select(root)) and (root / "reproduce_all.ipynb").exists()
    if write_back and whole and not failed:
        write_summary(root, manifest)
    print(*(f"{name:<9} {os.path.relpath(place)}" for name, place in places.items()), sep="\n")
    print(f"{len(rows) - len(failed)} of {len(rows)} notebooks complete")
    print(closing(profile, places["figures"], out))
    return manifest
