"""The study's values beside ours: how they agree, in tables and in words."""

import math
from decimal import Decimal
from pathlib import Path

import pandas as pd

from ..ground.files import studies
from ..measure.stats import diff_in_se, mean_sd, ours_in_se
from .figures import title
from .numerals import geometric

REFERENCE = Path(__file__).with_name("reference_results.csv")  # part of the package
DECADES = {"h_norm", "g_norm"}  # orders of magnitude: within a factor of 10

ANSWERS = ("agrees", "close", "imprecise", "differs", "not run")


def tolerance(metric, value) -> float:
    """How far from a reference value ours may lie and still be *close*: 0.015 for accuracies and
    their differences, a decade for norms, max(0.05, 20 %) for cosines and correlations, and 20 %
    for the rest.
    """
    if metric in DECADES:
        return 1.0
    if "acc" in metric or metric == "diff_vs_dfa":
        return 0.015
    relative = 0.2 * abs(value)
    cosine = any(word in metric for word in ("cos", "gamma", "rho", "S1", "S2"))
    return max(0.05, relative) if cosine else relative


def answer(metric, ours, value, within=0.0) -> tuple[str, float | None]:
    """(*agrees*, *close*, *imprecise* or *differs*, difference in standard errors) of `ours` beside
    `value`.

    ours and value are (mean, sd or None, n or None), norms with the sd of their log10; within: half
    a unit of the last digit given. *Agrees*: within two standard errors of the difference, or
    within that half unit. An unknown sd counts as that of the other side. *Imprecise*: within two
    standard errors, but what our seeds put into them is wider than the tolerance, and than two sds
    of the study's own, so that hardly any value could have failed. *Close*: further off, within the
    tolerance. Flags (`*_fires`) agree where the majority of seeds does as the reference says.
    """
    (mine, my_sd, my_n), (theirs, their_sd, their_n) = ours, value
    if metric.endswith("_fires"):
        return ("agrees" if round(mine) == theirs else "differs"), None
    room = max(tolerance(metric, theirs), 2 * (their_sd or 0.0))
    given = abs(mine - theirs) <= within
    if metric in DECADES:
        mine, theirs = math.log10(mine), math.log10(theirs)
    off = diff_in_se(mine, my_sd, my_n, theirs, their_sd, their_n)
    if given:
        return "agrees", off
    if off is not None and abs(off) <= 2:
        own = ours_in_se(my_sd, my_n, their_sd, their_n)
        return ("imprecise" if 2 * own > room else "agrees"), off
    return ("close" if abs(mine - theirs) <= tolerance(metric, theirs) else "differs"), off


def _digits(number) -> tuple[int, int]:
    """(significant digits, decimals) of a number as it is written; trailing zeros do not count."""
    _, digits, exponent = Decimal(repr(float(number))).normalize().as_tuple()
    return len(digits), -exponent


def half_units(rows) -> list[float]:
    """Half a unit of the last digit given, for every reference row.

    The table has lost trailing zeros (0.3 for 0.300, 0 for 0.000), so a value has at least the
    decimals of its sd, and those that the other values of its metric and experiment have, up to
    their number of significant digits.
    """
    shape = {i: _digits(v) for i, v in rows.value.items() if v}
    sds = {i: _digits(sd)[1] for i, sd in rows.sd.items() if sd and not pd.isna(sd)}
    halves = {}
    for _, group in rows.groupby(["experiment", "metric"], sort=False):
        known = [shape[i] for i in group.index if i in shape]
        most, finest = (max((k[side] for k in known), default=0) for side in (0, 1))
        for i, value in group.value.items():
            digits, decimals = shape.get(i, (0, finest))
            alike = min(finest, decimals + most - digits) if value else finest
            halves[i] = 0.5 * 10.0 ** -max(decimals, alike, sds.get(i, decimals))
    return [halves[i] for i in rows.index]


