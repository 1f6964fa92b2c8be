"""The paper's generated part: macros and tables made from results, so that no number is typed."""

import json
import re
from pathlib import Path

from .figures import title
from .files import publish, studies
from .tables import magnitude, pm

ESCAPES = {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "—": "---", "±": r"\(\pm\)", "×": r"\(\times\)", "′": "'"}
SYMBOLS = str.maketrans({"‖": r"\|", "Γ": r"\Gamma ", "ρ": r"\rho ", "λ": r"\lambda ", "δ": r"\delta ", "α": r"\alpha "})
FORMULA = r"‖[^‖]+‖|[Γρλδα](?:_\w+)?|\d+(?:\.\d+)?e[+-]?\d+"  # norms, Greek letters, powers of ten


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


def tabular(header: list[str], rows: list[list[str]], columns: str) -> str:
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(header) + r" \\", r"\midrule"]
    return "\n".join(lines + [" & ".join(row) + r" \\" for row in rows] + [r"\bottomrule", r"\end{tabular}", ""])


def audit_tabular(rows) -> str:
    header = "method,$n$,accuracy,deep cos (pub.),exact; hidden,$\\|h_L\\|$,$\\|g_L\\|$,growth,stab.,published,(b$'$)".split(",")
    body = [
        [
            title(r["method"]), str(r["n"]), pm(r["test_acc"]), pm(r["deep_cos_published"], 2), pm(r["deep_cos_hidden"], 2),
            magnitude(r["h_norm"]), magnitude(r["g_norm"]), pm(r["growth"], 1), pm(r["stability"], 2),
            r["published"].removeprefix("fires "), "/".join(map(str, r["counts"]["b'"])),
        ]
        for r in rows
    ]  # fmt: skip
    return tabular(header, [map(escape, row) for row in body], "lrllllllllr")


def write(results: Path, paper: Path) -> None:
    """Write paper/generated/: table1.tex, claims.tex and macros.tex, from results/<study>/*.json and results/studies/*.json.

    Each study's numbers under "paper" in its JSON become macros \\<Key>; a macro that the text names and no study made
    fails the build, because LaTeX does not know it.
    """
    macros, claims = {}, []
    for notebook, study in studies(results).items():
        for c in study["claims"]:
            macros[macro_name("claim", c["name"])] = c["decided"]
            if c["decided"] != "not run":
                claims.append([escape(c["statement"]), c["decided"], escape(c["interval"]), notebook.split("_")[0]])
        macros |= {macro_name(key): value for key, value in study.get("paper", {}).items()}
    made = [rf"\newcommand{{\{k}}}{{{escape(str(v))}}}" for k, v in sorted(macros.items())]
    header = ["claim", "decided", "mean [95\\,\\% interval]", "notebook"]
    publish(paper / "generated" / "macros.tex", "\n".join(["% made by faeval_core.latex from results/; do not edit", *made, ""]))
    publish(paper / "generated" / "claims.tex", tabular(header, claims, r"p{0.46\linewidth}llr"))
    table = results / "protocol_audit" / "audit_table_s42_s123_s456.json"
    if table.exists():
        publish(paper / "generated" / "table1.tex", audit_tabular(json.loads(table.read_text())["rows"]))
