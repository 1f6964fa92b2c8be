"""The papermill sequence: check the parameters of every notebook first, run them side by side or in
order, believe only what is checked here.

Papermill only warns of an unknown parameter, and may call a notebook completed whose kernel was
killed. So a notebook counts as complete when it ran without an error and its last code cell has
printed `<stem>: done`.
"""

import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbclient
import nbformat
import papermill
from traitlets.config import Config

from .. import __version__
from ..ground import environment
from ..ground.files import check_writable, publish, publish_json, studies
from ..runs import backlog
from ..runs.store import Store
from . import latex, readme, tables
from .kernels import CAN_FORK, ForkedKernel, Kernel
from .outputs import code, put_back, put_outputs
from .parameters import FOLDERS, prepare, select
from .progress import Progress, closing, expected, opening

FORKING_PAYS = 8  # notebooks from which on one import for all of them is quicker
MOST = 8  # notebooks at a time, as each kernel holds most of a gigabyte
# else ipykernel warns of plain-text local sockets
ENCRYPTED = Config({"KernelManager": {"transport_encryption": "auto"}})


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
    root = Path(root or Path(__file__).parents[2]).resolve()
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
    added = {} if trains else {"FAEVAL_TRAIN": "0"}
    # the package that runs the notebooks is the one that they import
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    added["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # nets so small that two threads would only wait
    added |= {"OMP_NUM_THREADS": "1"} if profile == "smoke" else {}
    with environment.changed(added):
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
