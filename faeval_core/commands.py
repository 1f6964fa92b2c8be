"""The commands of the command line: the flags that each takes, and what it does."""

import argparse
import ast
import dataclasses
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from . import backlog, costs, data, runs
from .config import CHOICES, RunConfig, check_known
from .engines import ENGINES, opened
from .environment import expanded
from .files import check_folder, studies
from .store import Store
from .terminal import show, tell

FIELDS = {f.name: f for f in dataclasses.fields(RunConfig)}
ASSIGNED = {"action": "append", "metavar": "NAME=VALUE"}


# argparse names these functions where a value does not parse
def names(text):
    return [part for part in text.split(",") if part]


def integers(text):
    return [int(part) for part in text.split(",")]


def assignment(text):
    """('name', value) of name=value; the value is a Python literal where it reads as one, else
    text.
    """
    name, value = text.split("=", 1)
    with suppress(ValueError, SyntaxError):
        value = ast.literal_eval(value)
    return name, list(value) if isinstance(value, tuple) else value


def flag(name):
    return f"--{name.replace('_', '-')}"


def numbers(text):
    return [float(part) for part in text.split(",")]


def plain(p, but=(), **defaults):
    """A flag for every field of RunConfig that is a number, a word or a switch, but for some;
    defaults: those that are others here, as told.
    """
    for name, f in FIELDS.items():  # seeds are given by the list; upstream runs are for notebooks
        kind, text = (
            type(f.default),
            f"{', '.join(CHOICES.get(name, ()))} (default {defaults.get(name, f.default)})",
        )
        how = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        if kind in (bool, int, float, str) and name not in ("seed", "upstream_epoch", *but):
            p.add_argument(flag(name), help=text, **how)


def store_flags(p) -> None:
    """Where records are, and what to import before they are read."""
    p.add_argument("--results", default="results", help="folder of the records (default results)")
    p.add_argument(
        "--method-file",
        default=None,
        help="Python file that registers a method; imported first",
    )


def training_flags(p) -> None:
    """Options of a method and a model, and the device."""
    p.add_argument(
        "--option", dest="options", type=assignment, help="of the method; repeatable", **ASSIGNED
    )
    p.add_argument(
        "--model-option",
        dest="model_options",
        type=assignment,
        help="of the model; repeatable",
        **ASSIGNED,
    )
    p.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu or cuda")


def reproduce_flags(p) -> None:
    p.add_argument(
        "--profile",
        default="smoke",
        help="smoke (default): digits, tiny nets, into smoke/. paper: the study's sizes",
    )
    p.add_argument(
        "--notebooks",
        nargs="+",
        default=None,
        help="only these, by name, number or title: 11_audit, 12, audit",
    )
    p.add_argument("--dataset", help="for every notebook that has this parameter")
    p.add_argument("--device", help="auto, cpu or cuda")
    p.add_argument(
        "--train",
        action=argparse.BooleanOptionalAction,
        help="train what the store lacks (default: only smoke)",
    )
    p.add_argument(
        "-p",
        "--parameter",
        default=[],
        type=assignment,
        help="of the notebooks; repeatable",
        **ASSIGNED,
    )
    p.add_argument(
        "--write-back",
        action="store_true",
        default=False,
        help="put the new outputs into notebooks/*.ipynb",
    )
    p.add_argument(
        "--out", default=None, help="folder of the executed copies (default work/executed/PROFILE)"
    )


def run_flags(p) -> None:
    store_flags(p)
    training_flags(p)
    p.add_argument("--method", type=names, help=f"one or more of {','.join(CHOICES['method'])}")
    p.add_argument("--seeds", "--seed", dest="seed", type=integers, help="one or more (default 42)")
    p.add_argument(
        "--diagnose", type=integers, help="epochs with per-level diagnostics beside the last"
    )
    p.add_argument(
        "--study",
        type=names,
        help="instead of all this: what these studies list and the store lacks",
    )
    p.add_argument(
        "--label",
        default="",
        help="with --study: only runs whose label in that notebook holds this text",
    )
    p.add_argument(
        "--engine", default="serial", help="; ".join(f"{k}: {v}" for k, v in ENGINES.items())
    )
    plain(p)


def backlog_flags(p) -> None:
    store_flags(p)
    p.add_argument("--study", type=names, default=None, help="only of these notebooks (stems)")
    p.add_argument("--hours", type=float, default=None, help="only what fits into these")
    p.add_argument("--engine", default=None, help="as of run (default: processes, one per core)")
    p.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu or cuda")


def judge_flags(p) -> None:
    p.add_argument(
        "numbers", help="CSV file, a row per trained net: method, seed, accuracy, growth, g_norm, …"
    )


