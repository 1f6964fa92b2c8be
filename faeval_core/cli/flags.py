"""The flags that each command of the command line takes."""

import argparse
import ast
import dataclasses
from contextlib import suppress

from ..config import CHOICES, RunConfig
from ..runs.engines import ENGINES

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


def numbers(text):
    return [float(part) for part in text.split(",")]


def flag(name):
    return f"--{name.replace('_', '-')}"


def setting_flags(p, but=(), **defaults):
    """A flag for every setting of a run that is a number, a word or a switch, but for some;
    defaults: those that are others here, as told.
    """
    for name, f in FIELDS.items():  # seeds are given by the list; upstream runs are for notebooks
        kind = type(f.default)
        if kind not in (bool, int, float, str) or name in ("seed", "upstream_epoch", *but):
            continue
        choices = f": {', '.join(CHOICES[name])}" if name in CHOICES else ""
        text = f"{f.metadata['help']}{choices} (default {defaults.get(name, f.default)})"
        how = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        p.add_argument(flag(name), help=text.replace("%", "%%"), **how)


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
    setting_flags(p)


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
    augment = "on where there are pictures"
    setting_flags(p, but=("lr",), dataset="digit-sums", augment=augment, **told)
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
