"""A rule of one's own is named by its code and all that it uses; workers use what they are sent."""

import functools
import importlib
import itertools
import linecache
import pickle
import sys
import types
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from conftest import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store import PROCESSES

from faeval_core import METHODS, RunConfig, Store, register, run
from faeval_core.methods import source
from faeval_core.models import MODELS
from faeval_core.models.resmlp import ResMLP
from faeval_core.owncode import Walk, code_digest
from faeval_core.owncode.digests import members
from faeval_core.runs import worker
from faeval_core.runs.parcel import Parcel
from faeval_core.training import DiagnosisFailed, Ensemble

COUNT = itertools.count()


@pytest.fixture(autouse=True)
def known():
    """Methods and models that a test registers are gone after it."""
    before = dict(METHODS), dict(MODELS)
    yield
    for table, entries in zip((METHODS, MODELS), before):
        table.clear()
        table.update(entries)


def defined(text, readable=True, name="drawn_rules", **more):
    """The class Rule of a text, in a namespace of its own; readable: its source is found, as a
    cell's.
    """
    filename = f"<cell {next(COUNT)}>"
    if readable:
        linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
    space = {"__name__": name, **more}
    exec(compile(text, filename, "exec", dont_inherit=True), space)
    return space["Rule"]


TEXT = """
import functools

import numpy as np
import torch

from faeval_core import LocalMethod
{c0}
CONSTANT, TENSOR = {constant}, torch.tensor([{tensor}.0])
TABLE = {{"a": [{table}], "b": {{1, 2, {member}}}}}
ARRAY = np.array([{array}])

class Settings:
    def __init__(self):
        self.gain = {instance}

SETTINGS = Settings()

def deepest(x):
    return x + {deepest}

def helper(x, scale={default}, *, shift={keyword}):
    {d0}
    return deepest(x) * scale{s}+{s}shift

def make(k):
    def closed(x):
        return x * k
    return closed

def decorated(f):
    @functools.wraps(f)
    def wrapper(*args):
        return f(*args) + {wrapper}
    return wrapper

@functools.cache
def cached(x):
    return x + {cached}

@torch.no_grad()
def without(x):
    return x + {without}

closed, partial = make({closure}), functools.partial(helper, scale={partial})

class Parent(LocalMethod):
    gain = {attribute}
    options = {{"strength": {option}.0}}

    def lift(self, x):
        {c1}
        return x + {parent}

class Rule(Parent):
    {d1}
    name = "drawn"

    @staticmethod
    def still(x{a}):
        return x + {static}

    @property
    def half(self){r}:
        return {property}

    @decorated
    def outer(self):
        return {inner}
{c2}
    def credit(self, p, s, hs, logits, y):
        {d2}
        def local(x):
            {c3}
            return helper(x) + {local} + CONSTANT
        x = closed(partial(1)) + len(TABLE) + TENSOR + ARRAY[0]
        x = x + SETTINGS.gain + cached(2) + without(3)
        scaled = [(lambda h: h * {lambda_})(local(x)) for _ in hs]
        return scaled if super().lift(x) else [self.half]
"""
VALUES = (
    "constant tensor table member array instance deepest default keyword wrapper cached "
    "without closure partial attribute option "
    "parent static property inner local lambda_"
).split()
PLAIN = (
    dict.fromkeys(("c0", "c1", "c2", "c3", "a", "r"), "")
    | dict.fromkeys(("d0", "d1", "d2"), "pass")
    | {"s": " "}
)
SLOTS = {name: 10 + i for i, name in enumerate(VALUES)}


def test_the_digest_knows_all_its_slots():
    assert all(f"{{{name}}}" in TEXT for name in VALUES)


@given(st.sampled_from(VALUES), st.integers(100, 10**6), st.booleans())
@settings(max_examples=100, deadline=None)
def test_an_edit_of_anything_a_rule_uses_is_another_rule(name, value, readable):
    text = TEXT.format(**PLAIN, **SLOTS)
    edited = TEXT.format(**PLAIN, **SLOTS | {name: value})
    was, same, now = (code_digest(defined(t, readable)) for t in (text, text, edited))
    assert was == same != now


