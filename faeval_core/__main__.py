"""The command line: python -m faeval_core reproduce | run | status | audit | data."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib.util
import json
import os
import re
import sys
import warnings
from datetime import timedelta
from pathlib import Path

from safetensors import SafetensorError, safe_open

from . import data, runs
from .config import CHOICES, RunConfig, suggest
from .store import Store

FIELDS = {f.name: f for f in dataclasses.fields(RunConfig)}
PLURAL = ("method", "seed")  # fields of which `run` takes several values
ELSEWHERE = (*PLURAL, "options", "diagnose", "upstream")  # fields whose flags are not of a plain type
NOTEBOOK_PACKAGES = ("papermill", "nbformat", "jupyter_client", "ipykernel", "pandas", "matplotlib", "seaborn")


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are ValueErrors, so that they end as one line like all others."""

    def error(self, message):
        choice = re.match(r"argument (\w+): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice:
            raise ValueError(suggest(choice[1].lower(), choice[2], re.findall(r"[\w-]+", choice[3])))
        raise ValueError(f"{message} (see {self.prog} --help)")


def names(text):
    return [part for part in text.split(",") if part]


def numbers(kind):
    def parse(text):
        try:
            return [kind(part) for part in names(text)]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a comma-separated list of {kind.__name__} values") from None

    return parse


def assignment(text):
    """('name', value) of name=value; the value is a Python literal where it reads as one, else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=value")
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
    except (ValueError, SyntaxError):
        pass  # plain text
    return name, list(value) if isinstance(value, tuple) else value


def parser() -> Parser:
    top = Parser(prog="python -m faeval_core", description="The command line of faeval_core.", allow_abbrev=False)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, text, to=commands, **more):
        return to.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False, **more)

    p = command("reproduce", "execute the notebooks in order through papermill, then rebuild the summaries")
    p.add_argument("--profile", default="smoke", help="smoke (default): digits, tiny nets, into smoke/. paper: the study's sizes")
    p.add_argument("--notebooks", nargs="+", metavar="NAME", help="only these, by name, number or title: 11_audit, 12, audit")
    p.add_argument("--dataset", help="dataset for every notebook that has this parameter")
    p.add_argument("--device", help="auto, cpu or cuda")
    trains = "train what the store lacks (default: smoke yes, paper no)"
    p.add_argument("--train", action=argparse.BooleanOptionalAction, help=trains)
    more = "any notebook parameter; may be repeated"
    p.add_argument("-p", "--parameter", action="append", default=[], type=assignment, metavar="NAME=VALUE", help=more)
    p.add_argument("--write-back", action="store_true", help="paper profile: put the new outputs into notebooks/*.ipynb")
    p.add_argument("--out", help="folder of the executed copies and manifest.json (default work/executed/PROFILE)")

    p = command("run", "train runs that the store lacks and show them", argument_default=argparse.SUPPRESS)
    p.add_argument("--method", type=names, metavar="NAME,...", help=f"one or more of {', '.join(CHOICES['method'])}")
    p.add_argument("--seeds", "--seed", dest="seed", type=numbers(int), metavar="N,...", help="default 42")
    for name, f in FIELDS.items():
        if name in ELSEWHERE:
            continue
        flag, text = "--" + name.replace("_", "-"), f"default {f.default}"
        if isinstance(f.default, bool):
            p.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        else:
            choices = f" ({', '.join(CHOICES[name])})" if name in CHOICES else ""
            p.add_argument(flag, type=type(f.default), metavar=type(f.default).__name__.upper(), help=text + choices)
    p.add_argument("--option", action="append", dest="options", type=assignment, metavar="NAME=VALUE", help="of the method")
    p.add_argument("--diagnose", type=numbers(int), metavar="EPOCH,...", help="epochs with per-level diagnostics beside the last")
    p.add_argument("--upstream", metavar="RUN_ID", help="start from this run's weights after --upstream-epoch")
    p.add_argument("--study", type=names, metavar="NAME,...", help="instead: what these studies list and the store lacks")
    common(p)

    p = command("status", "what the store has, lacks, and would cost, per study")
    p.add_argument("--results", default="results", help="folder of the records (default results)")

    verdict = "an honest verdict on one method beside BP, DFA and the frozen baseline"
    p = command("audit", verdict, argument_default=argparse.SUPPRESS)
    p.add_argument("method", metavar="METHOD", help="name of a method, of faeval or of --method-file")
    p.add_argument("--seeds", type=numbers(int), metavar="N,...", help="default 42,123,456")
    for name in ("dataset", "epochs", "width", "depth"):
        default = "digits" if name == "dataset" else FIELDS[name].default
        p.add_argument("--" + name, type=type(default), help=f"default {default}")
    p.add_argument("--html", metavar="FILE", help="write a self-contained page with table and figures")
    common(p)

    p = command("data", "list datasets, or register images of your own")
    actions = p.add_subparsers(dest="action", required=True, metavar="ACTION")
    command("list", "names, sizes and fingerprints", actions)
    p = command("register", "decode train/<class>/* and test/<class>/* of a folder or tar archive", actions)
    p.add_argument("name")
    p.add_argument("path")
    p.add_argument("--mean", type=numbers(float), metavar="R,G,B", help="intensities in [0, 1] (default: of the training images)")
    p.add_argument("--std", type=numbers(float), metavar="R,G,B")
    p.add_argument("--size", type=int, metavar="N", help="resize all images to N × N")
    return top


def common(p):
    p.add_argument("--method-file", metavar="FILE", help="Python file that registers a method; imported first")
    p.add_argument("--results", default="results", help="folder of the records (default results)")
    p.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu or cuda")


def parse(argv):
    """The namespace of a command line; an unknown flag raises ValueError with the nearest valid one."""
    chain = [parser()]
    args, unknown = chain[0].parse_known_args(argv)
    for name in (args.command, getattr(args, "action", None)):
        chain += [a.choices[name] for a in chain[-1]._actions if isinstance(a, argparse._SubParsersAction)]
    if unknown:
        flags = [f for f in chain[-1]._option_string_actions if f.startswith("--") and not f.startswith("--no-")]
        raise ValueError(suggest(f"argument of {args.command!r}", unknown[0].split("=")[0], flags))
    return args


# -- commands -----------------------------------------------------------------------------------------------------------


def reproduce(args) -> int:
    from .pipeline import reproduce

    parameters = dict(args.parameter) | {k: v for k in ("dataset", "device", "train") if (v := getattr(args, k)) is not None}
    manifest = reproduce(args.profile, args.notebooks, parameters, args.out, args.write_back)
    return 1 if manifest["failed"] else 0


def studies(store, wanted=None) -> dict[str, list]:
    """Notebook -> its rows {id, label, status, config, ...}, from results/studies/*.json."""
    found = {p.stem: json.loads(p.read_text())["runs"] for p in sorted((store.root / "studies").glob("*.json"))}
    for name in wanted or ():
        if name not in found:
            where = f" in {store.root / 'studies'}; a notebook's first execution lists its runs"
            raise ValueError(suggest("study", name, found) + where)
    return {name: rows for name, rows in found.items() if not wanted or name in wanted}


def configs_of(args, store) -> list[RunConfig]:
    given = {k: v for k, v in vars(args).items() if k in FIELDS}
    if "study" in args:
        if given:
            raise ValueError(f"--study names whole configs; leave out {', '.join('--' + k.replace('_', '-') for k in given)}")
        return [RunConfig.from_dict(row["config"]) for rows in studies(store, args.study).values() for row in rows]
    methods, seeds = given.pop("method", []), given.pop("seed", [FIELDS["seed"].default])
    if not methods or not seeds:
        raise ValueError(f"run needs --method (one or more of {', '.join(CHOICES['method'])}) or --study")
    given["options"] = dict(given.get("options", ()))
    if "upstream" in given:
        path = store.root / "records" / f"{given['upstream']}.json"
        if not path.exists():
            raise ValueError(suggest("upstream run", given["upstream"], [p.stem for p in path.parent.glob("*.json")]))
        given["upstream"] = RunConfig.from_dict(json.loads(path.read_text())["config"])
    return [RunConfig(method=m, seed=s, **given) for m in methods for s in seeds]


def run(args) -> int:
    store, device = Store(args.results), str(runs.resolve_device(args.device))
    import_file(args)
    configs = configs_of(args, store)
    lacking = [c for c in configs if store.get(c) is None]
    if "study" in args:
        configs = lacking  # of a study, only what is trained now is news
    for name in {c.dataset for c in lacking} if runs.training_allowed() else ():
        data.load(name)
    records = runs.run(configs, store, device=device)
    rows = [("method", "seed", "status", "accuracy", "||h_L||", "seconds")]
    for c, r in zip(configs, records):
        if r is None:
            rows.append((c.method, c.seed, "not run", "-", "-", "-"))
            continue
        h = r.curves["h_norm"][-1][-1] if r.curves["h_norm"] else None
        accuracy = "-" if r.accuracy is None else f"{r.accuracy:.4f}"
        rows.append((c.method, c.seed, r.status, accuracy, "-" if h is None else f"{h:.3g}", f"{r.provenance['seconds']:.1f}"))
    show(rows)
    if "study" in args:
        take_up = f"python -m faeval_core reproduce --profile paper --notebooks {' '.join(args.study)}"
        print(f"{len(lacking)} runs had no record; to take them up: {take_up}")
    return 1 if None in records else 0


def status(args) -> int:
    store = Store(args.results)
    records = {r.config.id: r for r in store.all()}
    progress, every = in_progress(store), {}
    rows = [("study", "runs", "complete", "diverged", "not run", "time left")]
    for name, listed in studies(store).items():
        found = {}
        for row in listed:
            try:
                c = RunConfig.from_dict(row["config"])
            except ValueError:  # a method of the user's own that is not registered here
                found[row["id"]] = (row["status"], row["cost_seconds"])
                continue
            if c.id in records:
                found[c.id] = (records[c.id].status, 0.0)
            else:
                done = progress.get(c.id) or 0
                found[c.id] = ("not run", runs.cost_seconds(c, records.values()) * (1 - done / c.epochs))
        every |= found
        rows.append((name, *tally(found)))
    show([*rows, ("total", *tally(every))])
    for run_id, epoch in progress.items():
        print(f"in progress: {run_id}, " + (f"checkpoint at epoch {epoch}" if epoch else "damaged checkpoint, starts anew"))
    print(f"{len(records)} records in {store.root}")
    return 0


def tally(found) -> tuple:
    """(runs, complete, diverged, not run, time left) of id -> (status, seconds)."""
    kinds = [kind for kind, _ in found.values()]
    left = timedelta(seconds=round(sum(seconds for _, seconds in found.values())))
    return len(kinds), *(kinds.count(k) for k in ("complete", "diverged", "not run")), left


def in_progress(store) -> dict:
    """Run id -> epoch of its checkpoint, None where it is damaged."""
    found = {}
    for path in sorted((store.root / "checkpoints").glob("*.safetensors")):
        if "@" in path.stem:  # a snapshot of finished weights
            continue
        try:
            with safe_open(path, "pt") as f:
                found[path.stem] = json.loads(f.metadata()["faeval"])["epoch"]
        except FileNotFoundError:  # finished in this moment
            continue
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            found[path.stem] = None
    return found


def audit(args) -> int:
    import_file(args)
    from .audit import audit

    given = {k: v for k, v in vars(args).items() if k not in ("command", "method", "method_file")}
    index = Path(args.results) / "datasets.json"
    noted = json.loads(index.read_text()) if index.exists() else ()
    if given.get("dataset", "digits") not in (*data.known_datasets(), *noted):
        data.load(given["dataset"])  # says which names there are
    found = audit(args.method, **given)
    print(found.text)
    return 0 if all(found.arms.values()) else 1


def datasets(args) -> int:
    if args.action == "register":
        for flag, values in (("--mean", args.mean), ("--std", args.std)):
            if values is not None and len(values) != 3:
                raise ValueError(f"{flag} needs three values, one per channel, not {values}")
        if (args.mean is None) != (args.std is None) or (args.std and min(args.std) <= 0):
            raise ValueError("give --mean and --std together, and std above 0")
        found = data.register_images(args.name, args.path, args.mean, args.std, args.size)
        print(f"registered {found.name} in {data.data_home()}, fingerprint {found.fingerprint}")
        sizes = f"{len(found.train_y)} training and {len(found.test_y)} test images of {found.image_shape}"
        print(f"{sizes}, {len(found.classes)} classes, mean {found.mean}, std {found.std}")
        return 0
    rows = [("dataset", "train", "test", "classes", "fingerprint", "where")]
    for name in data.known_datasets():
        if name in data.TORCHVISION:
            rows.append((name, "-", "-", "-", "-", "torchvision, downloaded at first use"))
            continue
        d = data.load(name)
        where = "scikit-learn" if name == "digits" else str(data.data_home())
        rows.append((name, len(d.train_y), len(d.test_y), len(d.classes), d.fingerprint, where))
    show(rows)
    return 0


def import_file(args) -> None:
    """Import --method-file, so that the methods it registers are known by name."""
    path = getattr(args, "method_file", None)
    if path is None:
        return
    if not Path(path).is_file():
        raise FileNotFoundError(f"--method-file {path} is not a file")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None:
        raise ValueError(f"--method-file {path} is not a Python file (*.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # inspect and dataclasses look a class's module up here
    spec.loader.exec_module(module)


def show(rows) -> None:
    """Print rows as columns, the first of them being the header."""
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*text)]
    for row in text:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def one_line(error) -> str:
    return " ".join(str(error).split())


def main(argv=None) -> int:
    """Exit code: 0, 1 where something failed or is not run, 2 for a mistake in what was asked, 130 after Ctrl-C."""
    commands = {"reproduce": reproduce, "run": run, "status": status, "audit": audit, "data": datasets}
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"faeval: warning: {one_line(message)}", file=sys.stderr)
        try:
            args = parse(list(sys.argv[1:] if argv is None else argv))
            return commands[args.command](args)
        except KeyboardInterrupt:
            print("faeval: interrupted; the same command continues from the last checkpoint", file=sys.stderr)
            return 130
        except ModuleNotFoundError as e:
            if e.name not in NOTEBOOK_PACKAGES:
                raise
            print(f"faeval: error: this command needs {e.name}: pip install -r requirements.txt", file=sys.stderr)
        except (ValueError, OSError) as e:
            if os.environ.get("FAEVAL_TRACEBACK"):
                raise
            print(f"faeval: error: {one_line(e)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