def judge(ref, mine, within=0.0) -> dict:
    """Our columns beside one reference row; `mine` is what Study.compare noted for it, or None."""
    if mine is None or mine["value"] is None:
        return {"calibrated": False, "verdict": "not run"}
    sd, n = (None if pd.isna(v) else v for v in (ref.sd, ref.n_seeds))
    verdict, diff = answer(
        ref.metric, (mine["value"], mine["sd"], mine["n"]), (ref.value, sd, n), within
    )
    ours = {
        "ours": mine["value"],
        "ours_sd": mine["sd"],
        "ours_n": mine["n"],
        "diff_se": diff and round(diff, 2),
    }
    return {**ours, "calibrated": mine["calibrated"], "verdict": verdict}


def counts(rows) -> dict:
    """How often each answer was given, of a table of reference rows with our columns; those that
    served to choose a setting (*calibrated*) are counted apart, under 'calibrated'."""
    plain, calibrated = (
        {a: int((part.verdict == a).sum()) for a in ANSWERS}
        for part in (rows[~rows.calibrated], rows[rows.calibrated])
    )
    return plain | {"calibrated": {a: n for a, n in calibrated.items() if a != "not run"}}


KEY = ["experiment", "condition", "metric"]


def reference(experiment, **where) -> dict:
    """Condition -> value of the reference rows of an experiment; where: other columns, as
    metric='test_acc'.
    """
    rows = pd.read_csv(REFERENCE)
    for column, value in {"experiment": experiment, **where}.items():
        rows = rows[rows[column] == value]
    return dict(zip(rows.condition, rows.value))


def with_ours(compared) -> pd.DataFrame:
    """Every reference row, with our columns where `compared` (what studies have noted) names it."""
    rows = pd.read_csv(REFERENCE, dtype={"n_seeds": "Int64"})
    keys = list(rows[KEY].itertuples(index=False, name=None))
    mine = {tuple(c[k] for k in KEY): c for c in compared}
    if unknown := sorted(mine.keys() - set(keys)):
        raise ValueError(f"no reference row is called {unknown[0]}; see {REFERENCE.name}")
    judged = [
        judge(ref, mine.get(key), half)
        for ref, key, half in zip(rows.itertuples(), keys, half_units(rows))
    ]
    ours = pd.DataFrame(
        judged, columns=["ours", "ours_sd", "ours_n", "diff_se", "calibrated", "verdict"]
    )
    return pd.concat([rows, ours.astype({"ours_n": "Int64"})], axis=1)


def summary(metric: str, values) -> dict:
    """value, sd and n of one value per seed; norms by their geometric mean, and the sd of their
    log10.
    """
    mean, sd, n = mean_sd(values)
    if metric in DECADES and n:
        mean, sd = geometric(values), mean_sd(map(math.log10, filter(None, values)))[1]
    return {"value": mean, "sd": sd, "n": n}


def beside(compared) -> pd.DataFrame:
    """The reference rows that `compared` (a study's own list) names, with our columns."""
    return with_ours(compared).merge(pd.DataFrame(compared, columns=KEY).drop_duplicates())


# metric of the reference table -> what a reader sees
METRICS = {
    "test_acc": "test accuracy",
    "gamma": "Γ",
    "rho": "ρ",
    "nudge": "nudge",
    "deep_cos": "deep cosine, study's reading",
    "h_norm": "‖h_L‖",
    "g_norm": "‖g_L‖",
    "costate_cosine": "cosine with the costate",
    "mode1b_fires": "(b) fires",
    "diff_vs_dfa": "accuracy gained over DFA",
    "acc@5": "accuracy after epoch 5",
    "acc@20": "accuracy after epoch 20",
    "gamma_frozen": "Γ on the checkpoint",
    "rho_frozen": "ρ on the checkpoint",
    "dL_same": "ΔL, own batch",
    "dL_held": "ΔL, held out",
    "dL_1step": "ΔL held out, 1 step",
    "dL_5step": "ΔL held out, 5 steps",
    "dL_20step": "ΔL held out, 20 steps",
    "dL_held_5step": "ΔL held out, 5 steps",
    "train_loss_decrease": "change of the training loss",
    "update_variance": "variance of the updates",
    "delta_gamma_min": "least lead in Γ",
    "delta_rho_min": "least lead in ρ",
    "collapsed_fraction": "share of collapsed runs",
    "bp_grad_rms": "RMS of BP's gradient",
}