def audit_flags(p) -> None:
    store_flags(p)
    training_flags(p)
    p.add_argument(
        "method", type=names, help="one or more methods, of faeval or of --method-file: dfa,fa"
    )
    p.add_argument("--models", type=names, help="several models, in place of --model")
    p.add_argument("--seeds", type=integers, help="default 42,123,456")
    p.add_argument(
        "--lr", type=numbers, help="or several, of which each method gets its best: 1e-3,3e-3"
    )
    p.add_argument("--tuning-seeds", type=integers, help="that choose among them (default 7,77)")
    p.add_argument("--within", type=float, help="accuracy that makes no odds (default 0.01)")
    own = {"width": 64, "epochs": 15}
    told = {name: f"{FIELDS[name].default}; {value} on digit-sums" for name, value in own.items()}
    plain(p, but=("lr",), dataset="digit-sums", augment="on where there are pictures", **told)
    p.add_argument("--html", help="write a self-contained page with table and figures")


def table1_flags(p) -> None:
    p.add_argument("--results", default="results", help="folder of the records (default results)")
    p.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu or cuda")
    p.add_argument(
        "--train",
        action="store_true",
        default=False,
        help="train what the store lacks; `status` says for how long",
    )


def data_flags(p) -> None:
    p.add_argument(
        "action",
        choices=["register"],
        metavar="ACTION",
        help="register: decode the images once and keep them",
    )
    p.add_argument("name")
    p.add_argument("path")
    for name in ("mean", "std"):
        text = "one value (greyscale) or three, in [0, 1] (default: of the images)"
        p.add_argument(f"--{name}", nargs="+", type=float, default=None, metavar="VALUE", help=text)
    p.add_argument("--size", type=int, default=None, help="resize all images to SIZE × SIZE")


def reproduce(args) -> int:
    expanded("~")  # which Jupyter asks for as soon as it is imported
    from .pipeline import reproduce

    parameters = dict(args.parameter) | {
        k: v for k, v in vars(args).items() if k in ("dataset", "device", "train")
    }
    manifest = reproduce(args.profile, args.notebooks, parameters, args.out, args.write_back)
    return 1 if manifest["failed"] else 0


def configs_of(args, store) -> list[RunConfig]:
    given = {k: v for k, v in vars(args).items() if k in FIELDS}
    if "study" in args:
        if given:
            raise ValueError(
                f"--study names whole configs; leave out {', '.join(map(flag, given))}"
            )
        known = studies(store.root)
        check_known("study", args.study, known, "; a notebook's first execution lists its runs")
        rows = [row for name in args.study for row in known[name]["runs"]]
        chosen = [row for row in rows if args.label in row["label"]]
        if rows and not chosen:
            some = list(dict.fromkeys(row["label"] for row in rows))[:5]
            told = f"no run of {', '.join(args.study)} has {args.label!r} in its label"
            raise ValueError(f"{told}; the first labels: {'; '.join(some)}")
        return [c for row in chosen if not store.has(c := RunConfig.from_dict(row["config"]))]
    if args.label:
        raise ValueError("--label chooses among the runs of a study; name it with --study")
    if not given.get("method"):
        raise ValueError(
            f"run needs --method (one or more of {', '.join(CHOICES['method'])}) or --study"
        )
    methods, seeds = given.pop("method"), given.pop("seed", [42])
    for name, values in (("method", methods), ("seeds", seeds)):
        if len(set(values)) < len(values):
            raise ValueError(
                f"--{name} names one of {','.join(map(str, values))} twice; each counts once"
            )
    given |= {k: dict(given.get(k, ())) for k in ("options", "model_options")}
    return [RunConfig(method=m, seed=s, **given) for m in methods for s in seeds]


def run(args) -> int:
    store = Store(args.results)
    if "study" in args:
        check_folder(store.root)
    configs = configs_of(args, store)
    for name in {c.dataset for c in configs if runs.training_allowed() and not store.has(c)}:
        data.load(name)
    with opened(args.engine, gpu=runs.resolve_device(args.device).type == "cuda") as (
        executor,
        workers,
    ):
        note_new(store.root)
        records = runs.run(configs, store, device=args.device, executor=executor, workers=workers)
    rows = [("method", "seed", "status", "accuracy", "||h_L||", "seconds")]
    for c, r in zip(configs, records):
        last = (
            (f"{r.accuracy:.4f}", f"{r.curves['h_norm'][-1][-1]:.3g}")
            if r and r.final
            else ("-", "-")
        )
        rows.append(
            (
                c.method,
                c.seed,
                r.status if r else "not run",
                *last,
                r.provenance["seconds"] if r else "-",
            )
        )
    show(rows)
    if "study" in args:
        print(
            "to take them up: python -m faeval_core reproduce --profile paper --notebooks "
            f"{' '.join(args.study)}"
        )
    return 1 if None in records else 0