COMMENTS = st.text(st.characters(codec="ascii", exclude_characters="\n\r\0\x0c\\"), max_size=20)
DOCSTRINGS = st.sampled_from(['"""What it does."""', "'other'", "pass", '"""Two\n    lines."""'])


@given(
    st.lists(COMMENTS, min_size=4, max_size=4),
    st.lists(DOCSTRINGS, min_size=3, max_size=3),
    st.sampled_from(["", " ", "   "]),
)
@settings(max_examples=60, deadline=None)
def test_comments_layout_docstrings_and_annotations_are_no_other_rule(comments, docstrings, space):
    layout = {f"c{i}": f"# {c}\n\n" + " " * 12 + f"# {c}" for i, c in enumerate(comments)}
    layout |= {f"d{i}": f"{d}; pass" for i, d in enumerate(docstrings)} | {
        "s": space,
        "a": ": int",
        "r": " -> int",
    }
    plain, dressed = defined(TEXT.format(**PLAIN, **SLOTS)), defined(TEXT.format(**layout, **SLOTS))
    assert code_digest(plain) == code_digest(dressed)


def test_a_global_is_told_by_its_value_when_a_config_is_made():
    """The class stays; what it reads has changed, and so has the run."""
    rule = register(defined(TEXT.format(**PLAIN, **SLOTS)))
    space = rule.credit.__globals__
    first = tiny("drawn")
    space["CONSTANT"] = 99
    changed = tiny("drawn")
    space["CONSTANT"] = SLOTS["constant"]
    assert first != changed and first.id != changed.id and tiny("drawn") == first
    space["unrelated"] = 1
    assert (
        tiny("drawn").id == first.id
    )  # nor do other globals of a notebook count, attributes' names among them
    space["half"] = space["gain"] = space["strength"] = 3
    assert tiny("drawn").id == first.id


def test_a_file_edited_under_the_code_in_memory_does_not_speak_for_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path, texts = (
        tmp_path / "edited_under.py",
        [TEXT.format(**PLAIN, **SLOTS | {"parent": n}) for n in (1, 2, 3)],
    )
    path.write_text(texts[0])
    module = importlib.import_module("edited_under")
    first = code_digest(module.Rule)
    path.write_text(texts[1] + "\n# longer")
    assert code_digest(module.Rule) == first  # as it was when it was first seen
    importlib.reload(module)
    second = code_digest(module.Rule)
    assert second != first
    importlib.reload(module)
    assert code_digest(module.Rule) == second
    path.write_text(texts[2] + "\n# and longer")
    importlib.reload(module)
    path.write_text(texts[0])  # before anybody has asked
    third = code_digest(module.Rule)
    assert third not in (first, second)
    del sys.modules["edited_under"]


def test_a_cell_of_a_notebook_is_read():
    """By IPython, where a class has functions with a source, and no source of its own."""
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    cell = (
        "class Rule(LocalMethod):\n    name = 'drawn'\n    def credit(self, p, s, hs, "
        "logits, y):\n        return {}  # {}"
    )
    found = []
    for value, comment in ((1, "a"), (1, "b"), (2, "a")):
        shell.run_cell("from faeval_core import LocalMethod")
        shell.run_cell(cell.format(value, comment)).raise_error()
        found.append(code_digest(register(shell.user_ns["Rule"])))
    assert found[0] == found[1] != found[2] == source("drawn")


KERNEL = """
from faeval_core import LocalMethod, RunConfig, register, run

@register
class Mine(LocalMethod):
    name = "mine"

    def credit(self, p, s, hs, logits, y):
        return [{sign} * self.exact_credit(p, hs, y, l) for l in range(len(hs))]

[record] = run([RunConfig("mine", "digits", width=8, depth=2, epochs=1)], {store!r}, progress=False)
print(record.config.id, record.checksum)
"""


