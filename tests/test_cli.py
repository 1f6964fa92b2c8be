"""The command line, in process: what it prints, what it writes, how it ends."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import blob_images, write_tar
from filelock import FileLock
from hypothesis import example, given, settings
from hypothesis import strategies as st

from faeval_core import METHODS, LocalMethod, RunConfig, Store, audit, data, runs
from faeval_core.__main__ import main
from faeval_core.cli.commands import FIELDS
from faeval_core.ground.files import publish_json
from faeval_core.ground.terminal import ASCII, prepare_streams
from faeval_core.report import page
from faeval_core.report.audit import Audit
from faeval_core.runs import RunRecord, costs
from faeval_core.runs.costs import cost_flops

TINY = "--dataset digits --width 8 --depth 2 --epochs 1 --no-augment".split()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every command runs in an empty folder, so that the default `results` is not the repository's;
    no method stays known.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(known)


def study_file(store, notebook, configs):
    rows = [
        {
            "id": c.id,
            "label": c.method,
            "status": "not run",
            "flops": cost_flops(c),
            "config": c.to_dict(),
        }
        for c in configs
    ]
    publish_json(
        store.root / "studies" / f"{notebook}.json",
        {"notebook": notebook, "runs": rows, "outputs": []},
    )


@pytest.mark.parametrize(
    "line, told",
    [
        ("", "required: COMMAND"),
        ("reproduse", "argument COMMAND: invalid choice: 'reproduse' (choose from "),
        ("reproduce --profile smok", "unknown profile 'smok'; did you mean 'smoke'"),
        ("reproduce --profil smoke", "unrecognized arguments: --profil"),
        ("reproduce -p epochs", "argument -p/--parameter: invalid assignment value: 'epochs'"),
        ("run --method dfb", "unknown method 'dfb'; did you mean 'dfa'"),
        ("run", "run needs --method (one or more of bp, "),
        ("run --method bp --dataset digts", "unknown dataset 'digts'; did you mean 'digits'"),
        ("run --method bp --epoch 3", "unrecognized arguments: --epoch 3"),
        ("run --method bp --epochs three", "argument --epochs: invalid int value: 'three'"),
        ("run --method bp --epochs 0", "epochs must be a whole number of at least 1, not 0"),
        ("run --method bp --seeds 1,x", "argument --seeds/--seed: invalid integers value: '1,x'"),
        ("run --method dfa --option feedback=2", "did you mean 'feedback_scale'"),
        ("run --method bp --dataset digits --device cuda:x", "device"),
        (
            "run --method bp --dataset digits --device mps",
            "unknown device 'mps'; use auto, cpu or cuda",
        ),
        ("run --method bp --dataset digits --device meta", "unknown device 'meta'"),
        ("run --method bp --dataset digits --seeds 1,2,1", "--seeds names one of 1,2,1 twice"),
        ("run --method bp,bp --dataset digits", "--method names one of bp,bp twice"),
        (
            "run --study 11_audit --results resuts",
            "there is no folder 'resuts'; did you mean 'results'",
        ),
        ("status --results resuts", "there is no folder 'resuts'; did you mean 'results'"),
        ("audit dfa --html .", "is a folder"),
        ("audit dfa --html digits.txt/page.html", "in each other's place"),
        ("run --method bp --method-file rule.py", "rule.py'"),
        ("run --study 11_audit", "unknown study '11_audit'"),
        ("run --study 11_audit --epochs 3", "leave out --epochs"),
        ("run --method dfa --label own", "name it with --study"),
        ("audit dfb", "unknown method 'dfb'; did you mean 'dfa'"),
        ("audit dfa --dataset digts", "unknown dataset 'digts'; did you mean 'digits'"),
        ("data regster", "argument ACTION: invalid choice: 'regster' (choose from "),
        ("data register digits .", "'digits' belongs to a built-in dataset"),
        ("data register mine nowhere", "nowhere is neither a folder nor a tar archive"),
        ("data register mine . --mean 0.5 0.5", "mean and std go together"),
        (
            "data register mine . --mean 0.5 0.5 --std 0.5 0.5",
            "one value (greyscale) or three (colour), not 2 and 2",
        ),
        (
            "data register mine . --mean 125 125 125 --std 60 60 60",
            "mean must lie in 0..1, not be 125; divide",
        ),
        ("data register mine . --size 0", "size must be 1 to 1024 pixels, not 0"),
        ("data register ../mine .", "the name of a dataset is up to 64 letters"),
    ],
)
def test_a_mistake_ends_in_one_line_that_names_the_way_out(line, told, tmp_path, capsys):
    (tmp_path / "results").mkdir()
    (tmp_path / "digits.txt").write_text("")
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("faeval: error: ") and err.count("\n") == 1
    assert told in err


@pytest.mark.parametrize(
    "name, text", [("FAEVAL_TRAIN", "maybe"), ("FAEVAL_DEVICE", "mps"), ("OMP_NUM_THREADS", "abc")]
)
def test_a_mistake_in_the_environment_is_named_too(monkeypatch, capsys, name, text):
    monkeypatch.setenv(name, text)
    assert main(["run", "--method", "bp", *TINY]) == 2
    assert name in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("width", [10**13, 10**19])
def test_a_net_too_large_for_any_memory_ends_in_one_line(capsys, width):
    assert main(["run", "--method", "bp", *TINY, "--width", str(width)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "faeval: error: no memory for a run like bp-" in last and f"width {width}" in last


def test_a_new_store_is_said_once(capsys):
    for told in (1, 0):
        assert main(["run", "--method", "bp", *TINY, "--results", "mine"]) == 0
        assert capsys.readouterr().err.count("'mine' yet; a new store") == told


def test_nobody_reads_on(monkeypatch):
    """As in `status | head`."""
    Store("results").root.mkdir()
    reading, writing = os.pipe()
    os.close(reading)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", open(writing, "w", encoding="utf-8"))
        assert main(["status"]) == 141
        sys.stdout.close()  # what is left goes nowhere, without an error


def test_closed_streams_are_no_fault(monkeypatch):
    for name in ("stdout", "stderr"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, name, None)
            assert main(["run", "--method", "bp", *TINY]) == 0
            assert main(["run", "--method", "bq"]) == 2


@settings(deadline=None)
@given(st.text())
@example("0.5 ± 0.1, 8×8, ‖g_L‖, Γ of δ_L — ρ")
def test_a_terminal_of_ascii_shows_everything(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline=""))
        prepare_streams()
        print(text)
        sys.stdout.flush()
        shown = sys.stdout.buffer.getvalue().decode("ascii")
    assert shown == "".join(c if c.isascii() else ASCII.get(c, "?") for c in text) + "\n"


def test_no_traceback_from_the_shell():
    done = subprocess.run(
        [sys.executable, "-m", "faeval_core", "audit", "dfb"], capture_output=True, encoding="utf-8"
    )
    assert (
        done.returncode == 2
        and done.stderr.count("\n") == 1
        and "did you mean 'dfa'" in done.stderr
    )


@pytest.mark.parametrize(
    "command", ["", "reproduce", "run", "status", "audit", "table1", "data", "data register"]
)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0 and "usage: python -m faeval_core" in capsys.readouterr().out


def test_run_trains_stores_and_shows(capsys):
    line = ["run", "--method", "dfa,bp", "--seeds", "3,4", *TINY, "--results", "mine"]
    assert main(line) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["method", "seed", "status", "accuracy", "||h_L||", "seconds"]
    assert [r.split()[:3] for r in rows] == [
        [m, s, "complete"] for m in ("dfa", "bp") for s in "34"
    ]
    cfg = RunConfig("dfa", "digits", width=8, depth=2, epochs=1, augment=False, seed=4)
    record = Store("mine").get(cfg)
    assert (
        rows[1].split()[3] == f"{record.accuracy:.4f}"
        and rows[1].split()[4] == f"{record.curves['h_norm'][-1][-1]:.3g}"
    )
    before = Store("mine").record_path(cfg).stat().st_mtime_ns
    assert main(line) == 0 and Store("mine").record_path(cfg).stat().st_mtime_ns == before


def test_run_takes_every_kind_of_field(monkeypatch):
    seen = []
    monkeypatch.setattr(
        runs, "run", lambda configs, *a, **k: seen.extend(configs) or [None] * len(configs)
    )
    flags = (
        "--seed 7 --lr 1e-2 --no-residual --credit-norm sample_rms --option "
        "feedback_scale=2 --diagnose 0,1 --batch-size 64"
    )
    assert main(["run", "--method", "dfa", *TINY, *flags.split()]) == 1  # nothing was trained
    told = dict(
        seed=7,
        lr=0.01,
        residual=False,
        credit_norm="sample_rms",
        options={"feedback_scale": 2},
        batch_size=64,
    )
    assert seen == [
        RunConfig(
            "dfa", "digits", width=8, depth=2, epochs=1, augment=False, diagnose=(0, 1), **told
        )
    ]


def test_run_of_a_study_trains_what_it_lacks_and_status_tells(capsys):
    store = Store("results")
    base = RunConfig("bp", "digits", width=8, depth=2, epochs=1, augment=False)
    a, b, c = base, base.with_(seed=1), base.with_(seed=2)
    runs.run([a], store, progress=False)
    study_file(store, "11_audit", [a, b])
    study_file(store, "12_mode1", [b, c])
    far = base.with_(seed=5, epochs=50)
    runs.run([far.with_(epochs=1)], store, progress=False)
    store.save_tensors(store.checkpoint_path(far), {}, {"epoch": 25})
    store.checkpoint_path(c).write_bytes(b"torn")

    training = base.with_(seed=6)
    store.save_tensors(store.checkpoint_path(training), {}, {"epoch": 3})
    with store.lock(training.id):
        assert main(["status"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert lines[1][:5] == ["11_audit", "2", "1", "0", "1"] and lines[2][:5] == [
        "12_mode1",
        "2",
        "0",
        "0",
        "2",
    ]
    assert lines[3][:5] == ["total", "3", "1", "0", "2"]  # b counts once
    assert ["interrupted:", f"{far.id},", "checkpoint", "at", "epoch", "25"] in lines
    assert ["in", "training:", f"{training.id},", "checkpoint", "at", "epoch", "3"] in lines
    assert f"{c.id}.safetensors is damaged" in err

    assert main(["run", "--study", "11_audit"]) == 0
    out = capsys.readouterr().out
    assert store.get(b) is not None and store.get(c) is None
    assert (
        out.splitlines()[1].split()[:3] == ["bp", "1", "complete"] and "--notebooks 11_audit" in out
    )
    assert (
        main(["run", "--study", "11_audt"]) == 2
        and "did you mean '11_audit'" in capsys.readouterr().err
    )
    study_file(store, "13_mode2", [c, base.with_(method="dfa", seed=3)])
    assert main(["run", "--study", "13_mode2", "--label", "df"]) == 0  # part of the label "dfa"
    assert store.get(base.with_(method="dfa", seed=3)) is not None and store.get(c) is None
    assert main(["run", "--study", "13_mode2", "--label", "sb"]) == 2
    assert (
        "no run of 13_mode2 has 'sb' in its label; the first labels: bp; dfa"
        in capsys.readouterr().err
    )


def test_status_counts_the_time_that_is_left(capsys, monkeypatch):
    """Half of a run is behind its checkpoint: what is left is half its cost, for which one finished
    run is the scale.
    """
    monkeypatch.setattr(costs, "_rate_of_products", lambda: 0.0)
    store = Store("results")
    base = RunConfig("bp", "digits", width=8, depth=2, epochs=1, augment=False)
    (record,) = runs.run([base], store, progress=False)
    record.provenance["seconds"] = 60.0
    store.put(record)
    far = base.with_(epochs=100)
    study_file(store, "11_audit", [base, far])
    assert main(["status"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("1:40:00")
    store.save_tensors(store.checkpoint_path(far), {}, {"epoch": 50})
    assert main(["status"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("0:50:00")


def test_status_of_a_store_that_is_read_only_here(capsys, monkeypatch):
    """With a checkpoint, whose run may or may not be in training: no lock can tell."""
    store, begun = Store("results"), RunConfig("bp", "digits", width=8, depth=2, epochs=100)
    study_file(store, "11_audit", [begun])
    store.save_tensors(store.checkpoint_path(begun), {}, {"epoch": 50})
    store.lock_path(begun.id).touch()

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert main(["status"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["11_audit", "1"]


def test_an_audit_is_shown_on_a_terminal_of_ascii():
    """After all its training: no ±, × or Γ ends it."""
    command = ["audit", "dfa", *TINY, "--seeds", "1,2", "--html", "page.html"]
    ascii_alone = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "faeval_core", *command], capture_output=True, env=ascii_alone
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode("ascii")
    assert "Gamma" in shown and "+-" in shown
    assert "Γ" in Path("page.html").read_text(encoding="utf-8")


def test_a_diverged_run_and_a_forbidden_one_are_shown_as_such(capsys, monkeypatch):
    assert main(["run", "--method", "bp", *TINY, "--lr", "1e30", "--optimizer", "sgd"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["bp", "42", "diverged", "-"]
    monkeypatch.setenv("FAEVAL_TRAIN", "0")
    assert main(["run", "--method", "fa", *TINY]) == 1
    assert capsys.readouterr().out.splitlines()[1].split()[2:4] == ["not", "run"]


RULE = """
from faeval_core import LocalMethod, register

