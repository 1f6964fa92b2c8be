"""The command line: python -m faeval_core reproduce | run | backlog | status | audit | judge …"""

import argparse
import ast
import codecs
import dataclasses
import importlib.util
import logging
import os
import sys
import traceback
import warnings
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from . import backlog, costs, data, runs
from .config import CHOICES, RunConfig, check_known
from .engines import ENGINES, opened
from .environment import expanded
from .files import check_folder, studies
from .methods import METHODS
from .models import MODELS
from .store import Store
from .training import DiagnosisFailed

FIELDS = {f.name: f for f in dataclasses.fields(RunConfig)}
# What is printed where the terminal cannot show it, as under LC_ALL=C.
ASCII = {
    "±": "+-",
    "×": "x",
    "‖": "||",
    "—": "-",
    "–": "-",
    "…": "...",
    "Γ": "Gamma",
    "ρ": "rho",
    "δ": "delta",
    "λ": "lambda",
}


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are ValueErrors, so that they end as one line like all others."""

    def error(self, message):
        raise ValueError(f"{message} (--help after a command shows what it takes)")


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


def plain(p, **defaults):
    """A flag for every field of RunConfig that is a number, a word or a switch; defaults: those
    that are others here, as told.
    """
    for name, f in FIELDS.items():  # seeds are given by the list; upstream runs are for notebooks
        kind, text = (
            type(f.default),
            f"{', '.join(CHOICES.get(name, ()))} (default {defaults.get(name, f.default)})",
        )
        how = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        if kind in (bool, int, float, str) and name not in ("seed", "upstream_epoch"):
            p.add_argument(flag(name), help=text, **how)


def parser() -> Parser:
    top = Parser(
        prog="python -m faeval_core",
        description="The command line of faeval_core.",
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    assigned = {"action": "append", "type": assignment, "metavar": "NAME=VALUE"}

    def command(name, text, do):
        p = commands.add_parser(
            name,
            help=text,
            description=text,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        p.set_defaults(do=do)
        if do in (run, train_backlog, status, audit):
            p.add_argument(
                "--results", default="results", help="folder of the records (default results)"
            )
            p.add_argument(
                "--method-file",
                default=None,
                help="Python file that registers a method; imported first",
            )
        if do in (run, audit):
            p.add_argument("--option", dest="options", help="of the method; repeatable", **assigned)
            p.add_argument(
                "--model-option", dest="model_options", help="of the model; repeatable", **assigned
            )
            p.add_argument(
                "--device", default="auto", help="auto (CUDA where there is one), cpu or cuda"
            )
        return p

    p = command(
        "reproduce",
        "execute the notebooks in order through papermill, then rebuild the summaries",
        reproduce,
    )
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
    p.add_argument("-p", "--parameter", default=[], help="of the notebooks; repeatable", **assigned)
    p.add_argument(
        "--write-back",
        action="store_true",
        default=False,
        help="put the new outputs into notebooks/*.ipynb",
    )
    p.add_argument(
        "--out", default=None, help="folder of the executed copies (default work/executed/PROFILE)"
    )

    p = command("run", "train runs that the store lacks and show them", run)
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

    p = command(
        "backlog",
        "train what the notebooks list and the store lacks, by what it tells per hour; the same "
        "command goes on where it was cut off",
        train_backlog,
    )
    p.add_argument("--study", type=names, default=None, help="only of these notebooks (stems)")
    p.add_argument("--hours", type=float, default=None, help="only what fits into these")
    p.add_argument("--engine", default=None, help="as of run (default: processes, one per core)")
    p.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu or cuda")

    command("status", "what the store has, lacks, and would cost, per study", status)

    p = command(
        "audit", "an honest verdict on one method beside BP, DFA and the frozen baseline", audit
    )
    p.add_argument("method", help="name of a method, of faeval or of --method-file")
    p.add_argument("--seeds", type=integers, help="default 42,123,456")
    plain(p, dataset="digits", augment="on for all but digits")
    p.add_argument("--html", help="write a self-contained page with table and figures")

    p = command("judge", "the protocol's verdict on numbers that were measured elsewhere", judge)
    p.add_argument(
        "numbers", help="CSV file, a row per trained net: method, seed, accuracy, growth, g_norm, …"
    )

    p = command(
        "data",
        (
            "register images of your own: train/<class>/* and test/<class>/* of a folder or tar "
            "archive"
        ),
        register,
    )
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
    return top


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
    from .audit import audit

    given = {k: v for k, v in vars(args).items() if k not in ("command", "do", "method_file")}
    given |= {k: dict(given[k]) for k in ("options", "model_options") if k in given}
    data.check_name(given.get("dataset", "digits"), args.results)
    RunConfig(**{k: v for k, v in given.items() if k in FIELDS})
    note_new(Path(args.results))
    found = audit(**given)
    print(found.text)
    return 0 if all(found.arms.values()) else 1


def judge(args) -> None:
    from .measured import verdict_from

    print(verdict_from(args.numbers).text)


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


def show(rows) -> None:
    """Print rows as columns, the first of them being the header."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows)]
    for row in rows:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())


