"""The papermill sequence: check the parameters of every notebook first, run them in order, believe only what is checked here.

Papermill only warns of an unknown parameter, and may call a notebook completed whose kernel was killed. So a notebook counts
as complete when each of its code cells has run without an error and its last one has printed `<stem>: done`.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import nbformat
import papermill
import zmq
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError
from traitlets import default

from . import __version__, data
from .config import suggest
from .files import publish, publish_json
from .runs import resolve_device

SMOKE = {"dataset": "digits", "width": 32, "depth": 3, "depths": [2, 3], "epochs": 4, "augment": False, "seeds": [42, 123, 456]}
# Values for the parameters of these names and for those that end in _<name>, as in table_epochs; reproduce() adds the paths.
PROFILES = {"paper": {}, "smoke": SMOKE}
FOLDERS = ("results", "figures")
NOT_OURS = {"injected-parameters", "papermill-error-cell-tag"}  # cells that papermill adds to the executed copy
TRACEBACK_LINES = 15


def repository() -> Path:
    """The folder that holds notebooks/: the checkout that this package lies in, else the working directory."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


def select(root: Path, names=None) -> list[Path]:
    """Notebooks of root/notebooks in order; `names` picks by stem (11_audit), number (11) or title (audit)."""
    paths = {p.stem: p for p in sorted((root / "notebooks").glob("[0-9]*.ipynb"))}
    if not paths:
        raise FileNotFoundError(f"no notebooks in {root / 'notebooks'}; run this from a clone of the repository")
    chosen = set()
    for name in names or ():
        wanted = Path(str(name)).stem
        found = [stem for stem in paths if wanted in (stem, *stem.split("_", 1))]
        if len(found) != 1:
            raise ValueError(suggest("notebook", wanted, paths))
        chosen.add(found[0])
    return [p for stem, p in paths.items() if not chosen or stem in chosen]


# -- parameters ---------------------------------------------------------------------------------------------------------


def declared(path: Path) -> dict:
    """Name -> default of a notebook's cell tagged `parameters`, which holds assignments of plain literals and nothing else."""
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (ValueError, nbformat.ValidationError) as e:
        raise ValueError(f"{path} is not a readable notebook ({e})") from e
    tagged = [c for c in cells if c.cell_type == "code" and "parameters" in c.metadata.get("tags", ())]
    if len(tagged) != 1:
        raise ValueError(f"{path.stem} has {len(tagged)} code cells tagged 'parameters'; it needs exactly one")
    found = {}
    try:
        body = ast.parse(tagged[0].source).body
    except SyntaxError as e:
        raise ValueError(f"the parameters cell of {path.stem} is not plain Python ({e})") from e
    for node in body:
        try:
            (target,) = node.targets if isinstance(node, ast.Assign) else [node.target]
            found[target.id] = ast.literal_eval(node.value)
        except (AttributeError, ValueError, TypeError) as e:
            text = ast.unparse(node)
            raise ValueError(f"the parameters cell of {path.stem} has {text!r}, which is not `name = plain literal`") from e
    return found


def check_type(stem: str, name: str, value, default) -> None:
    """Raise ValueError where `value` cannot stand in for the notebook's own `default`."""

    def fits(value, default):
        if default is None:
            return True
        if isinstance(default, float):
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        if isinstance(default, (list, tuple)):
            return isinstance(value, (list, tuple)) and (not default or all(fits(v, default[0]) for v in value))
        return type(value) is type(default)

    if not fits(value, default):
        way_out = f"; write {name}=[{value!r}]" if isinstance(default, list) and fits([value], default) else ""
        kind = type(default).__name__
        raise ValueError(f"parameter {name!r} of notebook {stem} is of type {kind}, like {default!r}, not {value!r}{way_out}")


