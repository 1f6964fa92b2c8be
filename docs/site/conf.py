"""The site, by Sphinx: the repository's own pages and executed notebooks, built without a network.

The source folder is the repository itself, so that a link between two of its files is a link of the
site. What no file holds is made here: the table of contents, and the parts of pages that stand
between `<!-- site: NAME -->` and `<!-- end -->`.
"""

import ast
import csv
import html
import inspect
import json
import re
import shutil
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import faeval_core  # noqa: E402

project = "faeval"
copyright = ""
version = release = faeval_core.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["*.md", "reproduce_all.ipynb", "notebooks/*.ipynb"]
include_patterns += ["docs/*.md", "benchmarks/*.md"]
# These folders are not looked into: a virtual environment alone has thousands of files.
exclude_patterns = [".*", "build", "dist", "results", "smoke", "work", "paper", "faeval_core"]

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
default_role = "code"  # what docstrings put between single backticks
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"faeval {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = [("table.js", {"defer": "defer"})]
html_copy_source = html_show_sphinx = html_show_copyright = False
html_show_search_summary = False  # a page opened as a file may not fetch another one
html_math_renderer = "mathml"


# -- mathematics, as the browser draws it itself: no script and no font is loaded

ALIASES = {r"\dots": r"\ldots", "…": r"\ldots "}  # which docutils does not know


def mathml(formula: str, block: bool, node) -> str:
    """A LaTeX formula as MathML; one that cannot be read is a warning that names it."""
    for alias, known in ALIASES.items():
        formula = formula.replace(alias, known)
    try:
        made = latex2mathml.tex2mathml(formula, as_block=block)
        return made.replace("<mo>‖</mo>", '<mo stretchy="false">‖</mo>')  # as high as a letter
    except MathError as fault:
        logging.getLogger(__name__).warning("formula %r: %s", formula, fault, location=node)
        return html.escape(formula)


def inline_formula(writer, node) -> None:
    writer.body.append(mathml(node.astext(), False, node))
    raise nodes.SkipNode


def formula_block(writer, node) -> None:
    writer.body.append(f'<div class="math">{mathml(node.astext(), True, node)}</div>')
    raise nodes.SkipNode


# -- parts of pages, as Markdown

CONTENTS = {  # caption: the pages under it
    "Begin": ("notebooks/00_tour", "docs/audit", "docs/cookbook", "docs/judge", "docs/glossary"),
    "Look up": ("docs/methods", "docs/data", "docs/api"),
    "The study": (
        "docs/findings",
        "docs/reproduction",
        "docs/reproduce",
        "docs/calibration",
        "docs/log",
        "docs/paper",
        "reproduce_all",
    ),
    "Notebooks": ("notebooks/0[1-9]*", "notebooks/1*"),
    "Train more": ("docs/scale", "docs/cost", "docs/engines"),
    "Development": ("docs/architecture", "CONTRIBUTING", "CHANGELOG", "benchmarks/README"),
}
DEEPER = {"docs/calibration": ("benchmarks/calibration",)}
PAPERS = {"main.pdf": "the paper", "supplement.pdf": "its supplement"}
COLUMNS = (
    "study",
    "condition",
    "quantity",
    "study's value",
    "measured here",
    "verdict",
    "notebook",
)


def toctree(pages, caption="") -> str:
    options = [":hidden:", ":glob:", *([f":caption: {caption}"] if caption else [])]
    return "\n".join(["```{toctree}", *options, "", *(f"/{page}" for page in pages), "```"])


def modules() -> str:
    """Every module of the package, with the first sentence of its docstring."""
    lines = ["| module | what it is for |", "|---|---|"]
    for path in sorted((ROOT / "faeval_core").rglob("*.py")):
        told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if told:
            purpose = " ".join(told.partition("\n\n")[0].split()).replace("|", r"\|")
            lines.append(f"| `{name.removesuffix('.__init__')}` | {purpose} |")
    return "\n".join(lines)


def with_sd(value: str, sd: str) -> str:
    """A figure of the reproduction table with its standard deviation over seeds."""
    if not value:
        return "—"
    return f"{float(value):.3g}" + (f" ± {float(sd):.3g}" if sd else "")


