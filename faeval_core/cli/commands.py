"""The work of each command of the command line."""

import argparse
from datetime import timedelta
from pathlib import Path

from .. import data, runs
from ..config import CHOICES, RunConfig
from ..ground.checks import check_known
from ..ground.environment import expanded
from ..ground.files import check_folder, studies
from ..ground.terminal import show, tell
from ..runs import backlog, costs
from ..runs.engines import opened
from ..runs.store import Store
from ..training.device import resolve_device
from ..training.execution import own_process
from . import flags
from .flags import FIELDS, flag


def reproduce(args) -> int:
    expanded("~")  # which Jupyter asks for as soon as it is imported
    from ..report.pipeline import reproduce

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
    with opened(args.engine, gpu=resolve_device(args.device).type == "cuda") as (
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
    from ..report.audit import TASK, Audit, audit

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
    from ..report.measured import verdict_from

    print(verdict_from(args.numbers).text)


def show_table1(args) -> int:
    from ..report.table1 import table1

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
    "reproduce": (flags.reproduce_flags, reproduce),
    "run": (flags.run_flags, run),
    "backlog": (flags.backlog_flags, train_backlog),
    "status": (flags.store_flags, status),
    "audit": (flags.audit_flags, audit),
    "judge": (flags.judge_flags, judge),
    "table1": (flags.table1_flags, show_table1),
    "data": (flags.data_flags, register),
}


def fill(p: argparse.ArgumentParser, name: str) -> None:
    """Give the parser of a command its flags, and `do`, the function that takes what they hold."""
    add_flags, do = COMMANDS[name]
    own_process()
    add_flags(p)
    p.set_defaults(do=do)
