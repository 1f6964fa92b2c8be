"""The paper's generated part: macros and tables made from results, so that no number is typed."""

import json
import re
from collections import Counter
from pathlib import Path

import pandas as pd

from .files import publish, studies
from .tables import audit_table, counts, reproduction

ESCAPES = {
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "—": "---",
    "′": "'",
}
ESCAPES |= {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "‖": r"\(\|\)",
}
ESCAPES |= {"−": r"\(-\)", "±": r"\(\pm\)", "×": r"\(\times\)", "₀": r"\(_0\)"}
GREEK = {
    "Γ": "Gamma",
    "α": "alpha",
    "β": "beta",
    "δ": "delta",
    "ε": "varepsilon",
    "η": "eta",
    "λ": "lambda",
    "ρ": "rho",
}
SYMBOLS = str.maketrans({"‖": r"\|", **{letter: rf"\{name} " for letter, name in GREEK.items()}})
INDEX = r"(?:_[A-Za-z0-9]+)?"
NORM, POWER = rf"‖[A-Za-z{''.join(GREEK)}]{INDEX}‖", r"[0-9]+(?:\.[0-9]+)?e[+-]?[0-9]+"
FORMULA = rf"{NORM}|[{''.join(GREEK)}]{INDEX}|{POWER}"
SPECIAL = re.compile(f"{FORMULA}|[{re.escape(''.join(ESCAPES))}]")

CLAIMS = r"""Claims, with the 95\,\% Student interval of the mean over seeds, or over what \(n\)
names in their place; rank correlations by their own interval. The claims of one notebook are
decided together, by Holm's method at 5\,\%, so that an interval alone does not settle one.
\emph{In sign only}: beyond the bound, not by the smallest effect of interest.
\textit{Source:} \texttt{reproduce\_all.ipynb}, \texttt{results/studies/*.json}."""
BARE = {"index": False, "escape": False}  # of to_latex, since the cells are LaTeX already


def escape(text: str) -> str:
    """LaTeX of plain text as notebooks print it: norms, Greek letters and powers of ten become
    formulas.

    Nothing in the text is a command to LaTeX; white space of any kind becomes one space, and
    control characters are dropped.
    """

    def latex(match):
        if match[0] in ESCAPES:
            return ESCAPES[match[0]]
        if match[0][0] not in "0123456789":
            return rf"\({match[0].translate(SYMBOLS)}\)"
        mantissa, exponent = match[0].split("e")
        return (
            r"\("
            + ("" if mantissa == "1" else rf"{mantissa}\!\times\!")
            + rf"10^{{{int(exponent)}}}\)"
        )

    shown = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return SPECIAL.sub(latex, shown)


def macro_name(*words) -> str:
    """A LaTeX command name from words: letters only, digits spelt."""
    digits = "Zero One Two Three Four Five Six Seven Eight Nine".split()
    text = "".join(
        w[:1].upper() + w[1:] for word in words for w in re.split(r"[^A-Za-z0-9]+", word)
    )
    return re.sub(r"\d", lambda digit: digits[int(digit[0])], text)


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
    shown["published protocol"] = shown["published protocol"].str.removeprefix("fires ")
    shown["b'"] = ["/".join(map(str, r["counts"]["b'"])) for r in rows]
    header = (
        "method,$n$,accuracy,deep cos (pub.),exact; "
        "hidden,$\\|h_L\\|$,$\\|g_L\\|$,growth,stab.,published,(b$'$)"
    ).split(",")
    return shown.map(escape).set_axis(header, axis=1).to_latex(column_format="lrllllllllr", **BARE)


def macros(results: Path) -> dict[str, str]:
    """Name of a LaTeX command -> its text: \\Nb<number><Key> for what a notebook notes under
    "paper" in its JSON, \\Nb<number>Claim<Name> for what became of its claims, and
    \\Reproduction<Answer> for the counts of reference rows.

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
    """Write paper/generated/: both tables of the audit, the claims and macros.tex, from
    results/<study>/*.json and results/studies/*.json.

    A macro that the text names and no study made fails the build, because LaTeX does not know it.
    """
    made = [
        rf"\newcommand{{\{name}}}{{{escape(text)}}}"
        for name, text in sorted(macros(results).items())
    ]
    claims = [
        (c, notebook.split("_")[0])
        for notebook, study in studies(results, ("claims",)).items()
        for c in study["claims"]
    ]
    told = [
        (c["statement"], c["decided"], c["interval"], n)
        for c, n in claims
        if c["decided"] != "not run"
    ]
    rows = [[escape(cell) for cell in row] for row in told]
    table = pd.DataFrame(rows, columns=["claim", "decided", "mean [95\\,\\% interval]", "notebook"])
    publish(
        paper / "generated" / "macros.tex",
        "\n".join(["% made by faeval_core.latex from results/; do not edit", *made, ""]),
    )
    layout = {"column_format": r"p{0.40\linewidth}lp{0.31\linewidth}r", "longtable": True}
    layout |= {"caption": CLAIMS, "label": "tab:claims"}
    publish(paper / "generated" / "claims.tex", table.to_latex(**layout, **BARE))
    audit = results / "protocol_audit" / "audit_table_s42_s123_s456.json"
    if audit.exists():
        for name, key in (("table1", "rows"), ("table_raw", "raw")):
            publish(
                paper / "generated" / f"{name}.tex",
                audit_tabular(json.loads(audit.read_text(encoding="utf-8"))[key]),
            )