def prepare(root: Path, profile: str, notebooks, given: dict) -> list[tuple[Path, dict, dict]]:
    """(notebook, parameters to pass, all its parameters) in order; every mistake is found here, before anything starts."""
    if profile not in PROFILES:
        raise ValueError(suggest("profile", profile, PROFILES))
    cells = {p: declared(p) for p in select(root, notebooks)}
    everything = {name for cell in cells.values() for name in cell}
    for name in given:
        if name not in everything:
            raise ValueError(suggest("notebook parameter", name, everything))
    if "dataset" in given:
        index = root / "results" / "datasets.json"
        valid = {*data.known_datasets(), *(json.loads(index.read_text()) if index.exists() else ())}
        if given["dataset"] not in valid:
            way_out = "; to add your own: python -m faeval_core data register"
            raise ValueError(suggest("dataset", given["dataset"], valid) + way_out)
    if "device" in given:
        resolve_device(given["device"])
    ours = {**PROFILES[profile], "train": profile != "paper"}
    if profile == "smoke":
        ours |= {name: str(root / "smoke" / name) for name in FOLDERS}
    given = {k: str(Path(v).expanduser().absolute()) if k in FOLDERS and isinstance(v, str) else v for k, v in given.items()}
    plan = []
    for path, cell in cells.items():
        passed = {k: ours.get(k, ours.get(k.rpartition("_")[2])) for k in cell} | {k: v for k, v in given.items() if k in cell}
        passed = {k: v for k, v in passed.items() if v is not None}
        for name, value in passed.items():
            check_type(path.stem, name, value, cell[name])
        if profile == "smoke":
            if "results" not in cell:
                raise ValueError(f"notebook {path.stem} has no parameter 'results', so smoke results would land in results/")
            for name in FOLDERS:
                committed = root / name
                if name in passed and committed in (Path(passed[name]), *Path(passed[name]).parents):
                    raise ValueError(f"smoke results must not land in {committed}; choose another folder for {name!r}")
        plan.append((path, passed, cell | passed))
    return plan


# -- execution ----------------------------------------------------------------------------------------------------------


class OwnKernel(AsyncKernelManager):
    """Starts the running interpreter, whatever kernelspecs this machine's users have installed under the name python3."""

    @default("transport_encryption")
    def _encrypt_where_possible(self):  # by default ipykernel warns, in every notebook's stderr, of plain-text local sockets
        return "auto" if zmq.has("curve") else "disabled"

    @property
    def kernel_spec(self):
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


def printed(cell) -> str:
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")


def failure(nb, stem: str) -> dict | None:
    """What is wrong with an executed notebook, with the number of the code cell (from 1), or None where it is complete."""
    cells = [c for c in nb.cells if c.cell_type == "code" and c.source.strip()]
    number = 0
    for cell in cells:
        tags = cell.metadata.get("tags", ())
        number += not NOT_OURS & set(tags)
        for o in cell.outputs:
            if o.output_type == "error" and "raises-exception" not in tags:
                lines = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(o.traceback)).splitlines()
                error = " ".join(f"{o.ename}: {o.evalue}".split())
                return {"cell": number, "source": cell.source, "error": error, "traceback": lines[-TRACEBACK_LINES:]}
        if cell.execution_count is None:
            return {"cell": number, "source": cell.source, "error": "this cell was not executed", "traceback": []}
    if not cells or f"{stem}: done" not in printed(cells[-1]).splitlines():
        return {"cell": number, "source": "", "error": f"the last code cell did not print '{stem}: done'", "traceback": []}
    return None


