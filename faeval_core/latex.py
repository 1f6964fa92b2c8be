"""The paper's generated part: macros and tables made from results, so that no number is typed."""

import json
import re
from pathlib import Path

from .figures import title
from .files import publish
from .tables import magnitude, pm

ESCAPES = {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "—": "---", "±": r"\(\pm\)", "×": r"\(\times\)", "′": "'"}
SYMBOLS = {"‖": r"\|", "Γ": r"\Gamma ", "ρ": r"\rho ", "λ": r"\lambda ", "δ": r"\delta "}
FORMULA = re.compile(r"‖[^‖]+‖|[Γρλδ](?:_\w+)?|\d+(?:\.\d+)?e[+-]?\d+")  # norms, Greek letters, powers of ten


def escape(text: str) -> str:
    """LaTeX of plain text as notebooks print it: norms, Greek letters and powers of ten become formulas."""
    out, start = [], 0
    for match in FORMULA.finditer(text):
        out.append("".join(ESCAPES.get(ch, ch) for ch in text[start : match.start()]))
        atom, start = match[0], match.end()
        if atom[0].isdigit():
            mantissa, exponent = atom.split("e")
            atom = ("" if mantissa == "1" else rf"{mantissa}\!\times\!") + rf"10^{{{int(exponent)}}}"
        out.append(rf"\({''.join(SYMBOLS.get(ch, ch) for ch in atom)}\)")
    return "".join(out) + "".join(ESCAPES.get(ch, ch) for ch in text[start:])


def macro_name(*words) -> str:
    """A LaTeX command name from words: letters only, digits spelt."""
    digits = dict(zip("0123456789", "Zero One Two Three Four Five Six Seven Eight Nine".split()))
    text = "".join(w[:1].upper() + w[1:] for word in words for w in re.split(r"[^A-Za-z0-9]+", str(word)))
    return "".join(digits.get(ch, ch) for ch in text)


def tabular(header: list[str], rows: list[list[str]], columns: str) -> str:
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(header) + r" \\", r"\midrule"]
    return "\n".join(lines + [" & ".join(row) + r" \\" for row in rows] + [r"\bottomrule", r"\end{tabular}", ""])


def audit_tabular(rows) -> str:
    header = "method,$n$,accuracy,deep cos (pub.),exact; hidden,$\\|h_L\\|$,$\\|g_L\\|$,growth,stab.,published,(b$'$)".split(",")
    body = []
    for r in rows:
        fired, n = r["counts"]["b'"]
        published = r["published"].removeprefix("fires ")
        body.append([
            escape(title(r["method"])), str(r["n"]), escape(pm(r["test_acc"])), escape(pm(r["deep_cos_published"], 2)),
            escape(pm(r["deep_cos_hidden"], 2)), escape(magnitude(r["h_norm"])), escape(magnitude(r["g_norm"])),
            escape(pm(r["growth"], 1)), escape(pm(r["stability"], 2)), escape(published), f"{fired}/{n}",
        ])  # fmt: skip
    return tabular(header, body, "lrllllllllr")


def write(results: Path, paper: Path) -> None:
    """Write paper/generated/: table1.tex, claims.tex and macros.tex, from results/<study>/*.json and results/studies/*.json.

    Each study's numbers under "paper" in its JSON become macros \\<Key>; a macro that the text names and no study made
    fails the build, because LaTeX does not know it.
    """
    macros, claims = {}, []
    for path in sorted((results / "studies").glob("*.json")):
        study = json.loads(path.read_text())
        claims += [(study["notebook"], c) for c in study["claims"]]
        for c in study["claims"]:
            macros[macro_name("claim", c["name"])] = c["decided"]
        for key, value in study.get("paper", {}).items():
            macros[macro_name(key)] = value
    made = [rf"\newcommand{{\{k}}}{{{escape(str(v))}}}" for k, v in sorted(macros.items())]
    publish(paper / "generated" / "macros.tex", "\n".join(["% made by faeval_core.latex from results/; do not edit", *made, ""]))
    rows = [[escape(c["statement"]), c["decided"], escape(c["interval"]), n.split("_")[0]] for n, c in claims]
    publish(
        paper / "generated" / "claims.tex",
        tabular(["claim", "decided", "mean [95\\,\\% interval]", "notebook"], rows, r"p{0.46\linewidth}llr"),
    )
    table = results / "protocol_audit" / "audit_table_s42_s123_s456.json"
    if table.exists():
        publish(paper / "generated" / "table1.tex", audit_tabular(json.loads(table.read_text())["rows"]))
