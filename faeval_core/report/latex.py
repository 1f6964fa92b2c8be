"""The paper's generated part: macros and tables made from results, so that no number is typed."""

import json
import math
import re
from collections import Counter
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pandas as pd

from ..ground.files import publish, read_json, studies
from ..measure.stats import WORDS, mean, paired
from ..runs.store import Store
from .escapes import escape, macro_name
from .tables import ANSWERS, audit_table, counts, pm, reproduction

NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
ESTIMATE = re.compile(rf"({NUMBER})(?: \[({NUMBER}), ({NUMBER})\])? \((.*)\)")
EXACT = 1e-5  # half an interval's width below which it is shown as recorded, not rounded

# Settings that the text names and no notebook notes: name of the macro -> what their configs have.
PENALISED = {
    "dataset": "cifar10-jpeg75",
    "model": "resmlp",
    "width": 256,
    "depth": 4,
    "epochs": 30,
    "penalty": 0.01,
    "penalty_h0": 0.0,
    "embedding": "init",
}
SETTINGS = {
    f"setting {method} {word}": PENALISED | {"method": method, "credit_norm": norm}
    for word, norm in (("raw", "raw"), ("normalised", "sample_rms_g"))
    for method in ("oracle", "dfa", "cb")
}
AUDIT = Path("protocol_audit", "audit_table_s42_s123_s456.json")
MADE = "% made by faeval_core.report.latex from results/; do not edit"
RAGGED = r">{\raggedright\arraybackslash}p"
LAYOUT = (
    rf"@{{}}r{RAGGED}{{0.348\linewidth}}l{RAGGED}{{0.19\linewidth}}l{RAGGED}{{0.17\linewidth}}@{{}}"
)
BARE = {"index": False, "escape": False}  # of to_latex, since the cells are LaTeX already