def execute(path: Path, passed: dict, out: Path, progress=True) -> dict | None:
    """Run one notebook in its own folder, keep the executed copy in `out`, and say what failed, or None."""
    copy = out / path.name
    copy.unlink(missing_ok=True)
    source, target = (str(p).replace("{", "{{").replace("}", "}}") for p in (path, copy))  # papermill formats its paths
    trouble = None
    try:
        papermill.execute_notebook(
            source, target, passed, cwd=str(path.parent), kernel_name="python3", language="python", progress_bar=False,
            kernel_manager_class=OwnKernel, shutdown_kernel="immediate", record_timing=False,
            stderr_file=sys.stderr if progress else None,
        )  # fmt: skip
    except KeyboardInterrupt:
        logging.getLogger("asyncio").disabled = True  # nbclient leaves a task behind, whose complaint says nothing new
        raise
    except PapermillExecutionError:
        pass  # the copy holds the error
    except Exception as e:  # whatever stops one notebook (a dead kernel, a full disk) must not stop the others
        trouble = " ".join(f"{type(e).__name__}: {e}".split())
    if not copy.exists():
        return {"cell": 0, "source": "", "error": trouble or "papermill left no executed copy", "traceback": []}
    nb = nbformat.read(copy, as_version=4)
    found = failure(nb, path.stem)
    if trouble and not (found and found["traceback"]):
        started = [c for c in nb.cells if c.cell_type == "code" and c.metadata.get("papermill", {}).get("start_time")]
        number = sum(not NOT_OURS & set(c.metadata.get("tags", ())) for c in started)
        found = {"cell": number, "source": started[-1].source if started else "", "error": trouble, "traceback": []}
    return found


def cleaned(outputs, count: int) -> list:
    """Outputs as they are committed: no stderr, no widgets, streams in one piece."""
    kept = []
    for o in outputs:
        if o.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in o.get("data", {}):
            continue
        if o.output_type == "stream" and kept and kept[-1].output_type == "stream":
            kept[-1].text += o.text
            continue
        if o.output_type == "execute_result":
            o.execution_count = count
        kept.append(o)
    return kept


def put_back(path: Path, before: bytes, copy: Path) -> bool:
    """Put the outputs of an executed copy into the notebook it was made from; True where its bytes changed.

    Sources, tags and the parameters cell stay as they are. The same outputs give the same bytes. Raises ValueError where the
    notebook was edited (its bytes are no longer `before`) while the copy ran.
    """
    if path.read_bytes() != before:
        raise ValueError(f"{path.name} was edited while it ran; its outputs are not written back")
    nb, ran = nbformat.reads(before.decode(), as_version=4), nbformat.read(copy, as_version=4)
    cells = [c for c in ran.cells if not NOT_OURS & set(c.metadata.get("tags", ()))]
    if [c.source for c in cells] != [c.source for c in nb.cells]:
        raise ValueError(f"{copy} does not hold the cells of {path.name}; its outputs are not written back")
    count = 0
    for ours, theirs in zip(nb.cells, cells):
        for key in ("papermill", "execution"):
            ours.metadata.pop(key, None)
        if ours.cell_type == "code":
            count += bool(ours.source.strip())
            ours.execution_count = count if ours.source.strip() else None
            ours.outputs = cleaned(theirs.outputs, count)
    for key in ("papermill", "widgets"):
        nb.metadata.pop(key, None)
    after = (nbformat.writes(nb) + "\n").encode()
    if after != before:
        publish(path, after)
    return after != before


@contextmanager
def training_forbidden(wanted: bool):
    """FAEVAL_TRAIN=0 for the kernels started within, so that a notebook without a parameter `train` does not train either."""
    kept = os.environ.get("FAEVAL_TRAIN")
    if wanted:
        os.environ["FAEVAL_TRAIN"] = "0"
    try:
        yield
    finally:
        if wanted:
            os.environ.pop("FAEVAL_TRAIN", None)
            os.environ.update({"FAEVAL_TRAIN": kept} if kept is not None else {})


def told_outputs(parameters: dict, stem: str, folder: Path) -> list:
    """What a notebook says it has written, from results/studies/<stem>.json."""
    try:
        return json.loads((folder / parameters["results"] / "studies" / f"{stem}.json").read_text()).get("outputs", [])
    except (KeyError, FileNotFoundError, ValueError):
        return []


def shown(path) -> str:
    """A path as it is told: relative where it lies below the working directory."""
    return str(Path(path).relative_to(Path.cwd())) if Path.cwd() in Path(path).parents else str(path)


