"""The papermill sequence on tiny notebooks: mistakes found before launch, faults reported, copies
written back byte for byte.
"""

import json
import os
from pathlib import Path

import nbformat
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from papermill.clientwrap import PapermillNotebookClient

from faeval_core.report import kernels, outputs, parameters, pipeline, progress
from faeval_core.report.outputs import merged
from faeval_core.report.parameters import SMOKE
from faeval_core.report.progress import Progress

PARAMETERS = """dataset = "cifar10-jpeg75"
seeds = [42]
epochs = 100
lr = 0.1
results = "../results"
figures = "../figures"
train = True"""
RECORD = """
import json, os, sys
from pathlib import Path
folder = Path(results) / "studies"
folder.mkdir(parents=True, exist_ok=True)
told = {"notebook": "STEM", "compared": [], "runs": [], "outputs": ["results/study/STEM.json"]}
told["seen"] = [dataset, seeds, epochs, train]
told["seen"] += [os.environ.get("FAEVAL_TRAIN"), sys.executable, os.getcwd()]
(folder / "STEM.json").write_text(json.dumps(told))
"""


def notebook(root, stem, *sources, parameters=PARAMETERS, sentinel=True):
    """root/notebooks/<stem>.ipynb with a parameters cell, a markdown cell, the given code and, at
    its end, the sentinel.
    """
    cells = [
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        new_markdown_cell("# A chapter"),
    ]
    cells += [new_code_cell(s.replace("STEM", stem)) for s in sources]
    if sentinel:
        cells.append(new_code_cell(f'print("{stem}: done")'))
    for i, cell in enumerate(cells):
        cell.id = f"cell-{i}"
    nb = new_notebook(
        cells=cells,
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
    )
    path = root / "notebooks" / f"{stem}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """(root, manifest) of a smoke run of six notebooks of which four go wrong, with the text it
    printed left to capture.
    """
    root = tmp_path_factory.mktemp("faulty {repository}")
    notebook(root, "01_good", RECORD)
    notebook(root, "02_raises", "a = 1", "def inner():\n    return 1 / (a - 1)", "inner()", RECORD)
    notebook(root, "03_killed", RECORD, "import os\nos.kill(os.getpid(), 9)")
    notebook(
        root,
        "04_killed_last",
        'import os\nprint("STEM: done", flush=True)\nos.kill(os.getpid(), 9)',
        sentinel=False,
    )
    notebook(root, "05_silent", RECORD, 'print("05_silent: done, almost")', sentinel=False)
    notebook(root, "06_good", RECORD)
    before = {p: p.read_bytes() for p in (root / "notebooks").iterdir()}
    manifest = pipeline.reproduce("smoke", root=root, progress=False)
    assert {p: p.read_bytes() for p in (root / "notebooks").iterdir()} == before, (
        "execution must not touch the notebooks"
    )
    return root, manifest


def row(manifest, stem):
    return next(r for r in manifest["notebooks"] if r["name"] == stem)


def test_failures_are_reported_and_the_rest_runs(faulty):
    _, manifest = faulty
    assert manifest["status"] == "failed"
    assert manifest["failed"] == ["02_raises", "03_killed", "04_killed_last", "05_silent"]
    assert [r["name"] for r in manifest["notebooks"] if r["status"] == "complete"] == [
        "01_good",
        "06_good",
    ]


def test_an_error_names_its_cell_and_shows_its_traceback(faulty):
    error = row(faulty[1], "02_raises")["error"]
    assert error["cell"] == 4 and error["source"] == "inner()"
    assert error["error"] == "ZeroDivisionError: division by zero"
    assert (
        any("return 1 / (a - 1)" in line for line in error["traceback"])
        and len(error["traceback"]) <= 15
    )
    assert "\x1b" not in "".join(error["traceback"])


@pytest.mark.parametrize("stem, cell", [("03_killed", 3), ("04_killed_last", 2)])
def test_a_killed_kernel_is_a_failure(faulty, stem, cell):
    """Also where all that was asked for had been printed before."""
    error = row(faulty[1], stem)["error"]
    assert (
        "os.kill" in error["source"] and error["cell"] == cell and "died" in error["error"].lower()
    )


def test_without_the_sentinel_a_notebook_is_not_complete(faulty):
    assert "did not print '05_silent: done'" in row(faulty[1], "05_silent")["error"]["error"]


def test_manifest_says_what_was_done(faulty):
    root, manifest = faulty
    out = root / "work" / "executed" / "smoke"
    assert json.loads((out / "manifest.json").read_text(encoding="utf-8")) == manifest
    good = row(manifest, "01_good")
    assert good["error"] is None and good["seconds"] > 0
    assert good["parameters"]["epochs"] == SMOKE["epochs"] and good["parameters"]["lr"] == 0.1
    assert {p.name for p in out.glob("*.ipynb")} == {
        f"{r['name']}.ipynb" for r in manifest["notebooks"]
    }


def test_smoke_runs_on_digits_in_this_interpreter_and_leaves_the_committed_results_alone(faulty):
    import sys

    root, manifest = faulty
    seen = json.loads(
        (root / "smoke" / "results" / "studies" / "06_good.json").read_text(encoding="utf-8")
    )["seen"]
    assert seen == [
        "digits",
        [42, 123],
        SMOKE["epochs"],
        True,
        None,
        sys.executable,
        str(root / "notebooks"),
    ]
    assert not (root / "results").exists() and not (root / "figures").exists()
    assert manifest["results"] == str(root / "smoke" / "results")
    assert (root / "smoke" / "results" / "reproduction.csv").exists()


@pytest.fixture
def launched(monkeypatch):
    """Names of the notebooks that papermill was asked to run; none of them does."""
    names = []
    monkeypatch.setattr(
        pipeline.papermill, "execute_notebook", lambda source, *a, **k: names.append(source)
    )
    return names


@pytest.mark.parametrize(
    "profile, notebooks, parameters, message",
    [
        ("smok", None, {}, "unknown profile 'smok'; did you mean 'smoke'"),
        ("smoke", ["11_audt"], {}, "unknown notebook '11_audt'; did you mean '11_audit'"),
        ("smoke", None, {"epoch": 3}, "unknown notebook parameter 'epoch'; did you mean 'epochs'"),
        ("smoke", ["12"], {"gamma": 1}, "unknown notebook parameter 'gamma'"),  # of 11_audit alone
        ("smoke", None, {"epochs": 3.0}, "'epochs' of notebook 11_audit must be like 100, not 3.0"),
        ("smoke", None, {"epochs": True}, "'epochs' of notebook 11_audit must be like 100"),
        ("smoke", None, {"seeds": 42}, r"must be like \[42\], not 42"),
        ("smoke", None, {"seeds": ["42"]}, "must be like"),
        (
            "smoke",
            None,
            {"seeds": []},
            r"seeds must be one or more values, each of them once, not \[\]",
        ),
        ("smoke", None, {"seeds": [1, 2, 1]}, r"each of them once, not \[1, 2, 1\]"),
        ("smoke", None, {"seeds": [-1]}, "seeds must be a whole number of at least 0, not -1"),
        ("smoke", None, {"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
        (
            "smoke",
            None,
            {"fit_epochs": -3},
            "fit_epochs must be a whole number of at least 1, not -3",
        ),
        ("smoke", None, {"depths": [2, 0]}, "depths must be a whole number of at least 1, not 0"),
        ("smoke", None, {"rules": ["dfa", "dfb"]}, "unknown rules 'dfb'; did you mean 'dfa'"),
        ("smoke", None, {"net_dim": 0}, "net_dim must be"),
        ("smoke", None, {"lr": -1.0}, "lr must be a finite number of at least 0"),
        ("smoke", None, {"train": "yes"}, "must be like True"),
        ("smoke", None, {"dataset": "digts"}, "unknown dataset 'digts'; did you mean 'digits'"),
        ("paper", None, {"device": "gpu"}, "unknown device 'gpu'"),
    ],
)
def test_mistakes_are_found_before_launch(
    tmp_path, launched, profile, notebooks, parameters, message
):
    more = (
        '\ngamma = None\ndevice = "auto"\nfit_epochs = 3\ndepths = [2]\nrules = ["bp"]\nnet_dim = 8'
    )
    notebook(tmp_path, "11_audit", parameters=PARAMETERS + more)
    notebook(tmp_path, "12_mode1")
    with pytest.raises(ValueError, match=message):
        pipeline.reproduce(profile, notebooks, parameters, root=tmp_path)
    assert not launched and not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    "source",
    ["import os", "width = int(3)", "width: int", "width = depth = 3", "width = = 3", "%pylab"],
)
def test_parameters_cells_hold_plain_literals(tmp_path, launched, source):
    notebook(tmp_path, "11_audit", parameters=f"{PARAMETERS}\n{source}")
    with pytest.raises(ValueError, match="11_audit.ipynb needs .* of lines `name = plain literal`"):
        pipeline.reproduce("smoke", root=tmp_path)
    assert not launched


def test_one_parameters_cell_is_needed(tmp_path):
    path = notebook(tmp_path, "11_audit")
    nb = nbformat.read(path, as_version=4)
    nb.cells[0].metadata.tags = []
    nbformat.write(nb, path)
    with pytest.raises(
        ValueError, match="11_audit.ipynb needs exactly one cell tagged 'parameters'"
    ):
        pipeline.reproduce("smoke", root=tmp_path)


def test_a_value_goes_only_to_the_notebooks_that_declare_it(tmp_path):
    notebook(
        tmp_path,
        "11_audit",
        parameters=PARAMETERS + "\ntable_epochs = 30\nsweep_depths = [2, 12]\ngamma = None",
    )
    folders = {"results": "../smoke/results", "figures": "../smoke/figures"}
    notebook(
        tmp_path,
        "12_mode1",
        parameters='results = "../results"\nfigures = "../figures"\ntrain = True',
    )
    (_, audit, values), (_, mode1, _) = parameters.prepare(
        tmp_path, "smoke", None, {"gamma": 2, "lr": 1, "epochs": 7}
    )
    assert audit["gamma"] == 2 and audit["lr"] == 1 and audit["epochs"] == 7
    # by the profile's `epochs` and `depths`
    by_suffix = audit["table_epochs"], audit["sweep_depths"]
    assert by_suffix == (SMOKE["epochs"], [2, 3])
    assert values["seeds"] == [42, 123] and mode1 == {**folders, "train": True}


def test_paper_does_not_train_unless_asked(tmp_path):
    notebook(tmp_path, "11_audit")
    assert parameters.prepare(tmp_path, "paper", None, {})[0][1] == {"train": False}
    assert parameters.prepare(tmp_path, "paper", None, {"train": True})[0][1] == {"train": True}


@pytest.mark.parametrize("name", ["11_audit", "11_audit.ipynb", "11", "audit"])
def test_notebooks_are_picked_by_stem_number_or_title(tmp_path, name):
    for stem in ("12_mode1", "11_audit", "00_tour"):
        notebook(tmp_path, stem)
    assert [p.stem for p in parameters.select(tmp_path, [name])] == ["11_audit"]
    assert [p.stem for p in parameters.select(tmp_path, ["mode1", "00"])] == ["00_tour", "12_mode1"]


@pytest.mark.parametrize("folder", ["results", "results/sub", "figures"])
def test_smoke_refuses_the_committed_folders(tmp_path, launched, folder):
    notebook(tmp_path, "11_audit")
    with pytest.raises(ValueError, match="smoke results must not land in"):
        pipeline.reproduce(
            "smoke", parameters={folder.split("/")[0]: str(tmp_path / folder)}, root=tmp_path
        )
    notebook(tmp_path, "12_mode1", parameters="epochs = 3")
    with pytest.raises(
        ValueError,
        match="12_mode1 lacks parameters that every notebook needs: figures, results, train",
    ):
        pipeline.reproduce("smoke", root=tmp_path)
    assert not launched


def test_written_back_outputs_are_stable_bytes(tmp_path):
    noisy = (
        "import sys\nfrom IPython.display import HTML, display\n"
        "for i in range(3):\n    print(i, flush=True)\n    print('progress', i, "
        "file=sys.stderr, flush=True)\n"
        "display({'application/vnd.jupyter.widget-view+json': {'model_id': 'a1'}, "
        "'text/plain': 'bar'}, raw=True)\n"
        "display(HTML('<b>table</b>'))\nepochs + 1"
    )
    path = notebook(tmp_path, "11_audit", RECORD, noisy)
    other = notebook(tmp_path, "12_mode1", "1 / 0")
    source = nbformat.read(path, as_version=4)
    untouched = other.read_bytes()

    first = pipeline.reproduce("paper", write_back=True, root=tmp_path, progress=False)
    after = path.read_bytes()
    assert first["failed"] == ["12_mode1"] and other.read_bytes() == untouched
    seen = json.loads(
        (tmp_path / "results" / "studies" / "11_audit.json").read_text(encoding="utf-8")
    )["seen"]
    assert seen[:5] == ["cifar10-jpeg75", [42], 100, False, "0"]  # training is forbidden twice over

    nb = nbformat.reads(after.decode(), as_version=4)
    assert [c.source for c in nb.cells] == [c.source for c in source.cells]
    assert [c.metadata for c in nb.cells] == [
        c.metadata for c in source.cells
    ] and nb.metadata == source.metadata
    assert [c.get("execution_count") for c in nb.cells] == [1, None, 2, 3, 4]
    stream, html, result = nb.cells[3].outputs
    assert stream.name == "stdout" and stream.text == "0\n1\n2\n"
    assert (
        html.data["text/html"] == "<b>table</b>"
        and result.data["text/plain"] == "101"
        and result.execution_count == 3
    )
    assert nb.cells[4].outputs[0].text == "11_audit: done\n"

    pipeline.reproduce("paper", ["11"], write_back=True, root=tmp_path, progress=False)
    assert path.read_bytes() == after


def test_the_summary_is_written_back_with_the_notebooks_that_it_runs(tmp_path):
    """Once all of them ran; what its own call printed stays."""
    notebook(tmp_path, "11_audit")
    notebook(tmp_path, "12_mode1")
    call = 'profile = "paper"\nmanifest = pipeline.reproduce(profile)'
    cells = [new_code_cell(call), new_code_cell("[r['name'] for r in manifest['notebooks']]")]
    cells[0].outputs = [nbformat.v4.new_output("stream", name="stdout", text="as it was")]
    path = tmp_path / "reproduce_all.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    untouched = path.read_bytes()
    pipeline.reproduce("paper", ["11"], write_back=True, root=tmp_path, progress=False)
    assert path.read_bytes() == untouched
    pipeline.reproduce("paper", write_back=True, root=tmp_path, progress=False)
    first, second = nbformat.read(path, as_version=4).cells
    assert first.source == call and first.outputs[0].text == "as it was"
    assert second.outputs[0].data["text/plain"] == "['11_audit', '12_mode1']"


def test_write_back_is_for_the_committed_parameters_and_the_cells_that_ran(tmp_path, launched):
    path = notebook(tmp_path, "11_audit")
    for profile, asked in (("smoke", {}), ("paper", {"epochs": 3})):
        with pytest.raises(ValueError, match="written back"):
            pipeline.reproduce(profile, parameters=asked, write_back=True, root=tmp_path)
    copy = notebook(tmp_path / "copy", "11_audit", "other = 1")
    with pytest.raises(ValueError, match="was edited while it ran"):
        outputs.put_back(path, copy)
    assert not launched


def test_an_interrupted_sequence_leaves_no_manifest(tmp_path, monkeypatch):
    notebook(tmp_path, "11_audit")
    out = tmp_path / "work" / "executed" / "smoke"
    out.mkdir(parents=True)
    (out / "manifest.json").write_text("of an earlier run", encoding="utf-8")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.papermill, "execute_notebook", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pipeline.reproduce("smoke", root=tmp_path)
    assert not (out / "manifest.json").exists()


def test_a_copy_of_an_earlier_run_is_not_believed(tmp_path, launched):
    """Papermill here returns without running anything, while a complete copy from before lies in
    the folder.
    """
    notebook(tmp_path, "11_audit")
    copy = notebook(tmp_path / "work" / "executed", "11_audit")
    copy.rename(tmp_path / "work" / "11_audit.ipynb")
    manifest = pipeline.reproduce("smoke", out=tmp_path / "work", root=tmp_path)
    assert launched and manifest["failed"] == ["11_audit"]


@pytest.mark.parametrize("place", ["out", "results"])
def test_a_place_that_cannot_be_written_is_found_before_launch(tmp_path, launched, place):
    notebook(tmp_path, "11_audit")
    (tmp_path / "taken").write_text("")
    asked = (
        {"out": tmp_path / "taken"}
        if place == "out"
        else {"parameters": {"results": str(tmp_path / "taken")}}
    )
    with pytest.raises(OSError, match="taken"):
        pipeline.reproduce("smoke", root=tmp_path, **asked)
    assert not launched


def test_an_interrupt_leaves_no_kernel(tmp_path, monkeypatch):
    """It comes when the kernel's process has been started, and nobody yet holds it."""
    notebook(tmp_path, "11_audit")
    processes = []

    def interrupt(client):
        processes.append(client.km.provisioner.process)
        raise KeyboardInterrupt

    monkeypatch.setattr(PapermillNotebookClient, "start_new_kernel_client", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pipeline.reproduce("smoke", root=tmp_path)
    assert len(processes) == 1 and processes[0].poll() is not None


def test_an_interrupt_ends_what_runs_beside(tmp_path, monkeypatch):
    """One notebook is in a cell that would never end, the other's start is interrupted."""
    os.mkfifo(tmp_path / "begun")
    told = "open('../begun', 'w', encoding='utf-8').close()"  # returns once the other reads
    notebook(tmp_path, "11_audit", f"{told}\nimport threading\nthreading.Event().wait()")
    notebook(tmp_path, "12_mode1")
    monkeypatch.setattr(pipeline, "workers", lambda *_: 2)
    plainly, kernels = pipeline.papermill.execute_notebook, []

    def interrupted(source, *args, **kwargs):
        if "12_mode1" not in source:
            return plainly(source, *args, **kwargs)
        (tmp_path / "begun").read_text(encoding="utf-8")
        kernels.extend(pipeline.Kernel.begun)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.papermill, "execute_notebook", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.reproduce("smoke", root=tmp_path)
    processes = [kernel.provisioner.process for kernel in kernels if kernel.provisioner]
    assert processes and all(p is None or p.poll() is not None for p in processes)
    assert not (tmp_path / "work" / "executed" / "smoke" / "manifest.json").exists()


def test_no_kernel_starts_after_an_interrupt(tmp_path, monkeypatch):
    notebook(tmp_path, "11_audit")
    monkeypatch.setattr(pipeline.Kernel, "begun", [])
    plan = parameters.prepare(tmp_path, "smoke", None, {})
    pipeline.Kernel.end_all()
    path, passed, _ = plan[0]
    error = pipeline.execute(path, passed, tmp_path / "copy.ipynb", progress=False)
    assert "interrupted" in error["error"] and pipeline.Kernel.begun == []


def test_smoke_notebooks_run_side_by_side_and_keep_their_order(tmp_path, monkeypatch):
    """Each waits for the other, so that they end only if both run; the longer one begins. None
    moves this process to its folder, in which the others would then start, or no longer.
    """
    moves, chdir = [], os.chdir
    monkeypatch.setattr(os, "chdir", lambda to: (moves.append(os.path.realpath(to)), chdir(to)))
    os.mkfifo(tmp_path / "meeting")
    for stem, way in (("11_audit", "r"), ("14_fa_against_dfa", "w")):
        notebook(tmp_path, stem, f"open('../meeting', '{way}', encoding='utf-8').close()")
    monkeypatch.setattr(pipeline.os, "cpu_count", lambda: 2)
    manifest = pipeline.reproduce("smoke", root=tmp_path)
    assert [(r["name"], r["status"]) for r in manifest["notebooks"]] == [
        ("11_audit", "complete"),
        ("14_fa_against_dfa", "complete"),
    ]
    assert set(moves) <= {os.getcwd()}


@pytest.mark.skipif(not kernels.CAN_FORK, reason="kernels are forked on Linux alone")
def test_forked_kernels_share_imports_and_nothing_else(tmp_path, monkeypatch):
    """Each is a process in a session of its own, with the folder and the environment that a kernel
    has otherwise; what one does the next does not see; one that is killed fails alone.
    """
    told = """
import json, os, sys
own = {"sid": os.getsid(0) == os.getpid(), "cwd": os.getcwd(), "imported": "torch" in sys.modules}
with open(get_ipython().kernel.parent.abs_connection_file) as f:
    own["encrypted"] = bool(json.load(f).get("curve_secretkey"))
own["parent"] = get_ipython().kernel.parent.parent_handle == os.getppid()
own["before"], sys.stained = getattr(sys, "stained", None), True
own["threads"], own["backend"] = os.environ.get("OMP_NUM_THREADS"), os.environ["MPLBACKEND"]
open("../STEM.json", "w").write(json.dumps(own))
"""
    notebook(tmp_path, "11_audit", told)
    notebook(tmp_path, "12_mode1", told)
    notebook(tmp_path, "13_mode2", "import os\nos.kill(os.getpid(), 9)")
    monkeypatch.setattr(pipeline, "FORKING_PAYS", 1)
    manifest = pipeline.reproduce("smoke", root=tmp_path, progress=False)
    assert manifest["failed"] == ["13_mode2"]
    assert "died" in row(manifest, "13_mode2")["error"]["error"].lower()
    for stem in ("11_audit", "12_mode1"):
        assert json.loads((tmp_path / f"{stem}.json").read_text(encoding="utf-8")) == {
            "sid": True,
            "cwd": str(tmp_path / "notebooks"),
            "imported": True,
            "encrypted": True,
            "parent": True,
            "before": None,
            "threads": "1",
            "backend": "module://matplotlib_inline.backend_inline",
        }


@pytest.mark.parametrize(
    "profile, trains, count, wanted",
    [
        ("smoke", True, 17, 4),
        ("smoke", True, 3, 3),
        ("paper", False, 17, 4),
        ("paper", True, 17, 1),
    ],
)
def test_training_at_the_studys_sizes_has_the_machine_to_itself(
    monkeypatch, profile, trains, count, wanted
):
    monkeypatch.setattr(pipeline.os, "cpu_count", lambda: 4)
    assert pipeline.workers(profile, trains, count) == wanted


def test_it_says_what_will_happen_how_far_it_is_and_what_to_open(tmp_path, launched, capsys):
    for stem in ("11_audit", "12_mode1", "99_own"):
        notebook(tmp_path, stem)
    pipeline.reproduce("smoke", root=tmp_path)
    first, *lines = capsys.readouterr().out.splitlines()
    assert "3 notebooks" in first and "embedded digits" in first and "About " in first
    told = [line for line in lines if line.startswith("[")]
    assert [line.partition("]")[0] for line in told] == ["[1/3", "[2/3", "[3/3"]
    assert all("left" in line for line in told[:2]) and "left" not in told[2]
    opened = lines[lines.index("to open:") :]
    assert "make table1" in "\n".join(opened)
    # only what is there: papermill has run nothing here
    assert not any("11_audit" in line for line in opened)


@given(st.lists(st.integers(1, 100), min_size=2, max_size=6), st.floats(1, 1e4), st.data())
def test_time_left_goes_by_what_has_ended_and_half_of_what_runs(costs, elapsed, data):
    names = [str(i) for i in range(len(costs))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("faeval_core.report.progress.time.monotonic", lambda: 0.0)
        line = Progress(names, dict(zip(names, costs)), plain=True)
        patch.setattr("faeval_core.report.progress.time.monotonic", lambda: elapsed)
        done = data.draw(st.integers(1, len(names) - 1))
        running = data.draw(st.integers(0, len(names) - done))
        for name in names[: done + running]:
            line.begin(name)
        line.ended = names[:done]
        half = sum(costs[done : done + running]) / 2
        share = (sum(costs[:done]) + half) / sum(costs)
        assert line.left() == pytest.approx(elapsed / share - elapsed)


def test_every_committed_notebook_takes_both_profiles_and_has_a_time():
    root = Path(__file__).resolve().parents[1]
    stems = [p.stem for p in sorted((root / "notebooks").glob("[0-9]*.ipynb"))]
    if not stems:
        pytest.skip("a copy without notebooks")
    for profile in parameters.PROFILES:
        assert [p.stem for p, *_ in parameters.prepare(root, profile, None, {})] == stems
    assert list(progress.SECONDS) == stems


def terminal(text):
    """What a terminal shows of a text: the next letter after a carriage return takes the line's
    place.
    """
    lines, again = [""], False
    for letter in text:
        if letter == "\n":
            lines.append("")
        elif letter != "\r":
            lines[-1] = letter if again else lines[-1] + letter
        again = letter == "\r"
    return "\n".join(lines)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr", ""]), st.text("ab\r\n", max_size=6)))
)
@example([("stdout", "ab\r"), ("stderr", "b"), ("stdout", "\nb\ra\r\n")])
def test_prints_of_a_cell_become_one(drawn):
    outputs = [
        new_output("stream", name=n, text=t) if n else new_output("display_data", {"text/plain": t})
        for n, t in drawn
    ]
    found = merged(outputs)
    assert [o.name for o in found if "name" in o] == list(dict.fromkeys(n for n, _ in drawn if n))
    assert [o.data["text/plain"] for o in found if "data" in o] == [t for n, t in drawn if not n]
    for o in found:
        if "name" in o:
            assert o.text == terminal("".join(t for n, t in drawn if n == o.name))
