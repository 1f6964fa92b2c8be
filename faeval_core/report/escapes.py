"""Text of ours as LaTeX."""

import re

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
MINUS = r"(?<![\w.)])-(?=\d)"  # that of a negative number: no hyphen between words or numbers
FORMULA = rf"{NORM}|[{''.join(GREEK)}]{INDEX}|(?:{MINUS})?{POWER}|{MINUS}"
SPECIAL = re.compile(f"{FORMULA}|[{re.escape(''.join(ESCAPES))}]")


def escape(text: str) -> str:
    """LaTeX of plain text as notebooks print it: norms, Greek letters and powers of ten become
    formulas.

    Nothing in the text is a command to LaTeX; white space of any kind becomes one space, and
    control characters are dropped.
    """

    def latex(match):
        if match[0] in ESCAPES:
            return ESCAPES[match[0]]
        if match[0] == "-":
            return r"\(-\)"
        if match[0].lstrip("-")[0] not in "0123456789":
            return rf"\({match[0].translate(SYMBOLS)}\)"
        mantissa, exponent = match[0].split("e")
        sign, size = ("-", mantissa[1:]) if mantissa[0] == "-" else ("", mantissa)
        factor = "" if size == "1" else rf"{size}\!\times\!"
        return rf"\({sign}{factor}10^{{{int(exponent)}}}\)"

    shown = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return SPECIAL.sub(latex, shown)


def macro_name(*words) -> str:
    """A LaTeX command name from words: letters only, digits spelt."""
    digits = "Zero One Two Three Four Five Six Seven Eight Nine".split()
    text = "".join(
        w[:1].upper() + w[1:] for word in words for w in re.split(r"[^A-Za-z0-9]+", word)
    )
    return re.sub(r"\d", lambda digit: digits[int(digit[0])], text)