def reproduce(profile="smoke", notebooks=None, parameters=None, out=None, write_back=False, root=None, progress=True) -> dict:
    """Run notebooks in order through papermill and return the manifest, which is also written last to out/manifest.json.

    parameters: values for the notebooks' own parameters (dataset, device, train, ...); a name that no chosen notebook declares
    and a value of the wrong type raise ValueError before anything starts. train is False in the paper profile unless given.
    out: folder of the executed copies, default work/executed/<profile>. write_back: put the outputs of complete
    notebooks into notebooks/*.ipynb (paper profile with its own parameters only). progress=False prints neither times nor what
    the notebooks write to stderr, so that the same outcome prints the same text. A failing notebook leaves the others running.
    """
    root = Path(root or repository()).resolve()
    given = {k: v for k, v in (parameters or {}).items() if v is not None}
    plan = prepare(root, profile, notebooks, given)
    if write_back and (profile != "paper" or set(given) - {"train", "device"}):
        raise ValueError("outputs are written back from the paper profile with the notebooks' own parameters only")
    out = Path(out).expanduser().absolute() if out else root / "work" / "executed" / profile
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").unlink(missing_ok=True)
    started, rows = time.monotonic(), []

    def took(seconds):
        return f" in {timedelta(seconds=round(seconds))}" if progress else ""

    for i, (path, passed, values) in enumerate(plan, 1):
        mark = f"[{i}/{len(plan)}] {path.stem}"
        print(f"{mark} ...", flush=True)
        before, began = path.read_bytes(), time.monotonic()
        with training_forbidden(values.get("train", given.get("train", profile != "paper")) is False):
            error = execute(path, passed, out, progress)
        changed = False
        if write_back and not error:
            try:
                changed = put_back(path, before, out / path.name)
            except ValueError as e:
                error = {"cell": 0, "source": "", "error": str(e), "traceback": []}
        seconds = time.monotonic() - began
        row = {"name": path.stem, "status": "failed" if error else "complete", "seconds": round(seconds, 1), "error": error}
        row |= {"parameters": values, "executed": str(out / path.name)}
        row["outputs"] = [] if error else told_outputs(values, path.stem, path.parent)
        rows.append(row)
        if error:
            print(f"{mark} FAILED in cell {error['cell']}{took(seconds)}: {error['error']}")
            print("".join(f"    {line}\n" for line in error["traceback"]), end="", flush=True)
            continue
        print(f"{mark} complete{took(seconds)}" + (", outputs written back" if changed else ""), flush=True)
    places = {k: sorted({str((p.parent / v[k]).resolve()) for p, _, v in plan if k in v}) for k in FOLDERS}
    summaries, trouble = summarise(places["results"], root)
    failed = [r["name"] for r in rows if r["status"] == "failed"] + (["summaries"] if trouble else [])
    manifest = {
        "profile": profile, "status": "failed" if failed else "complete", "failed": failed, "package": __version__,
        "python": sys.version.split()[0], "seconds": round(time.monotonic() - started, 1), **places, "executed": str(out),
        "summaries": summaries, "error": trouble, "notebooks": rows,
    }  # fmt: skip
    publish_json(out / "manifest.json", manifest)
    for name, folders in (*places.items(), ("executed", [out])):
        print(f"{name:<9} {' '.join(map(shown, folders))}")
    print(f"manifest  {shown(out / 'manifest.json')}")
    complete = sum(r["status"] == "complete" for r in rows)
    print(f"{complete} of {len(rows)} notebooks complete{took(manifest['seconds'])}")
    return manifest


def summarise(results: list[str], root: Path):
    """(files written, what went wrong or None) of the summaries that span notebooks; the paper's from root/results alone."""
    written = []
    try:
        from . import latex, tables

        for folder in map(Path, results):
            written.append(str(tables.write_reproduction(folder)))
            if folder == root / "results" and (root / "paper").is_dir():
                latex.write(folder, root / "paper")
    except Exception as e:  # the notebooks' own results stand, whatever is wrong with the summaries
        trouble = " ".join(f"{type(e).__name__}: {e}".split())
        print(f"summaries FAILED: {trouble}", flush=True)
        return written, trouble
    return written, None