def train_backlog(args) -> int:
    store = Store(args.results)
    check_folder(store.root)
    left = backlog.train(
        store, args.study, engine=args.engine, device=args.device, hours=args.hours
    )
    return 1 if left else 0


def note_new(root: Path) -> None:
    """Say that records are about to go to a folder that does not exist yet, whose name may be a
    mistake.
    """
    if runs.training_allowed() and not root.is_dir():
        tell("note", f"there is no folder {str(root)!r} yet; a new store of records begins there")


def status(args) -> None:
    store = Store(args.results)
    check_folder(store.root)
    known, left = store.survey()
    records = {r.config.id: r for r in known}
    checkpoints = [
        p for p in sorted(store.root.glob("checkpoints/*.safetensors")) if "@" not in p.stem
    ]
    progress = {
        p.stem: kept[1]["epoch"]
        for p in checkpoints
        if (kept := store.load_tensors(p, only_meta=True))
    }

    rate = costs.flops_per_second(records.values())

    def standing(row):  # (status, seconds left)
        seconds = row["flops"] / rate
        # a rule or model of the user's own that is not registered here
        if any(row["config"][kind] not in CHOICES[kind] for kind in ("method", "model")):
            return row["status"], seconds
        c = RunConfig.from_dict(row["config"])
        if record := records.get(c.id) or (store.get(c) if store.has(c) else None):
            return record.status, 0
        return "not run", (seconds or costs.cost_flops(c) / rate) * (
            1 - progress.get(c.id, 0) / c.epochs
        )

    listed = {name: study["runs"] for name, study in studies(store.root).items()}
    kinds = ("complete", "diverged", "not run")
    table = [("study", "runs", *kinds, "time left")]
    for name, rows in (*listed.items(), ("total", sum(listed.values(), []))):
        # a run that two studies list counts once
        found = {row["id"]: standing(row) for row in rows}.values()
        counts = [sum(kind == status for status, _ in found) for kind in kinds]
        table.append(
            (name, len(found), *counts, timedelta(seconds=round(sum(left for _, left in found))))
        )
    show(table)
    for run_id, epoch in progress.items():
        standing = {False: "interrupted", True: "in training", None: "interrupted or in training"}[
            store.is_locked(run_id)
        ]
        print(f"{standing}: {run_id}, checkpoint at epoch {epoch}")
    print(
        ", ".join(
            [
                f"{len(records)} records in {store.root}",
                *(f"{n} {reason}" for reason, n in left.items()),
            ]
        )
    )


def audit(args) -> int:
    from .audit import TASK, Audit, audit

    given = {k: v for k, v in vars(args).items() if k not in ("command", "do", "method_file")}
    given |= {k: dict(given[k]) for k in ("options", "model_options") if k in given}
    data.check_name(given.get("dataset", TASK), args.results)
    methods = given["method"]
    own = {k: v for k, v in given.items() if k in FIELDS and k not in ("method", "lr")}
    for method in methods:
        RunConfig(method, **own)
    note_new(Path(args.results))
    found = audit(**given | {"method": methods if len(methods) > 1 else methods[0]})
    print(found.text)
    audits = [found] if isinstance(found, Audit) else found
    return 0 if all(records for each in audits for records in each.arms.values()) else 1


def judge(args) -> None:
    from .measured import verdict_from

    print(verdict_from(args.numbers).text)


def show_table1(args) -> int:
    from .table1 import table1

    check_folder(args.results)
    table = table1(args.results, args.train, args.device)
    print(table.T.to_string())
    print("a letter: a check that fires (README, Table 1); n: seeds that have a record")
    return 0 if (table["n"] > 0).all() else 1


def register(args) -> None:
    d = data.register_images(args.name, args.path, args.mean, args.std, args.size)
    sizes = (
        f"{len(d.train_y)} training and {len(d.test_y)} test images of {d.image_shape}, "
        f"{len(d.classes)} classes"
    )
    print(
        f"registered {d.name} in {data.data_home()}, fingerprint {d.fingerprint}: {sizes}, "
        f"mean {d.mean}, std {d.std}"
    )


COMMANDS = {  # name: (what adds its flags, what does its work)
    "reproduce": (reproduce_flags, reproduce),
    "run": (run_flags, run),
    "backlog": (backlog_flags, train_backlog),
    "status": (store_flags, status),
    "audit": (audit_flags, audit),
    "judge": (judge_flags, judge),
    "table1": (table1_flags, show_table1),
    "data": (data_flags, register),
}


def fill(p: argparse.ArgumentParser, name: str) -> None:
    """Give the parser of a command its flags, and `do`, the function that takes what they hold."""
    flags, do = COMMANDS[name]
    flags(p)
    p.set_defaults(do=do)