def load_methods(file):
    """Import a file that registers methods, under its own name, so that worker processes find its
    classes there, too.
    """
    path, before = Path(file), (dict(METHODS), dict(MODELS))
    if not path.is_file():
        raise ValueError(f"--method-file {file!r} is no file")
    found = None if "." in path.stem else importlib.util.find_spec(path.stem)
    if "." in path.stem or (found and found.origin != str(path)):
        raise ValueError(
            f"--method-file {file}: {path.stem!r} is no name for a module, or that of another; "
            "rename the file"
        )
    sys.path.insert(0, str(path.parent))
    importlib.reload(
        sys.modules[path.stem]
    ) if path.stem in sys.modules else importlib.import_module(path.stem)
    if (METHODS, MODELS) == before:
        raise ValueError(
            f"--method-file {file} registers no method; write @register above its class "
            "(or register_model, for a model)"
        )


def tell(kind, message) -> int:
    print(f"faeval: {kind}: {' '.join(str(message).split())}", file=sys.stderr)
    return 2


def prepare_streams() -> None:
    """Let everything be printed: into nothing where a stream is closed, in ASCII where it holds no
    more.
    """

    def replacement(error):
        rest = error.object[error.start : error.end]
        return "".join(ASCII.get(letter, "?") for letter in rest), error.end

    codecs.register_error("faeval", replacement)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="faeval")


def main(argv=None) -> int:
    """Exit code: 0, 1 where something failed or is not run, 2 for a mistake in what was asked, 130
    after Ctrl-C, 141 where nobody reads on (`status | head`)."""
    own = None  # the user's own file
    prepare_streams()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: tell("warning", message)
        try:
            args = parser().parse_args(argv)
            own = (
                str(Path(args.method_file).resolve())
                if getattr(args, "method_file", None)
                else None
            )
            if own:
                load_methods(own)
            code = args.do(args) or 0
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            with suppress(OSError):  # into nothing what is left to flush at the end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except KeyboardInterrupt:
            logging.disable()  # nbclient leaves a task behind, whose complaint says nothing new
            tell(
                "interrupted",
                (
                    "the same command goes on; a run of more than a minute continues from its last "
                    "checkpoint"
                ),
            )
            return 130
        except ModuleNotFoundError as e:
            return tell("error", f"{e}; pip install -r requirements.txt")
        except (ValueError, OSError, MemoryError, runs.RunsFailed, DiagnosisFailed) as e:
            errors = (e, e.__cause__) if e.__cause__ else (e,)
            if own in [
                frame.filename
                for error in errors
                for frame in traceback.extract_tb(error.__traceback__)
            ]:
                traceback.print_exc()  # a mistake in a rule of the user's own, who needs its place
            return tell("error", e)


if __name__ == "__main__":
    sys.exit(main())