def test_a_cell_that_is_edited_in_a_kernel_gives_the_record_of_what_it_says(tmp_path):
    """A class of a kernel has no file; run once more as it was first, the cell has its first record
    again.
    """
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    cells = [KERNEL.format(sign=sign, store=str(tmp_path / "store")) for sign in (1, -1, 1)]
    notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)])
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=None).execute()
    printed = [[o.text for o in c.outputs if o.get("name") == "stdout"] for c in notebook.cells]
    exact, negative, again = (line for [line] in printed)
    assert exact == again and not set(exact.split()) & set(negative.split())


def test_faevals_own_rules_have_none():
    for cls in (*METHODS.values(), *MODELS.values()):
        assert code_digest(cls) == ""
    assert RunConfig("dfa").code == "" and "code" not in RunConfig("dfa").to_dict()


def test_a_model_of_ones_own_is_told_too():
    def mine(gain):
        return type("Mine", (ResMLP,), {"gain": gain, "__module__": __name__})

    found = []
    for gain in (1, 1, 2):
        MODELS["mine"] = mine(gain)
        found.append(RunConfig("bp", model="mine"))
    assert found[0].id == found[1].id != found[2].id and len({c.code for c in found}) == 2


@pytest.mark.parametrize(
    "a, b",
    [
        (1, 1.0),
        (1, True),
        ("1", 1),
        ([1, 2], (1, 2)),
        ([1, 2], [2, 1]),
        ({"a": 1}, {"a": 2}),
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(2), torch.zeros(2).double()),
        (torch.tensor(0.0), torch.tensor(-0.0)),
        (np.arange(3), np.arange(3.0)),
        (np.int64(3), np.int32(3)),
        (torch.float32, torch.float64),
        (functools.partial(max, 1), functools.partial(max, 2)),
        (functools.partial(max), functools.partial(min)),
        (types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
        (range(3), range(4)),
        ([1].append, [2].append),
        (torch.relu, torch.sigmoid),
        (slice(1), slice(2)),
        (None, False),
        (torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
        (torch.nn.Linear, torch.nn.Conv2d),
        (torch.nn.ReLU(), torch.nn.GELU()),
        (np.zeros(2, object), np.ones(2, object)),
    ],
)
def test_values_that_differ_are_told_apart(a, b):
    assert Walk().of(a) != Walk().of(b) and Walk().of(a) == Walk().of(a)


@given(st.lists(st.text(), unique=True))
@settings(max_examples=30, deadline=None)
def test_sets_have_no_order_and_lists_may_hold_themselves(words):
    assert Walk().of(set(words)) == Walk().of(set(reversed(words))) == Walk().of(set(words) | set())
    looped = [words]
    looped.append(looped)
    assert Walk().of(looped) == Walk().of(looped)


SHARING = """
from faeval_core import LocalMethod

def even(n, names={names}):
    return n == 0 or odd(n - 1)

def odd(n):
    return n != 0 and even(n - 1) or third(n)

def third(n):
    return even(n) and odd(n)

PARTS = {parts}

class Rule(LocalMethod):
    name = "sharing"

    def credit(self, p, s, hs, logits, y):
        return [h * len(PARTS) * LIMIT for h in hs]

LIMIT = {limit}
"""


@pytest.mark.parametrize("limit, same", [(1, True), (2, False)])
def test_functions_of_a_set_are_told_alike_in_any_order(limit, same):
    """Python's order of a set of functions is another in every process."""
    orders = ["{even, odd, third}", "{third, odd, even}", "{odd, third, even}"]
    values = [dict(parts=p, names="()", limit=1) for p in orders]
    plain, *others = [code_digest(defined(SHARING.format(**v))) for v in values]
    assert others == [plain, plain]

    class InOrder(frozenset):
        backwards = False

        def __iter__(self):
            parts = frozenset.__iter__(self)
            return iter(sorted(parts, key=lambda f: f.__name__, reverse=self.backwards))

    space = defined(SHARING.format(parts="None", names="()", limit=limit)).credit.__globals__
    parts = InOrder(space[name] for name in ("even", "odd", "third"))
    forwards = members(parts, Walk({"drawn_rules"}).apart)
    InOrder.backwards = True
    assert members(parts, Walk({"drawn_rules"}).apart) == forwards
    changed = code_digest(defined(SHARING.format(parts=orders[0], names="()", limit=limit)))
    assert (changed == plain) == same


LOOKING = """
from faeval_core import METHODS, LocalMethod

class Rule(LocalMethod):
    name = "looking"

    def credit(self, p, s, hs, logits, y):
        return METHODS["signed"].credit(self, p, s, hs, logits, y)
"""


def one_worker():
    """A pool of one process with as many threads as this one, so that checksums can be compared."""
    return ProcessPoolExecutor(1, PROCESSES, torch.set_num_threads, (torch.get_num_threads(),))


def test_a_rule_that_looks_another_up_is_told_by_it_and_takes_it_along(store, tmp_path, home):
    """METHODS holds what has been registered here; of it, what is the user's own tells."""
    pytest.importorskip("cloudpickle")
    signed(1, name="__main__")
    rule = register(defined(LOOKING, name="__main__"))
    first = code_digest(rule)
    signed(-1, name="__main__")
    second = code_digest(rule)
    signed(1, name="__main__")
    assert first == code_digest(rule) != second
    (alone,) = run([tiny("looking")], Store(tmp_path / "alone"), progress=False)
    with one_worker() as pool:
        (sent,) = run([tiny("looking")], store, progress=False, executor=pool)
    assert sent.checksum == alone.checksum


# -- runs of rules that change --------------------------------------------------------------------

SIGNED = """
from faeval_core import LocalMethod

SIGN = {sign}

def signed(a):
    return SIGN * a

class Rule(LocalMethod):
    name = "signed"

    def credit(self, p, s, hs, logits, y):
        return [signed(self.exact_credit(p, hs, y, l)) for l in range(len(hs))]
"""


def signed(sign, name="drawn_rules"):
    return register(defined(SIGNED.format(sign=sign), name=name))


def test_an_edited_rule_trains_and_each_has_its_record(store):
    found = []
    for sign in (1, -1, 1):
        signed(sign)
        found += run([tiny("signed")], store, progress=False)
    assert found[0] == found[2] and found[0].checksum != found[1].checksum
    assert found[0].curves["train_loss"][-1] < found[1].curves["train_loss"][-1]
    assert len(list(store.root.glob("records/signed-*.json"))) == 2
    kept, left = store.survey()
    assert kept == found[:1] and left == {"of other code than their method or model has here": 1}
    with pytest.warns(UserWarning, match="left out: 1 of other code than"):
        assert store.all() == kept


@pytest.mark.parametrize("kind", [tuple, list, lambda values: np.array([*values])[0]])
def test_options_of_any_plain_kind_are_kept_and_read_again(store, kind):
    """JSON has lists alone; the run is the same, however its options were written."""
    rule = signed(1)
    rule.options = {"taps": kind((1, 2))}
    (made,) = run([tiny("signed", options={"taps": kind((2, 3))})], store, progress=False)
    (found,) = Store(store.root).all()
    assert found == made and found.config.options["taps"] in ((2, 3), 2)
    with pytest.raises(TypeError, match="cannot be changed"):
        found.config.options["taps"] = kind((1, 2))


def test_a_config_of_a_rule_that_has_changed_is_refused(store):
    """Else the cell that runs it again would show the record of the old rule."""
    signed(1)
    old = tiny("signed")
    run([old], store, progress=False)
    signed(-1)
    for train in (True, False):
        with pytest.raises(
            ValueError, match=f"run {old.id} is of code {old.code}.*make the config anew"
        ):
            run([old], store, train=train)
    assert store.get(old).config == old  # the record can be read, by its own config
    assert run([old.with_()], store, train=False) == [None]


def test_neither_checkpoint_nor_snapshot_nor_upstream_is_of_an_edited_rule(store, monkeypatch):
    real, begun = worker.Ensemble.run_epoch, []

    def epoch(self):
        begun.append((self.configs[0].method, self.epoch))
        if begun == [("signed", 0), ("signed", 1)]:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(worker, "CHECKPOINT_SECONDS", -1)
    monkeypatch.setattr(worker.Ensemble, "run_epoch", epoch)

    def started():
        return tiny("bp", upstream=tiny("signed"), upstream_epoch=2)

    signed(1)
    with pytest.raises(KeyboardInterrupt):
        run([started()], store, progress=False)
    signed(-1)
    first = run([started()], store, progress=False)
    assert begun[2:] == [
        ("signed", 0),
        ("signed", 1),
        ("bp", 0),
        ("bp", 1),
    ]  # not from the old rule's checkpoint
    signed(1)
    second = run([started()], store, progress=False)
    assert begun[6:] == [("signed", 1), ("bp", 0), ("bp", 1)]  # from its own
    assert first[0].config != second[0].config and first[0].checksum != second[0].checksum


MEASURING = (
    "import torch\n"
    + SIGNED
    + """
    def init_state(self, cfg, generator):
        return {{"steps": torch.zeros(())}}

    def auxiliary(self, p, s, hs, logits, y):
        return 0.0, {{"steps": s["steps"] + 1}}

    def measured(self, p, s, hs, gs, y, generator):
        if s["steps"] > 10:  # so that the trial before training does not find it
            {measured}
        return {{"mine": [1.0] * len(hs)}}
"""
)


def measuring(measured, sign=1):
    text = MEASURING.format(sign=sign, measured=measured)
    return register(defined(text, name="drawn_rules"))


def test_a_mended_diagnosis_of_ones_own_rule_costs_no_training(store, tmp_path, monkeypatch):
    """It is another rule, with a record of its own, and goes on from the weights that are kept; one
    that trains in another way does not, nor one that would take figures of the old diagnosis along.
    """
    real, begun = Ensemble.run_epoch, []
    monkeypatch.setattr(Ensemble, "run_epoch", lambda self: begun.append(self.epoch) or real(self))
    measuring("raise ArithmeticError")
    broken = tiny("signed")
    with pytest.raises(DiagnosisFailed):
        run([broken], store, progress=False)
    measuring("pass")
    mended = tiny("signed")
    assert mended.id != broken.id and begun == [0, 1]
    (found,) = run([mended], store, progress=False)
    assert begun == [0, 1] and found.final["mine"] == [1.0] * 4
    (whole,) = run([mended], Store(tmp_path / "whole"), progress=False)
    assert found.checksum == whole.checksum and begun == [0, 1] * 2
    measuring("pass", sign=-1)
    run([tiny("signed")], store, progress=False)
    assert begun == [0, 1] * 3

    measuring("raise ArithmeticError")
    with pytest.raises(DiagnosisFailed):
        run([tiny("signed", diagnose=(0,))], store, progress=False)
    measuring("return {}")
    (found,) = run([tiny("signed", diagnose=(0,))], store, progress=False)
    assert begun == [0, 1] * 5 and found.status == "complete"


# -- records from before rules were told by their code --------------------------------------------


def test_an_older_record_counts_for_the_rule_that_is_vouched_for_and_no_other(store):
    signed(1)
    now = tiny("signed")
    (made,) = run([now], store, progress=False)
    old = RunConfig.from_dict({k: v for k, v in now.to_dict().items() if k != "code"})
    made.config = old
    store.put(made)
    store.record_path(now).unlink()
    assert old.code == "" and old.id != now.id and store.get(old) == made
    with pytest.warns(
        UserWarning,
        match=f"{old.id} in .* names? the code|{old.id}.*before records named the code.*adopt",
    ):
        assert run([now], store, train=False) == [None]
    store.adopt([now])
    (found,) = run([now], store, train=False)
    assert found.config == now and found.curves == made.curves
    assert store.survey() == ([found], {}) and store.get(old) == made
    signed(-1)
    with pytest.warns(UserWarning, match="before records named the code"):
        assert run([tiny("signed")], store, train=False) == [None]
    with pytest.raises(ValueError, match="no record .* to vouch for"):
        store.adopt([tiny("signed", seed=9)])
    with pytest.raises(ValueError, match=r"is of code \(none named\)"):
        run([old.with_(seed=3, code="")], store)


# -- workers --------------------------------------------------------------------------------------


def test_a_worker_that_lives_long_uses_the_rule_it_is_sent(store, tmp_path, home):
    """One process trains two rules of one name, neither of which it could import."""
    pytest.importorskip("cloudpickle")
    alone = []
    with one_worker() as pool:
        for sign in (1, -1):
            signed(sign, name="__main__")
            configs = [tiny("signed"), tiny("bp", upstream=tiny("signed"), upstream_epoch=1)]
            alone += run(configs, Store(tmp_path / "alone"), progress=False)
            found = run(configs, store, progress=False, executor=pool)
            assert [r.config for r in found] == configs
            assert [r.checksum for r in found] == [r.checksum for r in alone[-2:]]
    assert alone[0].checksum != alone[2].checksum


def test_a_module_that_has_changed_since_the_worker_imported_it_is_sent_anew(
    store, tmp_path, monkeypatch
):
    """By value, with its helpers, to where the rule of before is known (here, this process)."""
    pytest.importorskip("cloudpickle")
    monkeypatch.syspath_prepend(tmp_path)
    rules = []
    for sign in (1, -1):
        (tmp_path / "sent_rule.py").write_text(SIGNED.format(sign=sign) + "# longer" * (sign < 0))
        sys.modules.pop("sent_rule", None)
        importlib.invalidate_caches()
        rules.append(register(importlib.import_module("sent_rule").Rule))
    old, new = rules
    # by way of a scheduler
    sent = pickle.dumps(pickle.loads(pickle.dumps(Parcel([tiny("signed")]))))
    register(old)
    pickle.loads(sent).open()
    assert METHODS["signed"] is not old and source("signed") == code_digest(new) != code_digest(old)
    del sys.modules["sent_rule"]


def test_a_worker_with_another_rule_says_so(monkeypatch):
    """Where classes go by name, a worker may have other ones under it."""
    signed(1)
    parcel, other = Parcel([tiny("signed")]), signed(-1)
    arrived = Parcel([tiny("signed")])
    arrived.configs, arrived.ids = parcel.configs, parcel.ids
    arrived.packed = b"what has come"
    monkeypatch.setattr(
        "faeval_core.runs.parcel.unpacked", lambda content: [other, MODELS["resmlp"]]
    )
    with pytest.raises(
        ValueError, match="is of code .* is now other code.*on this worker; restart it"
    ):
        arrived.open()


def test_a_rule_that_cannot_be_sent_says_why(store, monkeypatch):
    signed(1, name="__main__")
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(
        ValueError,
        match=(
            "Rule cannot be sent to a worker by value: cloudpickle is not installed.*put it "
            "into a file"
        ),
    ):
        pickle.dumps(Parcel([tiny("signed")]))
    with ProcessPoolExecutor(1, PROCESSES) as pool:
        with pytest.raises(ValueError, match="pip install cloudpickle"):
            run([tiny("signed"), tiny("bp")], store, progress=False, executor=pool)
    assert not list(store.root.glob("records/*"))  # nothing is trained before it is told
    monkeypatch.undo()
    locked = defined(SIGNED.format(sign="__import__('threading').Lock()"), name="__main__")
    register(locked)
    with pytest.raises(ValueError, match="cannot be sent to a worker by value: TypeError.*lock"):
        pickle.dumps(Parcel([tiny("signed")]))


def test_in_this_process_the_class_is_itself():
    """Not a copy, whose globals would no longer be the notebook's."""
    rule = signed(1)
    Parcel([tiny("signed")]).open()
    assert METHODS["signed"] is rule
