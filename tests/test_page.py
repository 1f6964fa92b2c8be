"""The page of an audit, as a reader opens it: offline, on a phone, on paper, with a hostile name in
it.
"""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from html.parser import HTMLParser

import pytest
from conftest import tiny
from test_protocol import diagnosis
from victims import HANG

from faeval_core.measure.letters import ALL, SPELLED, THRESHOLDS
from faeval_core.report import page, page_charts, svg, tuning
from faeval_core.report.audit import Audit, Audits
from faeval_core.runs.store import RunRecord

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SECONDS = {"seconds": 3.0}
VOID = {"meta", "link"}


def record(method, seed, accuracy, **changes):
    cfg = tiny(method, epochs=3, seed=seed)
    found = diagnosis(**changes) | {
        "credit_cos": [1.0] * 3,
        "update_cos": [0.9] * 5,
        "step_cos": [0.5] * 5,
    }
    curves = {
        "test_acc": [0.2, 0.3, accuracy],
        "train_loss": [2.0, 1.0, 0.5],
        "growth": [1.0] * 3,
        "g_norm": [[1e-3] * 4] * 3,
        "h_norm": [[1.0] * 4] * 3,
    }
    return RunRecord(cfg, "complete", curves, {"3": found}, None, SECONDS)


def audited(label="dfa", **changes):
    """An audit of three seeds of made-up records, in which depth pays."""
    mine = [record("dfa", s, 0.6 + 0.01 * s, **changes) for s in (1, 2, 3)]
    exact = {"gamma": [1.0] * 4, "rescaled": {"gamma": [1.0] * 4}}
    arms = {label: mine}
    for method, accuracy in (("bp", 0.8), ("frozen", 0.3)):
        arms[method] = [record(method, s, accuracy, **exact) for s in (1, 2, 3)]
    return Audit(mine[0].config, arms, label)


class Balance(HTMLParser):
    """What a page holds: the tags that are left open, and every attribute."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_page_is_whole_and_asks_for_nothing():
    text = audited().page()
    found = Balance(text)
    assert found.open == []
    loads = [v for k, v in found.attributes if k in ("src", "href", "srcset", "data", "action")]
    assert loads == ["data:,"]
    assert "url(http" not in text and "@import" not in text and "fetch(" not in text
    policy = next(v for k, v in found.attributes if k == "content" and "default-src" in v)
    assert policy.startswith("default-src 'none'")


HOSTILE = "<script>alert(1)</script>\"'&$body ${title} </style>"


@pytest.mark.parametrize("place", ["label", "dataset", "options"])
def test_nothing_of_the_users_is_a_tag(place, monkeypatch):
    monkeypatch.setattr(page, "compute", lambda records: None)
    found = audited(HOSTILE if place == "label" else "dfa")
    if place == "dataset":
        found.base = found.base.with_(dataset=HOSTILE)
    if place == "options":
        found.base = found.base.with_(options={"feedback_scale": 2.0})
        object.__setattr__(found.base, "options", {HOSTILE: HOSTILE})
    text = found.page()
    assert "<script>alert" not in text and text.count("<script>") == 1
    assert "alert(1)" in unescape(text) and Balance(text).open == []
    assert HOSTILE not in found._repr_html_()


def test_a_page_says_every_line_of_the_verdict_and_every_letter():
    found = audited()
    told = unescape(found.page())
    for line in found.lines:
        assert line in told
    for k in ALL:
        assert f"({k}) {SPELLED[k]}" in told
    assert found.base.id in told and "python -m faeval_core audit dfa" in told


@pytest.mark.parametrize(
    "changes, tone, told",
    [
        ({}, "holds", "dfa holds"),
        ({"growth": 90.0}, "fires", "(a) runaway growth"),
        ({"gamma_copied": [0.1, 0.5, 0.5, 1.0]}, "fires", "no better than broadcast δ_L"),
        ({"stability": None}, "open", "(c) shared gradient direction is undefined"),
    ],
)
def test_the_verdict_is_one_coloured_sentence(changes, tone, told):
    found = audited("dfa", **changes)
    head = page.headline(found)
    assert head[0] == tone and told.lower() in head[1].lower()
    assert f'class="verdict {tone}">{escape(head[1])}' in found.page()


def test_a_letter_without_power_is_said_to_have_none():
    """Where BP's own gradients agree across batches, that ours do tells nothing of the rule."""
    found = audited("dfa", stability=0.9)
    found.arms["bp"] = [record("bp", s, 0.8, stability=0.9) for s in (1, 2, 3)]
    assert set(found.powerless) == {"c"}
    tone, told = page.headline(found)
    assert tone == "open" and "(c) shared gradient direction has no power here" in told
    assert found.lines[0].count("no power here: (c)") == 2
    assert "(c) has no power here: BP itself fires it in 3 of 3 seeds." in found.lines
    assert not any("Withdraw" in line for line in found.lines)


