"""The paper's generated part: macros and tables made from results, so that no number is typed."""

import json
import re
from pathlib import Path

import pandas as pd

from .files import publish, studies
from .tables import audit_table

ESCAPES = {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "—": "---", "′": "'"}
ESCAPES |= {"−": r"\(-\)", "±": r"\(\pm\)", "×": r"\(\times\)", "₀": r"\(_0\)"}
GREEK = {"Γ": "Gamma", "α": "alpha", "β": "beta", "δ": "delta", "ε": "varepsilon", "η": "eta", "λ": "lambda", "ρ": "rho"}
SYMBOLS = str.maketrans({"‖": r"\|", **{letter: rf"\{name} " for letter, name in GREEK.items()}})
FORMULA = rf"‖[^‖]+‖|[{''.join(GREEK)}](?:_\w+)?|\d+(?:\.\d+)?e[+-]?\d+"  # norms, Greek letters, powers of ten

CLAIMS = r"""Claims, decided by the 95\,\% Student interval of the mean over seeds, or over what \(n\) names in their
place; rank correlations by their own interval.
\textit{Source:} \texttt{reproduce\_all.ipynb}, \texttt{results/studies/*.json}."""
BARE = {"index": False, "escape": False}  # of to_latex, since the cells are LaTeX already


def escape(text: str) -> str:
    """LaTeX of plain text as notebooks print it: norms, Greek letters and powers of ten become formulas."""

    def latex(match):
        if match[0] in ESCAPES:
            return ESCAPES[match[0]]
        if not match[0][0].isdigit():
            return rf"\({match[0].translate(SYMBOLS)}\)"
        mantissa, exponent = match[0].split("e")
        return r"\(" + ("" if mantissa == "1" else rf"{mantissa}\!\times\!") + rf"10^{{{int(exponent)}}}\)"

    return re.sub(f"{FORMULA}|[{''.join(ESCAPES)}]", latex, text)


def macro_name(*words) -> str:
    """A LaTeX command name from words: letters only, digits spelt."""
    digits = "Zero One Two Three Four Five Six Seven Eight Nine".split()
    text = "".join(w[:1].upper() + w[1:] for word in words for w in re.split(r"[^A-Za-z0-9]+", word))
    return re.sub(r"\d", lambda digit: digits[int(digit[0])], text)


def audit_tabular(rows) -> str:
    """The audit table with two digits of the cosines, as LaTeX: without ρ, and with the counts of (b') for a verdict."""
    shown = audit_table(rows, digits=2).reset_index().drop(columns=["ρ (hidden)", "scale-invariant"]).astype(str)
    shown["published protocol"] = shown["published protocol"].str.removeprefix("fires ")
    shown["b'"] = ["/".join(map(str, r["counts"]["b'"])) for r in rows]
    header = "method,$n$,accuracy,deep cos (pub.),exact; hidden,$\\|h_L\\|$,$\\|g_L\\|$,growth,stab.,published,(b$'$)".split(",")
    return shown.map(escape).set_axis(header, axis=1).to_latex(column_format="lrllllllllr", **BARE)


def write(results: Path, paper: Path) -> None:
    """Write paper/generated/: both tables of the audit, the claims and macros.tex, from results/<study>/*.json and
    results/studies/*.json.

    Each study's numbers under "paper" in its JSON become macros \\<Key>; a macro that the text names and no study made
    fails the build, because LaTeX does not know it.
    """
    noted = studies(results, ("claims",))
    claims = [(c, notebook.split("_")[0]) for notebook, study in noted.items() for c in study["claims"]]
    verb = {"undecided": "is undecided", "not run": "is not run"}  # 'holds' and 'does not hold' have theirs
    macros = {macro_name("claim", c["name"]): verb.get(c["decided"], c["decided"]) for c, _ in claims}
    macros |= {macro_name(key): value for study in noted.values() for key, value in study.get("paper", {}).items()}
    made = [rf"\newcommand{{\{k}}}{{{escape(str(v))}}}" for k, v in sorted(macros.items())]
    rows = [[escape(c["statement"]), c["decided"], escape(c["interval"]), n] for c, n in claims if c["decided"] != "not run"]
    table = pd.DataFrame(rows, columns=["claim", "decided", "mean [95\\,\\% interval]", "notebook"])
    publish(paper / "generated" / "macros.tex", "\n".join(["% made by faeval_core.latex from results/; do not edit", *made, ""]))
    told = {"column_format": r"p{0.40\linewidth}lp{0.31\linewidth}r", "longtable": True, "caption": CLAIMS, "label": "tab:claims"}
    publish(paper / "generated" / "claims.tex", table.to_latex(**told, **BARE))
    audit = results / "protocol_audit" / "audit_table_s42_s123_s456.json"
    if audit.exists():
        for name, key in (("table1", "rows"), ("table_raw", "raw")):
            publish(paper / "generated" / f"{name}.tex", audit_tabular(json.loads(audit.read_text())[key]))