WORDS = {  # verdict -> (of one value, of several)
    "agrees": ("agrees", "agree"),
    "close": ("is close", "are close"),
    "imprecise": ("is compared too imprecisely to tell", "are compared too imprecisely to tell"),
    "differs": ("differs", "differ"),
    "not run": ("is not run yet", "are not run yet"),
}


def _listed(found: dict) -> str:
    """{'agrees': 3, 'differs': 1} as '3 agree and 1 differs'."""
    parts = [f"{n} {WORDS[answer][n > 1]}" for answer, n in found.items() if n]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def in_words(rows) -> str:
    """A sentence on how a table of reference rows with our columns (`beside`) came out."""
    if not len(rows):
        return "The study gives no value for this notebook."
    told = counts(rows)
    apart = told.pop("calibrated")
    values = f"{len(rows)} value" + "s" * (len(rows) > 1)
    parts = [f"The study gives {values} for what this notebook measures."]
    if sum(told.values()):
        parts.append(f"Of those that test it, {_listed(told)}.")
    if n := sum(apart.values()):
        one = n == 1
        settled = "One more" if one else f"Another {n}"
        tests = "tests" if one else "test"
        listed = _listed(apart)
        parts.append(f"{settled} served to choose a setting and so {tests} nothing: {listed}.")
    return " ".join(parts)


def _measure(value, sd, n, metric) -> str:
    """'0.613 ± 0.001 (n=3)' with three significant digits; norms as powers of ten."""
    if metric in DECADES:
        told = f"{value:.0e}"
    elif metric.endswith("_fires"):
        told = "yes" if round(value) else "no"
    else:
        told = f"{value:#.3g}".rstrip(".") + ("" if pd.isna(sd) else f" ± {sd:.1g}")
    return told + ("" if pd.isna(n) or n < 2 else f" (n={n})")


def _setting(condition) -> str:
    """A condition of the reference table in words: 'method=dfa,wr=0.2' is 'DFA, wr = 0.2'."""
    parts = [part.partition("=") for part in condition.split(",")]
    named = {"method", "branch", "reference", "schedule"}
    said = [title(v) if key in named else f"{title(key)} {title(v)}".strip() for key, _, v in parts]
    return ", ".join(said)


def reader(rows) -> pd.DataFrame:
    """A table of reference rows with our columns (`beside`) as a reader sees it: the rows that are
    run, in words and with few digits.
    """
    run = rows[rows.verdict != "not run"]
    shown = [
        {
            "setting": _setting(r.condition),
            "quantity": METRICS.get(r.metric, r.metric),
            "study": _measure(r.value, r.sd, r.n_seeds, r.metric),
            "here": _measure(r.ours, r.ours_sd, r.ours_n, r.metric),
            "difference in standard errors": "" if pd.isna(r.diff_se) else f"{r.diff_se:+.1f}",
            "verdict": r.verdict + (" (calibrated)" if r.calibrated else ""),
        }
        for r in run.itertuples()
    ]
    table = pd.DataFrame(shown)
    if shown and not any(table["difference in standard errors"]):
        table = table.drop(columns="difference in standard errors")
    return table.set_index(["setting", "quantity"]) if shown else table


def reproduction(results) -> pd.DataFrame:
    """Every reference row, with our columns (verdict: one of ANSWERS) and the notebook that made
    ours.
    """
    noted = studies(results, ("compared",))
    compared = [{**c, "notebook": name} for name, study in noted.items() for c in study["compared"]]
    made = pd.DataFrame(compared, columns=[*KEY, "notebook"]).drop_duplicates(KEY, keep="last")
    return with_ours(compared).merge(made, how="left", on=KEY).fillna({"notebook": ""})


def source_map(results) -> pd.DataFrame:
    """Which notebook wrote which file, from the studies' own summaries."""
    noted = studies(results, ("outputs",))
    rows = [
        (o, f"notebooks/{name}.ipynb") for name, study in noted.items() for o in study["outputs"]
    ]
    return pd.DataFrame(rows, columns=["output", "notebook"])