@register
class Half(LocalMethod):
    name = "half"

    def credit(self, p, s, hs, logits, y):
        import torch
        return torch.stack([0.5 * self.exact_credit(p, hs, y, l) for l in range(len(hs))])
"""


def test_audit_of_a_rule_in_a_file(tmp_path, capsys):
    (tmp_path / "my_rule.py").write_text(RULE, encoding="utf-8")
    line = (
        "audit half --method-file my_rule.py --epochs 1 --width 8 --depth 2 --seeds 1,2 "
        "--html page.html --lr 0.01"
    )
    assert main(line.split()) == 0
    assert "half" in capsys.readouterr().out.lower()
    assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")
    records = [
        json.loads(p.read_text(encoding="utf-8"))
        for p in (tmp_path / "results" / "records").glob("half-*.json")
    ]
    assert len(records) == 2 and all(r["config"]["lr"] == 0.01 for r in records)


def test_a_rule_in_a_file_trains_in_worker_processes_and_is_counted(tmp_path, capsys):
    (tmp_path / "worker_rule.py").write_text(RULE, encoding="utf-8")
    line = [
        "run",
        "--method",
        "half",
        "--method-file",
        "worker_rule.py",
        "--engine",
        "processes:1",
        "--seeds",
        "1,2",
        *TINY,
    ]
    assert main(line) == 0 and main(["status", "--method-file", "worker_rule.py"]) == 0
    assert capsys.readouterr().out.endswith("2 records in results\n")
    del METHODS["half"]
    assert main(["status"]) == 0
    assert capsys.readouterr().out.endswith(
        "0 records in results, 2 of methods that are not known here\n"
    )


@pytest.mark.parametrize(
    "name, text, told",
    [
        ("json.py", RULE, "rename the file"),
        ("my.rule.py", RULE, "rename the file"),
        ("plain.py", "x = 1", "write @register"),
        ("slash.py", RULE.replace('"half"', '"a/b"'), "letters, digits"),
    ],
)
def test_a_file_that_registers_no_method_says_why(tmp_path, capsys, name, text, told):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert main(["audit", "half", "--method-file", name]) == 2 and told in capsys.readouterr().err


def test_a_mistake_in_a_rule_comes_with_its_place(tmp_path, capsys):
    (tmp_path / "broken_rule.py").write_text(
        RULE.replace("import torch", "first, second = hs"), encoding="utf-8"
    )
    assert main(["run", "--method", "half", "--method-file", "broken_rule.py", *TINY]) == 2
    err = capsys.readouterr().err
    assert (
        "broken_rule.py" in err
        and "first, second = hs" in err
        and err.splitlines()[-1].startswith("faeval: error: too many")
    )


def test_an_edited_rule_trains(tmp_path, capsys):
    """An edit of the rule, or of what it uses, is another run; one of comments is not."""
    line = ["run", "--method", "half", "--method-file", "edited_rule.py", *TINY]
    edited = RULE.replace("0.5 *", "0.25 *")
    as_list = edited.replace("torch.stack", "list")
    for text, count in (
        (RULE, 1),
        (RULE + "# more", 1),
        (edited, 2),
        (as_list, 3),
        (RULE + "# and more", 3),
    ):
        (tmp_path / "edited_rule.py").write_text(text, encoding="utf-8")
        assert main(line) == 0 and "warning" not in capsys.readouterr().err
        assert len(list((tmp_path / "results" / "records").glob("half-*.json"))) == count


def test_a_run_that_is_named_twice_is_refused(capsys):
    assert main(["run", "--method", "bp", "--seeds", "1,1", *TINY]) == 2
    assert "--seeds names one of 1,1 twice; each counts once" in capsys.readouterr().err


def test_audit_tells_which_seeds_diverged_and_refuses_repeated_ones():
    class Unlucky(LocalMethod):
        name = "unlucky"

        def init_state(self, cfg, generator):
            return {"scale": torch.tensor(float("inf") if cfg.seed == 2 else 1.0)}

        def credit(self, p, s, hs, logits, y):
            return [self.exact_credit(p, hs, y, l) * s["scale"] for l in range(len(hs))]

    found = audit(Unlucky, seeds=(1, 2), dataset="digits", epochs=1, width=8, depth=2)
    assert found.table.loc["unlucky", "n"] == 1 and "diverged: 1 of 2 seeds" in found.lines[0]
    assert any(line.startswith("Seed 2 diverged at step ") for line in found.lines)
    for seeds in ((1, 1), ()):
        with pytest.raises(ValueError, match="each of them once"):
            audit(Unlucky, seeds=seeds)


def test_audit_of_an_unknown_dataset_is_an_error():
    with pytest.raises(ValueError, match="unknown dataset 'digts'; did you mean 'digits'"):
        audit("dfa", dataset="digts", seeds=(1,))


def test_audit_asks_for_the_sign_of_credit_that_points_uphill():
    class Uphill(LocalMethod):
        name = "uphill"

        def credit(self, p, s, hs, logits, y):
            return [-self.exact_credit(p, hs, y, l) for l in range(len(hs))]

    with pytest.warns(UserWarning, match="check the sign"):
        found = audit(Uphill, seeds=(1, 2), dataset="digits", epochs=1, width=8, depth=2)
    told = (
        "Γ is -1.00, the mean over all levels, in 2 of 2 seeds: check the sign of its "
        "credit, which is that of the gradient."
    )
    assert told in found.lines
    small = {"dataset": "digits", "epochs": 1, "width": 8, "depth": 2}
    assert not any("check the sign" in line for line in audit("dfa", seeds=(1,), **small).lines)


def test_audit_leaves_what_concerns_credit_to_those_that_have_some():
    credit = {
        "credit_norm": "sample_rms_g",
        "credit_level": "input",
        "embedding": "shared",
        "rule": "cosine",
        "exploit": True,
    }
    found = audit("fa", seeds=(1,), dataset="digits", epochs=1, width=8, depth=2, lr=0.01, **credit)
    assert any(
        "less that of δ_L copied to every level of the same nets" in line for line in found.lines
    )
    for name, (record,) in found.arms.items():
        wanted = (
            credit
            if name in ("fa", "dfa", "frozen_dfa")
            else {k: f.default for k, f in FIELDS.items() if k in credit}
        )
        assert {k: getattr(record.config, k) for k in credit} == wanted and record.config.lr == 0.01


def test_data_register(tmp_path, capsys, home):
    files = {k: v for k, v in blob_images().items() if int(k.split("/")[-1][:4]) < 140}
    write_tar(tmp_path / "mine.tar.gz", files)
    try:
        assert (
            main(
                [
                    "data",
                    "register",
                    "mine",
                    "mine.tar.gz",
                    *"--mean 0.5 0.5 0.5 --std 0.2 0.2 0.2".split(),
                ]
            )
            == 0
        )
        train, found = sum("/train/" in k for k in files), data.load("mine")
        told = (
            f"fingerprint {found.fingerprint}: {train} training and {len(files) - train} "
            "test images of (3, 8, 8), 4 classes"
        )
        assert (
            told in capsys.readouterr().out and found.mean == (0.5,) * 3 and found.std == (0.2,) * 3
        )
    finally:
        (home / "mine.safetensors").unlink(missing_ok=True)


def test_ctrl_c_says_that_nothing_is_lost(capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run", interrupt)
    assert main(["run", "--method", "bp", *TINY]) == 130
    assert "continues from its last checkpoint" in capsys.readouterr().err


def test_a_warning_is_one_line(tmp_path, capsys):
    folder = tmp_path / "results" / "records"
    folder.mkdir(parents=True)
    (folder / "bp-1.json").write_text(json.dumps({"half": "a record"}), encoding="utf-8")
    assert main(["status"]) == 0
    assert capsys.readouterr().out.endswith(
        "0 records in results, 1 unreadable, such as bp-1.json\n"
    )
    [cfg] = [RunConfig("bp", "digits", width=8, depth=2, epochs=1, augment=False)]
    (folder / f"{cfg.id}.json").write_text("{")
    assert main(["run", "--method", "bp", *TINY]) == 0
    err = capsys.readouterr().err
    assert err.startswith("faeval: warning: record ") and err.count("\n") == 1


def test_reproduce_ends_with_one_where_a_notebook_failed(monkeypatch):
    from faeval_core.report import pipeline

    asked = []

    def fake(*args):
        asked.append(args)
        return {"failed": ["11_audit"]}

    monkeypatch.setattr(pipeline, "reproduce", fake)
    line = "reproduce --profile paper --notebooks 11_audit 12 --dataset digits --train"
    assert (
        main([*line.split(), *"-p epochs=3 -p seeds=1,2 -p label=a/b -p augment=False".split()])
        == 1
    )
    parameters = {
        "epochs": 3,
        "seeds": [1, 2],
        "label": "a/b",
        "augment": False,
        "dataset": "digits",
        "train": True,
    }
    assert asked == [("paper", ["11_audit", "12"], parameters, None, False)]


def test_the_command_line_asks_for_the_audit_that_the_page_shows(tmp_path, monkeypatch):
    """Several methods, models and learning rates; one of each is as it was."""
    asked = []

    def kept(method, **given):
        asked.append((method, given))
        return audit("dfa", seeds=(1,), train=False, results=tmp_path)

    monkeypatch.setattr("faeval_core.report.audit.audit", kept)
    where = ["--results", str(tmp_path)]
    several = ["dfa,fa", "--models", "resmlp,convnet", "--lr", "1e-3,3e-3", "--tuning-seeds", "5,6"]
    for line in (several, ["dfa", "--width", "8", "--lr", "0.01"]):
        assert main(["audit", *line, *where]) == 1  # nothing is trained
    (first, given), (second, plain) = asked
    assert first == ["dfa", "fa"] and second == "dfa"
    assert given["models"] == ["resmlp", "convnet"] and given["lr"] == [1e-3, 3e-3]
    assert given["tuning_seeds"] == [5, 6] and plain["width"] == 8 and plain["lr"] == [0.01]


def test_a_page_names_a_command_that_asks_for_its_own_runs(monkeypatch):
    """Whatever was set: parsed again, it gives the config that the audit has."""
    base = RunConfig(
        "dfa",
        "digits",
        width=16,
        epochs=2,
        lr=0.02,
        augment=False,
        credit_norm="sample_rms",
        residual=False,
        options={"feedback_scale": 0.5},
    )
    records = [RunRecord(base.with_(seed=s), "complete", {}, {}, None, {}) for s in (3, 4)]
    found, asked = Audit(base, {"dfa": records}), []
    monkeypatch.setattr(
        "faeval_core.report.audit.audit", lambda method, **given: asked.append(given) or found
    )
    monkeypatch.setattr(Audit, "text", "")
    command = page.command(found).split()
    assert command[:4] == ["python", "-m", "faeval_core", "audit"]
    main(command[3:])
    (given,) = asked
    own = {k: v for k, v in given.items() if k in FIELDS and k != "method"}
    assert RunConfig("dfa", **own | {"lr": given["lr"][0]}) == base and given["seeds"] == [3, 4]