def reproduction() -> str:
    """results/reproduction.csv as a table that table.js sorts and filters."""
    with open(ROOT / "results" / "reproduction.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ['<table class="sortable"><thead><tr>', *(f"<th>{name}</th>" for name in COLUMNS)]
    lines.append("</tr></thead><tbody>")
    for row in rows:
        notebook = row["notebook"]
        link = f'<a href="../notebooks/{notebook}.html">{notebook}</a>' if notebook else "—"
        marks = ", calibrated" if row["calibrated"] == "True" else ""
        names = [row[key].replace(",", ", ") for key in ("experiment", "condition", "metric")]
        cells = [html.escape(name).replace("_", "_<wbr>") for name in names]
        cells += [with_sd(row["value"], row["sd"]), with_sd(row["ours"], row["ours_sd"])]
        cells += [row["verdict"] + marks, link]
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return "\n".join([*lines, "</tbody></table>"])


def paper() -> str:
    """Links to what `make paper` has built."""
    built = [name for name in PAPERS if (ROOT / "paper" / name).exists()]
    return " ".join(f"[Read {PAPERS[name]}](../paper/{name})." for name in built)


PARTS = {"modules": modules, "reproduction": reproduction, "paper": paper}
PART = re.compile(r"<!-- site: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


LONG = 12  # lines of code that a page shows at once; more can be opened


def shown(notebook: str) -> str:
    """A notebook as a reader sees it: without the marks that are for its check, and with long code
    folded.
    """
    content = json.loads(notebook)
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell["source"] = [line for line in cell["source"] if "NBVAL_" not in line]
            tags = cell["metadata"].setdefault("tags", [])
            if len(cell["source"]) > LONG and not {"parameters", "hide-input"} & set(tags):
                tags.append("hide-input")
    return json.dumps(content)


def fill(app, docname: str, source: list[str]) -> None:
    """Make the parts of a page, and put the contents under the pages that they hang from."""
    if Path(app.env.doc2path(docname)).suffix == ".ipynb":
        source[0] = shown(source[0])
        return
    source[0] = PART.sub(lambda match: PARTS[match[1]]() or match[2], source[0])
    trees = CONTENTS if docname == root_doc else {}
    hidden = [toctree(pages, caption) for caption, pages in trees.items()]
    hidden += [toctree(DEEPER[docname])] if docname in DEEPER else []
    source[0] = "\n\n".join([source[0], *hidden])


# -- docstrings, which are plain text with code between backticks


def parameters(thing) -> set[str]:
    """The names that lines of a docstring may open with: parameters of a callable, fields of a
    class.
    """
    try:
        return set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        return set()


def escape(text: str) -> str:
    """Text outside of backticks without what Sphinx takes for markup."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts)


def foreign(app, what, name, thing, skip, options) -> bool | None:
    """Leave out what a class has from PyTorch, such as an activation."""
    return (getattr(thing, "__module__", None) or "").startswith("torch") or None


def typeset(app, what, name, thing, options, lines: list[str]) -> None:
    """Lines `name: what it is` of a docstring become a list, one item a parameter."""
    known, out, inside = parameters(thing), [], False
    for line in map(escape, lines):
        opening = re.match(r"(\w+(?:, \w+)*): ", line)
        if opening and set(opening[1].split(", ")) <= known:
            out += [] if inside else [""]
            out.append(f"* **{opening[1]}**: {line[opening.end() :]}")
            inside = True
        elif inside and line.strip():
            out.append(f"  {line.strip()}")
        else:
            out.append(line)
            inside = False
    lines[:] = out


def front_page(app, fault) -> None:
    """The README is also the page that a folder's address opens."""
    if not fault:
        shutil.copyfile(Path(app.outdir, "README.html"), Path(app.outdir, "index.html"))


def setup(app) -> dict:
    app.add_html_math_renderer("mathml", (inline_formula, None), (formula_block, None))
    app.connect("source-read", fill)
    app.connect("autodoc-skip-member", foreign)
    app.connect("autodoc-process-docstring", typeset, priority=400)  # napoleon: 500
    app.connect("build-finished", front_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
