"""What the command line prints, and on what: messages of one line, columns, any terminal."""

import codecs
import os
import sys

# What is printed where the terminal cannot show it, as under LC_ALL=C.
ASCII = {
    "±": "+-",
    "×": "x",
    "‖": "||",
    "—": "-",
    "–": "-",
    "…": "...",
    "Γ": "Gamma",
    "ρ": "rho",
    "δ": "delta",
    "λ": "lambda",
}


def tell(kind, message) -> int:
    print(f"faeval: {kind}: {' '.join(str(message).split())}", file=sys.stderr)
    return 2


def prepare_streams() -> None:
    """Let everything be printed: into nothing where a stream is closed, in ASCII where it holds no
    more.
    """

    def replacement(error):
        rest = error.object[error.start : error.end]
        return "".join(ASCII.get(letter, "?") for letter in rest), error.end

    codecs.register_error("faeval", replacement)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="faeval")


def show(rows) -> None:
    """Print rows as columns, the first of them being the header."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows)]
    for row in rows:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())
