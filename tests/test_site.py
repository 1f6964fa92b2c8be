"""The site: what its pages are made of, and, where `make site` has built one, every page of it.

`make site` names the folder that it has built in $FAEVAL_SITE; what needs a built site is skipped
without.
"""

import csv
import importlib
import json
import os
import re
import runpy
import shutil
import subprocess
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin
from urllib.request import urlopen

import pytest
from test_readme import FIGURE, is_among
from victims import HANG

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
NOTEBOOKS = [*sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), ROOT / "reproduce_all.ipynb"]
PAGES = [*DOCS, *NOTEBOOKS, *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG"))]
SITE = Path(os.environ.get("FAEVAL_SITE") or "/nowhere").resolve()
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
WIDTHS = (390, 820, 1100, 1440)  # of a telephone, a tablet and two desktops, in pixels
PRIVATE = re.compile(r"\b(?:recipe|floor|arm)s?\b|cop(?:y|ied) (?:of )?δ_L|δ_L copied", re.I)

needs_site = pytest.mark.skipif(not SITE.is_dir(), reason="make site builds it")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# -- what the pages say


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_pages_use_the_words_of_the_glossary(page):
    text = re.sub(r"`[^`]*`", "", page.read_text(encoding="utf-8"))
    assert PRIVATE.findall(text.replace("(The code calls it an *arm*.)", "")) == []


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_pages_open_with_a_title_and_for_whom_they_are(page):
    title, first = page.read_text(encoding="utf-8").split("\n\n")[:2]
    assert re.fullmatch(r"# .+", title) and first.startswith("For ")


def test_each_term_has_one_entry():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^- \*\*(.+?)\*\*", text, re.MULTILINE)
    assert len(terms) > 50 and len(terms) == len(set(terms))


def entries() -> list[tuple[str, str]]:
    """(text, link) of every entry of the log."""
    text = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    return re.findall(r"^- (.+?) \(\[[^]]*\]\((.+?)\)\)\.$", text, re.MULTILINE)


@cache
def figures_in(path: Path) -> frozenset[str]:
    """All figures of a page, or of a notebook's text and outputs."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        told = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        for output in (o for cell in cells for o in cell.get("outputs", ())):
            data = output.get("data", {})
            shown = (output.get("text", ""), data.get("text/plain", ""), data.get("text/html", ""))
            told += ["".join(part) for part in shown]
        text = "\n".join(told)
    return frozenset(FIGURE.findall(text))


@pytest.mark.parametrize("text, link", entries())
def test_the_logs_figures_stand_where_it_links(text, link):
    known = figures_in((ROOT / "docs" / link).resolve())
    assert [f for f in FIGURE.findall(text) if not is_among(f, known)] == []


def test_every_entry_of_the_log_names_its_place():
    text = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    assert len(entries()) == len(re.findall(r"^- ", text, re.MULTILINE)) > 20


def named(kind: str) -> list[str]:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    return re.findall(rf"^\.\. auto{kind}:: (\S+)", text, re.MULTILINE)


def test_the_interface_names_what_there_is():
    for module in named("module"):
        assert importlib.import_module(module).__doc__
    names = [name for kind in ("class", "function", "exception") for name in named(kind)]
    for module, _, name in (full.rpartition(".") for full in names):
        assert getattr(importlib.import_module(module), name).__doc__
    public = importlib.import_module("faeval_core").__all__
    assert {n for n in public if n != "METHODS"} <= {n.rpartition(".")[2] for n in names}


# -- what is made for them


@pytest.fixture(scope="module")
def conf():
    pytest.importorskip("sphinx")
    return runpy.run_path(str(ROOT / "docs" / "site" / "conf.py"))


def test_every_page_is_in_the_contents_once(conf):
    patterns = [p for group in ("CONTENTS", "DEEPER") for v in conf[group].values() for p in v]
    found = [path for p in patterns for path in ROOT.glob(f"{p}.*") if path.suffix[1:] != "csv"]
    assert len(found) == len(set(found)) and set(PAGES) <= set(found)
    assert all(list(ROOT.glob(f"{p}.*")) for p in patterns)


def test_every_part_of_a_page_is_one_that_is_made(conf):
    for page in DOCS:
        text = page.read_text(encoding="utf-8")
        parts = conf["PART"].findall(text)
        assert {name for name, _ in parts} <= set(conf["PARTS"]), page
        assert len(parts) == text.count("<!-- site:"), page


def test_modules_are_listed_with_their_first_sentence(conf):
    rows = dict(re.findall(r"^\| `(\S+)` \| (.+) \|$", conf["modules"](), re.MULTILINE))
    for name in ("faeval_core", "faeval_core.measure.judge", "faeval_core.methods.dfa"):
        told = importlib.import_module(name).__doc__
        assert rows[name] == " ".join(told.partition("\n\n")[0].split())
    sources = {p for p in (ROOT / "faeval_core").rglob("*.py") if p.name != "__init__.py"}
    assert len([n for n in rows if n.count(".")]) >= len(sources)


def test_the_table_has_a_row_for_every_value(conf):
    with open(ROOT / "results" / "reproduction.csv", encoding="utf-8", newline="") as file:
        values = list(csv.DictReader(file))
    rows = re.findall(r"<tr>(<td>.*?)</tr>", conf["reproduction"]())
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in rows]
    assert {len(row) for row in cells} == {len(conf["COLUMNS"])}
    studies = [row[0].replace("<wbr>", "") for row in cells]
    assert studies == [value["experiment"] for value in values]
    assert [row[5].partition(",")[0] for row in cells] == [value["verdict"] for value in values]


def test_the_paper_is_linked_where_it_was_built(conf, tmp_path, monkeypatch):
    monkeypatch.setitem(conf["paper"].__globals__, "ROOT", tmp_path)
    assert conf["paper"]() == ""
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "main.pdf").touch()
    assert conf["paper"]() == "[Read the paper](../paper/main.pdf)."


@pytest.mark.parametrize(
    "figure, shown",
    [
        (("0.945", "0.002"), "0.945 ± 0.002"),
        (("0.00719144", "0.0106186"), "0.00719 ± 0.0106"),
        (("200000000", ""), "2e+08"),
        (("0.5", ""), "0.5"),
        (("", ""), "—"),
    ],
)
def test_figures_of_the_table(conf, figure, shown):
    assert conf["with_sd"](*figure) == shown


@pytest.mark.parametrize(
    "formula, wanted",
    [
        (r"\|h_l\|", '<mo stretchy="false">‖</mo>'),
        (r"l=0,\dots,L-1", "<mi>…</mi>"),
        ("l=0,…,L-1", "<mi>…</mi>"),
    ],
)
def test_formulas_are_mathml(conf, formula, wanted):
    made = conf["mathml"](formula, False, None)
    assert made.startswith("<math") and wanted in made


def documented(conf, thing, text: str) -> str:
    lines = text.splitlines()
    conf["typeset"](None, "function", "faeval_core.f", thing, None, lines)
    return "\n".join(lines)


def test_docstrings_name_parameters_in_a_list(conf):
    def f(x, y, z): ...

    text = "What it does.\n\nx: the first\n    of two lines.\n"
    text += "y, z: of (B, *shape) in `a*b`.\n\nEnd."
    wanted = "What it does.\n\n\n* **x**: the first\n  of two lines.\n"
    wanted += "* **y, z**: of (B, \\*shape) in `a*b`.\n\nEnd."
    assert documented(conf, f, text) == wanted
    assert documented(conf, f, "Note: no parameter\nx_ and |y|.") == (
        "Note: no parameter\nx\\_ and \\|y\\|."
    )


# -- the built site


class Page(HTMLParser):
    """What one page holds: anchors, links to follow, and files that a browser loads by itself."""

    LOADED = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href"}

    def __init__(self, text: str):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[k] for k in ("id", "name") if given.get(k)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        passive = tag == "link" and given.get("rel") in {"index", "search", "next", "prev"}
        if given.get(self.LOADED.get(tag)) and not passive:
            self.loaded.append(given[self.LOADED[tag]])


def pages_of(site: Path) -> dict[str, Page]:
    """Every page by its address in the site."""
    paths = sorted(site.rglob("*.html"))
    texts = {p.relative_to(site).as_posix(): p.read_text(encoding="utf-8") for p in paths}
    return {name: Page(text) for name, text in texts.items() if "_static/" not in name}


def is_outside(address: str) -> bool:
    return bool(re.match(r"(?:https?:)?//", address))


def is_inside(address: str) -> bool:
    return not re.match(r"\w+:|//", address)


def broken(site: Path, pages: dict[str, Page]) -> list[str]:
    """'PAGE: ADDRESS' of links and files that are not there."""
    out = []
    for name, page in pages.items():
        for address in filter(is_inside, page.links + page.loaded):
            target, anchor = urldefrag(urljoin(name, address))
            target = unquote(target.partition("?")[0])
            known = pages[target].anchors if target in pages else ()
            if not (site / target).is_file() or (anchor and unquote(anchor) not in known):
                out.append(f"{name}: {address}")
    return out


def reached(pages: dict[str, Page], start="index.html") -> set[str]:
    found, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name in pages and name not in found:
            found.add(name)
            inside = filter(is_inside, pages[name].links)
            waiting += [unquote(urldefrag(urljoin(name, link))[0]) for link in inside]
    return found


def outside(site: Path, pages: dict[str, Page]) -> list[str]:
    """What a browser would load from elsewhere, by page or style sheet."""
    out = [f"{n}: {a}" for n, page in pages.items() for a in page.loaded if is_outside(a)]
    for sheet in sorted(site.rglob("*.css")):
        text = sheet.read_text(encoding="utf-8")
        addresses = re.findall(r"(?:url\(|@import )\s*[\"']?([^\"')\s]+)", text)
        out += [f"{sheet.name}: {a}" for a in addresses if is_outside(a)]
    return out


def test_the_crawler_finds_what_is_broken_outside_or_lost(tmp_path):
    (tmp_path / "index.html").write_text(
        '<a href="b.html#there">b</a> <a href="b.html#gone">b</a> <a href="c.html">c</a>'
        '<link rel="stylesheet" href="s.css"><script src="https://a.org/x.js"></script>'
        '<a href="https://a.org">a</a>',
        encoding="utf-8",
    )
    (tmp_path / "b.html").write_text('<p id="there"><img src="data:,">', encoding="utf-8")
    (tmp_path / "lost.html").write_text('<img src="no.png">', encoding="utf-8")
    (tmp_path / "s.css").write_text("p { background: url(//a.org/y.png) }", encoding="utf-8")
    pages = pages_of(tmp_path)
    assert broken(tmp_path, pages) == [
        "index.html: b.html#gone",
        "index.html: c.html",
        "lost.html: no.png",
    ]
    assert outside(tmp_path, pages) == ["index.html: https://a.org/x.js", "s.css: //a.org/y.png"]
    assert reached(pages) == {"index.html", "b.html"}


@pytest.fixture(scope="module")
def site():
    return pages_of(SITE)


@needs_site
def test_every_link_and_anchor_of_the_site_leads_somewhere(site):
    assert broken(SITE, site) == []


@needs_site
def test_no_page_asks_for_anything_from_outside(site):
    assert outside(SITE, site) == []


@needs_site
def test_every_page_and_notebook_is_reached_from_the_front_page(site):
    wanted = {Path(name_of(path)).with_suffix(".html").as_posix() for path in PAGES}
    assert wanted | {"README.html"} <= reached(site)


@needs_site
def test_every_page_is_in_the_index_of_the_search():
    index = (SITE / "searchindex.js").read_text(encoding="utf-8")
    names = json.loads(re.search(r'"docnames":(\[.*?\])', index)[1])
    assert {Path(name_of(path)).with_suffix("").as_posix() for path in PAGES} <= set(names)


class Browser:
    """Headless Chromium, spoken to by its DevTools protocol."""

    def __init__(self, profile: Path):
        from websocket import create_connection

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        flags += ["--remote-debugging-port=0", "--no-first-run", f"--user-data-dir={profile}"]
        command = [CHROMIUM, *flags, "about:blank"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        lines = iter(self.process.stderr.readline, "")
        port = next(m[1] for line in lines if (m := re.search(r"ws://[^/]+:(\d+)/", line)))
        with urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            (target,) = [t for t in json.load(answer) if t["type"] == "page"]
        address = target["webSocketDebuggerUrl"]
        self.socket = create_connection(address, timeout=HANG, suppress_origin=True)
        self.sent, self.events = 0, []
        for part in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{part}.enable")

    def send(self, method: str, **params) -> dict:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.sent:
            self.events.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def evaluate(self, expression: str):
        told = self.send("Runtime.evaluate", expression=expression, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def resize(self, width: int) -> None:
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)

    def visit(self, address: str) -> None:
        """Open a page and wait until it has loaded; `events` is of this page alone."""
        self.events.clear()
        self.send("Page.navigate", url=address)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, and exceptions, since the page was opened."""
        kinds = {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}
        told = [e for e in self.events if e.get("method") in kinds]
        quiet = [e for e in told if e["params"].get("type") in {"log", "info", "debug"}]
        return [json.dumps(e["params"]) for e in told if e not in quiet]

    def requests(self) -> list[str]:
        asked = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [e["params"]["request"]["url"] for e in asked]

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip("needs Chromium")
    pytest.importorskip("websocket")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@needs_site
def test_pages_in_a_browser(site, browser):
    """No page complains, asks for what is elsewhere, or is wider than the window."""
    faults = []
    for name in site:
        browser.resize(WIDTHS[0])
        browser.visit((SITE / name).as_uri())
        faults += [f"{name}: {fault}" for fault in browser.complaints()]
        away = [a for a in browser.requests() if not a.startswith((SITE.as_uri(), "data:"))]
        faults += [f"{name} asks for {address}" for address in away]
        for width in WIDTHS:
            browser.resize(width)
            wide = browser.evaluate("document.scrollingElement.scrollWidth")
            faults += [f"{name} is {wide} wide in {width}"] if wide > width else []
    assert "\n".join(faults) == ""


@needs_site
def test_the_search_finds_a_term_without_a_server(browser):
    browser.visit((SITE / "search.html").as_uri() + "?q=broadcast")
    found = "[...document.querySelectorAll('#search-results li a')].map(a => a.href).join()"
    waiting = f"new Promise(done => {{ const look = () => ({found}).includes('glossary') ? "
    assert browser.evaluate(waiting + "done(true) : setTimeout(look, 20); look(); })")
    assert browser.complaints() == []


@needs_site
def test_the_reproduction_table_is_sorted_and_filtered(browser, conf):
    browser.visit((SITE / "docs" / "reproduction.html").as_uri())
    browser.evaluate(
        "const rows = () => [...document.querySelectorAll('.sortable tbody tr')];"
        "const field = document.querySelector('.table-filter input');"
        "const cells = i => rows().filter(r => !r.hidden).map(r => r.cells[i].textContent);"
        "const click = i => document.querySelectorAll('.sortable th')[i].click();"
        "const filter = text => { field.value = text; field.dispatchEvent(new Event('input')); };"
    )

    def column(index):
        return json.loads(browser.evaluate(f"JSON.stringify(cells({index}))"))

    everything = column(3)
    browser.evaluate("filter('11_audit DIFFERS')")
    verdicts, notebooks = column(5), column(6)
    assert verdicts and {v.partition(",")[0] for v in verdicts} == {"differs"}
    assert {*notebooks} == {"11_audit"}
    browser.evaluate("filter('')")
    for sign in (1, -1):  # a second click turns the order
        browser.evaluate("click(3)")
        values = [float(text.split()[0]) for text in column(3) if text != "—"]
        assert values == sorted(values, key=lambda v: sign * v)
    assert len(column(3)) == len(everything)
