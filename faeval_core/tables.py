"""Tables that notebooks show and the paper includes, and our value beside every reference value."""

import math
from decimal import Decimal
from pathlib import Path
from statistics import fmean, geometric_mean

import pandas as pd

from . import protocol
from .figures import title
from .files import studies
from .methods import METHODS
from .stats import diff_in_se, mean_sd, ours_in_se

REFERENCE = Path(__file__).with_name("reference_results.csv")  # part of the package
DECADES = {"h_norm", "g_norm"}  # orders of magnitude: within a factor of 10


def pm(values, digits=3) -> str:
    """'mean ± sd' of one value per seed, or '—' without any."""
    mean, sd, n = mean_sd(values)
    return (
        "—" if n == 0 else f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd is not None else "")
    )


def level_mean(records, key, epoch=None) -> list:
    """Mean over levels 0..L-1 of a per-level diagnostic, one per seed, after training or `epoch`;
    None where one is undefined.
    """
    found = [
        (r.final if epoch is None else r.diagnostics[str(epoch)])[key][:-1]
        for r in records
        if r.final
    ]
    return [None if None in levels else fmean(levels) for levels in found]


def level_value(key):
    """record -> `level_mean` of that record alone, None where it diverged: what `stats.paired`
    compares.
    """
    return lambda record: next(iter(level_mean([record], key)), None)


def lead(records, key) -> list:
    """S1 ('gamma') or S2 ('rho'): the level mean of a learned credit less that of DFA's on the same
    net, one per seed.
    """
    pairs = [[level_value(name)(r) for name in (key, f"{key}_dfa")] for r in records]
    return [None if None in pair else pair[0] - pair[1] for pair in pairs]


def by_seed(arms, key) -> list[list]:
    """One list per seed, the level mean of each arm (a list of records); a seed that lacks one is
    left out.
    """
    found = [{r.config.seed: level_value(key)(r) for r in records} for records in arms]
    rows = [[values.get(seed) for values in found] for seed in (found[0] if found else ())]
    return [row for row in rows if None not in row]


def credit_data(records, keys=("gamma", "rho")) -> dict:
    """Accuracy, level means, and S1 and S2 where the runs say what DFA's credit would have been;
    one value per seed.
    """
    final = [r.final for r in records if r.final]
    learned = bool(final) and all("gamma_dfa" in d for d in final)
    leads = (
        {name: lead(records, key) for name, key in (("S1", "gamma"), ("S2", "rho"))}
        if learned
        else {}
    )
    return {
        "test_acc": [r.accuracy for r in records],
        **{key: [level_value(key)(r) for r in records] for key in keys},
        **leads,
    }


def credit_row(records, keys=("gamma", "rho")) -> dict:
    """The same as a reader sees it, with the number of seeds that were measured, and of those that
    diverged, if any.
    """
    data, gone = (
        credit_data(records, keys) if records else {},
        sum(r.final is None for r in records),
    )
    names = {"test_acc": "accuracy", "gamma": "Γ", "gamma_clamped": "Γ clamped", "rho": "ρ"}
    shown = {
        names.get(key, key): pm(values, 6 if key == "nudge" else 3) for key, values in data.items()
    }
    return (
        {"n": len(records) - gone}
        | ({"diverged": gone} if gone else {})
        | (shown or {"accuracy": "not run"})
    )


def first_fires(records, letter) -> str:
    """First epoch after which (a) or (b) fires, of each seed."""
    never = {"complete": "never", "diverged": "diverged"}
    return (
        ", ".join(str(protocol.first_fire(r, letter) or never[r.status]) for r in records)
        or "not run"
    )


def geometric(values) -> float | None:
    """Geometric mean of the positive values, None without any."""
    found = [v for v in values if v]
    return geometric_mean(found) if found else None


def magnitude(values, form=".0e") -> str:
    """Geometric mean over seeds, by default to one digit, '2e+08', or '—'."""
    found = geometric(values)
    return "—" if found is None else format(found, form)


def audit_rows(arms: dict) -> list[dict]:
    """One row of plain data per arm (label -> records of its seeds) for the audit table; the arm
    'frozen' is the baseline.
    """
    rows = []
    for label, records in arms.items():
        judged = protocol.verdict(records, arms.get("frozen", ()))
        done = [r for r in records if r.final is not None]
        final = [r.final for r in done]
        cosines = [protocol.deep_cos(d) for d in final]
        if done and issubclass(METHODS[done[0].config.method], METHODS["bp"]):
            # the study gives BP's own credit the index of the gradient that it is, so its reading
            # of it is the plain one
            cosines = [dict.fromkeys(d, d["hidden"]) for d in cosines]
        rows.append(
            {
                "method": label,
                "n": len(done),
                "diverged": judged.diverged,
                "test_acc": [r.accuracy for r in done],
                **{
                    f"deep_cos_{k}": [d[k] for d in cosines]
                    for k in ("hidden", "with_top", "published", "published_exact")
                },
                **{k: [d[k][-1] for d in final] for k in ("h_norm", "g_norm", "sensitivity")},
                **{k: [d[k] for d in final] for k in ("growth", "stability")},
                "twin_min": [None if None in d["twin"] else min(d["twin"]) for d in final],
                "rho_hidden": [mean_sd(d["rho"][1:-1])[0] for d in final],
                "counts": judged.counts,
                "published": judged.text(),
                "invariant": judged.text(protocol.INVARIANT),
                "withdraw": judged.withdraw(),
                "withdraw_invariant": judged.withdraw(protocol.INVARIANT),
            }
        )
    return rows


def audit_table(rows: list[dict], digits=3) -> pd.DataFrame:
    """The audit rows as a reader sees them. Levels: a_l against g_l; 'deep cos (published)' is the
    study's own reading.

    digits: of the cosines.
    """
    shown = [
        {
            "method": title(r["method"]),
            "n": r["n"],
            "test accuracy": pm(r["test_acc"]),
            "deep cos (published)": pm(r["deep_cos_published"], digits),
            "deep cos (exact, hidden)": pm(r["deep_cos_hidden"], digits),
            "ρ (hidden)": pm(r["rho_hidden"]),
            "‖h_L‖": magnitude(r["h_norm"]),
            "‖g_L‖": magnitude(r["g_norm"]),
            "growth": magnitude(r["growth"], ".2g"),
            "stability": pm(r["stability"], 2),
            "published protocol": r["published"],
            "scale-invariant": r["invariant"],
        }
        for r in rows
    ]
    return pd.DataFrame(shown).set_index("method")


# -- beside the reference

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


def beside(compared) -> pd.DataFrame:
    """The reference rows that `compared` (a study's own list) names, with our columns."""
    return with_ours(compared).merge(pd.DataFrame(compared, columns=KEY).drop_duplicates())


# metric of the reference table -> what a reader sees
METRICS = {
    "test_acc": "test accuracy",
    "gamma": "Γ",
    "rho": "ρ",
    "nudge": "nudge",
    "deep_cos": "deep cosine, as published",
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