@pytest.mark.parametrize("frozen", [(0.79, 0.79, 0.79), (0.72, 0.76, 0.79)])
def test_depth_has_no_power_where_bp_does_not_use_it(frozen):
    """Nor where its lead is of more than two points on average, and of fewer at the lower end."""
    found = audited()
    found.arms["frozen"] = [record("frozen", s, acc) for s, acc in zip((1, 2, 3), frozen)]
    assert "is not clear of 2 points" in found.powerless["d"]
    assert "d" not in audited().powerless


def test_undefined_levels_are_hatched_with_their_reason():
    gone = {"gamma": [0.5, None, 0.2, 1.0], "undefined": {"gamma": "the credit there is zero"}}
    found = audited("dfa", **gone)
    assert page_charts.gaps(found, "gamma") == [(1, "the credit there is zero")]
    text = found.page()
    assert text.count("undefined: the credit there is zero") == 1 and "url(#gap)" in text
    assert "Γ is undefined at level 1 in 3 of 3 seeds: the credit there is zero." in found.lines
    assert "url(#gap)" not in audited().page()


@pytest.mark.parametrize("log", [False, True])
def test_a_threshold_stands_where_its_value_is(log):
    """Left of it and right of it, on the shaded side or not, as the values are."""
    low, high = svg.around([1e-9, 1e-3], log)
    axis = svg.Axis(low, high, 0, 100, log)
    places = [axis.place(v) for v in (1e-9, 1e-6, 1e-3)]
    assert places == sorted(places) and 0 < places[0] and places[-1] < 100
    assert all(low <= v <= high for v in axis.ticks()) and 2 <= len(axis.ticks()) <= 7
    if log:
        assert places[1] - places[0] == pytest.approx(places[2] - places[1])


@pytest.mark.parametrize("letter, value", [("a", 90.0), ("b", 1e-9), ("c", 0.5), ("d", 0.01)])
def test_a_value_that_fires_lies_on_the_shaded_side(letter, value):
    above = letter in ("a", "c")
    drawn = svg.strip([("r", "#000", [value])], THRESHOLDS[letter], above, "x", letter in "ab")
    shade = re.search(r'<rect x="([\d.]+)" y="4" width="([\d.]+)"', drawn)
    left, width = map(float, shade.groups())
    assert left <= float(re.search(r'<circle cx="([\d.]+)"', drawn)[1]) <= left + width


def test_the_grid_of_learning_rates_is_shown_with_what_was_taken():
    scores = {0.001: [0.5, 0.6], 0.01: [0.7, 0.8], 0.1: [None, 0.9]}
    found = audited()
    chosen = {"dfa": tuning.best(scores)}
    found.rates = tuning.Tuning((0.001, 0.01, 0.1), (7, 77), {"dfa": scores}, chosen)
    text = unescape(found.page())
    assert chosen == {"dfa": 0.01} and "0.750 ± 0.071 ←" in text and "diverged" in text
    assert "--lr 0.001,0.01,0.1 --tuning-seeds 7,77" in text
    assert any("tuned on held-out training images" in line for line in found.lines)


def test_several_audits_make_one_page():
    one, other = audited(), audited("mine")
    text = Audits([one, other]).page()
    assert Balance(text).open == [] and text.count("<section>") == 2
    assert "mine" in text and len(Audits([one, other]).to_frame().loc["resmlp"]) == 4


def test_a_table_is_latex_that_needs_no_package(tmp_path):
    found = audited("a_rule & 100 % δ")
    told = found.to_latex()
    assert told.isascii() and told.startswith(r"\begin{tabular}")
    if not shutil.which("pdflatex"):
        return
    source = "\\documentclass{article}\\begin{document}\n" + told + "\\end{document}\n"
    (tmp_path / "t.tex").write_text(source, encoding="utf-8")
    line = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-800:]


def test_a_frame_holds_numbers_of_each_method():
    frame = audited().to_frame()
    assert list(frame.index) == ["dfa", "bp", "frozen"]
    assert (frame.accuracy_low < frame.accuracy).all()
    assert frame.loc["dfa", "gamma_hidden"] == pytest.approx(0.3)
    assert frame.loc["dfa", "gamma_copied"] == pytest.approx(0.1)


def opened(path, *flags):
    """What headless Chromium says of a page."""
    line = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    line += ["--hide-scrollbars", f"--user-data-dir={path.parent / 'profile'}", *flags]
    done = subprocess.run([*line, path.as_uri()], capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr[-500:]
    return done


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
def test_a_browser_opens_it_without_an_error_or_a_request_and_within_a_phone(tmp_path):
    file = tmp_path / "audit.html"
    probe = """<script>addEventListener("load", () => {
        document.querySelector(".legend button").click();
        const seen = {requests: performance.getEntriesByType("resource").length,
                      off: document.querySelectorAll(".series.off").length,
                      width: document.documentElement.scrollWidth, room: innerWidth};
        document.title = "seen " + JSON.stringify(seen); })</script></body>"""
    file.write_text(audited().page().replace("</body>", probe), encoding="utf-8")
    done = opened(file, "--window-size=390,2000", "--dump-dom")
    assert "CONSOLE" not in done.stderr
    seen = json.loads(unescape(re.search(r"<title>seen (.*?)</title>", done.stdout)[1]))
    assert seen["requests"] == 0 and seen["off"] > 0 and seen["width"] <= seen["room"]
