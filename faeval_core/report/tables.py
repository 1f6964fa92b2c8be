"""Tables that notebooks show and the paper includes, and our value beside every reference value."""

from statistics import fmean

import pandas as pd

from ..measure import protocol
from ..measure.stats import mean_sd
from ..methods import METHODS
from .figures import title
from .numerals import geometric, magnitude, pm
from .reference import (
    ANSWERS,
    DECADES,
    KEY,
    METRICS,
    REFERENCE,
    WORDS,
    answer,
    beside,
    counts,
    half_units,
    in_words,
    judge,
    reader,
    reference,
    reproduction,
    source_map,
    summary,
    tolerance,
    with_ours,
)

__all__ = [
    "ANSWERS",
    "DECADES",
    "KEY",
    "METRICS",
    "REFERENCE",
    "WORDS",
    "answer",
    "audit_rows",
    "audit_table",
    "beside",
    "by_seed",
    "counts",
    "credit_data",
    "credit_row",
    "first_fires",
    "geometric",
    "half_units",
    "in_words",
    "judge",
    "lead",
    "level_mean",
    "level_value",
    "magnitude",
    "pm",
    "reader",
    "reference",
    "reproduction",
    "source_map",
    "summary",
    "tolerance",
    "with_ours",
]


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
                "invariant": judged.text(protocol.COUNTERPART),
                "withdraw": judged.withdraw(),
                "withdraw_invariant": judged.withdraw(protocol.COUNTERPART),
            }
        )
    return rows


def audit_table(rows: list[dict], digits=3) -> pd.DataFrame:
    """The audit rows as a reader sees them. Levels: a_l against g_l; 'deep cos (study's reading)'
    sets a_{l+1} against g_l where the study does.

    digits: of the cosines.
    """
    shown = [
        {
            "method": title(r["method"]),
            "n": r["n"],
            "test accuracy": pm(r["test_acc"]),
            "deep cos (study's reading)": pm(r["deep_cos_published"], digits),
            "deep cos (exact, hidden)": pm(r["deep_cos_hidden"], digits),
            "ρ (hidden)": pm(r["rho_hidden"]),
            "‖h_L‖": magnitude(r["h_norm"]),
            "‖g_L‖": magnitude(r["g_norm"]),
            "growth": magnitude(r["growth"], ".2g"),
            "stability": pm(r["stability"], 2),
            "study's protocol": r["published"],
            "scale-invariant": r["invariant"],
        }
        for r in rows
    ]
    return pd.DataFrame(shown).set_index("method")


# -- beside the reference