def effect(interval: str, sign: int = 1) -> str:
    """A claim's estimate as a sentence names it, '0.014 [-0.004, 0.032]', from 'mean [low, high]
    (n=3)' as its record has it.

    sign=-1: that of the opposite difference. Rounded to two digits of half the interval's width,
    to three decimals where these are enough for one, and to no more than were recorded; as
    recorded where it is narrower than EXACT, or where there is no interval. Without records, the
    text as it is. Raises ValueError on anything else.
    """
    if interval == "no records":
        return interval
    if (found := ESTIMATE.fullmatch(interval)) is None:
        raise ValueError(f"a claim's interval reads {interval!r}, not 'mean [low, high] (n=3)'")
    numbers = [sign * Decimal(number) for number in found.groups()[:3] if number]
    half = abs(numbers[-1] - numbers[len(numbers) // 2]) / 2
    if half > EXACT:
        known = max(-number.as_tuple().exponent for number in numbers)
        wanted = max(1 - math.floor(math.log10(half)), 0)
        digits = min(wanted, known, 3 if half >= 1e-3 else wanted)
        step = Decimal(1).scaleb(-digits)
        numbers = [number.quantize(step, ROUND_HALF_UP) for number in numbers]
    centre, *ends = (format(number, "f" if half > EXACT else "g") for number in numbers)
    return f"{centre} [{', '.join(ends[::sign])}]" if ends else centre


def settings(records) -> dict[str, list]:
    """Name of each of SETTINGS -> the records of its seeds.

    Raises ValueError where they are of two settings that would be averaged.
    """
    made = {}
    for name, fields in SETTINGS.items():
        made[name] = [
            r for r in records if all(getattr(r.config, k) == v for k, v in fields.items())
        ]
        kinds = {r.config.with_(seed=0).id for r in made[name]}
        if len(kinds) > 1:
            raise ValueError(f"records of {len(kinds)} settings are all {name!r}: {fields}")
    return made


def setting_macros(records) -> list[tuple[str, str]]:
    """(name, text) of the macros on SETTINGS: the final test accuracy of each, mean ± sd over
    seeds, and by how much exact credit leads each, paired by seed and with its interval; '—'
    without records.
    """
    found = settings(records)
    made = [(macro_name(name), pm([r.accuracy for r in rows])) for name, rows in found.items()]
    for name, rows in found.items():
        _, method, how = name.split()
        if method == "oracle":
            continue
        lead = mean(paired(found[f"setting oracle {how}"], rows))
        text = effect(str(lead.interval())) if lead else "—"
        made.append((macro_name("setting lead over", method, how), text))
    return made


def numbered(results: Path) -> list[tuple[str, dict, int | None]]:
    """(id, claim, number) of every claim: the id is notebook/name, as in '14/fixed-oracle'; the
    number is its row in the supplement's table, None where nothing is recorded.
    """
    claims = [
        (f"{notebook.split('_')[0]}/{claim['name']}", claim)
        for notebook, study in studies(results, ("claims",)).items()
        for claim in study["claims"]
    ]
    rows = iter(range(1, len(claims) + 1))
    return [(id, c, None if c["decided"] == "not run" else next(rows)) for id, c in claims]


def claim_counts(results: Path) -> list[tuple[str, int]]:
    """(name, number) of the macros on how many claims there are: of each verdict, in all, and in
    the largest family that is decided together.
    """
    claims = numbered(results)
    words = Counter(claim["decided"] for _, claim, _ in claims)
    families = Counter(id.split("/")[0] for id, claim, _ in claims if claim["p"] is not None)
    made = [(macro_name("claims", word), words[word]) for word in WORDS]
    largest = max(families.values(), default=0)
    return [*made, ("ClaimsStated", len(claims)), ("ClaimsLargestFamily", largest)]


def p_text(p: float | None) -> str:
    """Holm's p as the tables show it, '—' where nothing could be tested."""
    if p is None:
        return "—"
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def tabular(table: pd.DataFrame) -> str:
    """A frame as a LaTeX tabular in plain ASCII, its index in the first column, that needs no
    package.
    """
    columns = [str(table.columns.name or ""), *map(str, table.columns)]
    rows = [[str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy())]
    lines = [" & ".join(map(ascii_escape, row)) + r" \\" for row in (columns, *rows)]
    body = [r"\hline", lines[0], r"\hline", *lines[1:], r"\hline"]
    begin = rf"\begin{{tabular}}{{{'l' * len(columns)}}}"
    return "\n".join([begin, *body, r"\end{tabular}"]) + "\n"


def ascii_escape(text: str) -> str:
    """`escape`, and '?' for what plain LaTeX has no letter for."""
    return escape(text).encode("ascii", "replace").decode()


def audit_tabular(rows) -> str:
    """The audit table with two digits of the cosines, as LaTeX: without ρ, and with the counts of
    (b') for a verdict.
    """
    shown = (
        audit_table(rows, digits=2)
        .reset_index()
        .drop(columns=["ρ (hidden)", "scale-invariant"])
        .astype(str)
    )
    shown["study's protocol"] = shown["study's protocol"].str.removeprefix("fires ")
    shown["b'"] = ["/".join(map(str, r["counts"]["b'"])) for r in rows]
    header = (
        "method,$n$,accuracy,deep cos (study),exact; "
        "hidden,$\\|h_L\\|$,$\\|g_L\\|$,growth,stab.,study's protocol,(b$'$)"
    ).split(",")
    return shown.map(escape).set_axis(header, axis=1).to_latex(column_format="lrllllllllr", **BARE)


def reproduction_tabular(rows: pd.DataFrame) -> str:
    """How many reference rows each notebook answers, and how, as LaTeX; those that served to choose
    a setting in a column of their own.
    """
    answer = rows.verdict.where(~rows.calibrated | (rows.verdict == "not run"), "calibrated")
    notebook = rows.notebook.replace("", "no notebook")
    table = pd.crosstab(notebook, answer).reindex(columns=[*ANSWERS, "calibrated"], fill_value=0)
    table.loc["all"] = table.sum()
    shown = table.assign(rows=table.sum(axis=1)).rename_axis("notebook").reset_index().astype(str)
    return shown.map(escape).to_latex(column_format="l" + "r" * (len(shown.columns) - 1), **BARE)


def reference_validity(results: Path) -> list[tuple[str, str]]:
    """(name, text) of the macros on diagnoses below the study's threshold: how many there are, in
    how many the reference is invalid, and the worst cosine with float64. Empty where none was
    counted.
    """
    path = results / "protocol_calibration" / "published_against_invariant.json"
    if not path.exists():
        return []
    below = read_json(path)["diagnoses"]["(b) fires"]
    told = {
        "diagnoses": "diagnoses",
        "invalid": "(b') fires",
        "worst twin": "worst cosine with float64",
    }
    return [(macro_name("below threshold", word), below[key]) for word, key in told.items()]


def published_exact(results: Path) -> list[tuple[str, str]]:
    """(name, text) of the macros on the audit's deep cosines in the study's reading, taken with
    the exact cosine in place of the clamped one; one of each method.
    """
    if not (path := results / AUDIT).exists():
        return []
    rows = read_json(path, ("rows",))["rows"]
    return [
        (macro_name("audit unclamped", row["method"]), pm(row["deep_cos_published_exact"], 2))
        for row in rows
    ]


def macros(results: Path) -> dict[str, str]:
    """Name of a LaTeX command -> its text: \\Nb<number><Key> for what a notebook notes under
    "paper" in its JSON, \\Nb<number>Claim<Name> for what became of its claims, \\Setting<Name>
    for the accuracies of SETTINGS, \\BelowThreshold<What> for `reference_validity`,
    \\AuditUnclamped<Method> for `published_exact`,
    \\Claims<Verdict> and \\Reproduction<Answer> for counts, and \\Records<What> for what was
    trained.

    Raises ValueError where two of them would be of one name, since the later would silently replace
    the earlier.
    """
    # others have theirs
    verb = {
        "undecided": "is undecided",
        "not run": "is not run",
        "in sign only": "holds in sign only",
    }
    made = []
    for notebook, study in studies(results, ("claims",)).items():
        number = f"nb {notebook.split('_')[0]}"
        made += [
            (macro_name(number, "claim", c["name"]), verb.get(c["decided"], c["decided"]))
            for c in study["claims"]
        ]
        made += [(macro_name(number, key), value) for key, value in study.get("paper", {}).items()]
    records, _ = Store(results).survey()
    made += setting_macros(records)
    made += reference_validity(results) + published_exact(results)
    made += claim_counts(results)
    hours = sum(record.provenance["seconds"] for record in records) / 3600
    made += [("RecordsCount", len(records)), ("RecordsHours", f"{hours:.0f}")]
    told = counts(reproduction(results))
    apart = told.pop("calibrated")
    made += [(macro_name("reproduction", answer), n) for answer, n in told.items()]
    made += [(macro_name("reproduction calibrated", answer), n) for answer, n in apart.items()]
    made += [
        ("ReproductionRows", sum(told.values()) + sum(apart.values())),
        ("ReproductionCalibrated", sum(apart.values())),
    ]
    if twice := sorted(name for name, n in Counter(name for name, _ in made).items() if n > 1):
        raise ValueError(
            f"several texts would be called \\{twice[0]}; rename one of the claims or of the "
            "paper's keys"
        )
    return {name: str(text) for name, text in made}


def write(results: Path, paper: Path) -> None:
    """Write paper/generated/, from results/: both tables of the audit, the counts of reference
    rows, all claims as a table, what \\claim, \\effect and \\holmp of faeval.sty know of each
    (verdicts.tex), and macros.tex.

    A macro that the text names and no study made fails the build, because LaTeX does not know it;
    so does a sentence that expects another verdict than its claim has now.
    """
    made = [
        rf"\newcommand{{\{name}}}{{{escape(text)}}}"
        for name, text in sorted(macros(results).items())
    ]
    publish(paper / "generated" / "macros.tex", "\n".join([MADE, *made, ""]))
    claims = numbered(results)
    known = [
        [id, c["decided"], str(number or ""), *map(escape, shown(c))] for id, c, number in claims
    ]
    lines = [rf"\faevalclaim{''.join(f'{{{part}}}' for part in parts)}" for parts in known]
    publish(paper / "generated" / "verdicts.tex", "\n".join([MADE, *lines, ""]))
    rows = [
        [
            str(number),
            *map(escape, (c["statement"], c["decided"], counted(c), p_text(c["p"]), id)),
        ]
        for id, c, number in claims
        if number
    ]
    header = ["", "claim", "verdict", "mean [95\\,\\% interval]", "\\(p\\)", "id"]
    table = pd.DataFrame(rows, columns=header)
    publish(
        paper / "generated" / "claims.tex",
        table.to_latex(column_format=LAYOUT, longtable=True, **BARE),
    )
    publish(paper / "generated" / "reproduction.tex", reproduction_tabular(reproduction(results)))
    if (audit := results / AUDIT).exists():
        for name, key in (("table1", "rows"), ("table_raw", "raw")):
            publish(
                paper / "generated" / f"{name}.tex",
                audit_tabular(json.loads(audit.read_text(encoding="utf-8"))[key]),
            )


def counted(claim: dict) -> str:
    """A claim's estimate, rounded as in a sentence, and what it is a mean over: '… (n=3)'."""
    recorded = claim["interval"]
    return f"{effect(recorded)} {recorded[recorded.rindex('(') :]}"


def shown(claim: dict) -> tuple[str, str, str]:
    """Estimate of a claim, that of the opposite difference, and Holm's p, for sentences."""
    return effect(claim["interval"]), effect(claim["interval"], -1), p_text(claim["p"])
