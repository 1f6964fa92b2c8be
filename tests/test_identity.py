"""A run's id: what it tells, what it leaves out for ever, and values as they come from
notebooks.
"""

import copy
import inspect
import json
import math
import pickle
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faeval_core import METHODS, RunConfig, Store, audit, run
from faeval_core.config import CHOICES
from faeval_core.models import MODELS
from faeval_core.owncode import is_own
from faeval_core.report.study import Study, seeds
from faeval_core.settings import identity
from faeval_core.settings.values import Options, plain
from faeval_core.training.device import resolve_device

RESULTS = Path(__file__).resolve().parent.parent / "results"
committed = pytest.mark.skipif(
    not (RESULTS / "records").exists(), reason="a copy without the committed records"
)
DEFAULTS = {f.name: f.default for f in fields(RunConfig) if f.default is not MISSING}
ALWAYS_TOLD = {"diagnose", "upstream", "code"}
OWN = [(m.name, option) for m in METHODS.values() if not is_own(m) for option in m.options]
OF_MODELS = [(name, option) for name, m in MODELS.items() if not is_own(m) for option in m.options]

WORDS = {"feedback": ["identity"]}  # of options whose class lists no choices


# -- what ids are reckoned against ----------------------------------------------------------------


@pytest.fixture(scope="module")
def records():
    """(id, config as its record has it) of a committed record of each method and set of fields."""
    raws = [json.loads(p.read_bytes()) for p in sorted(RESULTS.glob("records/*.json"))]
    raws = [r for r in raws if r["config"]["method"] in METHODS]
    kinds = {
        (r["config"]["method"], *sorted(r["config"]), *sorted(r["config"]["options"])): r
        for r in raws
    }
    return [(r["id"], r["config"]) for r in kinds.values()]


def other(value, choices=()):
    """Another value that a default could be changed to."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value / 2 if isinstance(value, float) and value else type(value)(2 * value or 1)
    return next((v for v in choices if v not in (value, "convnet")), "digits")


def test_the_table_names_every_field_and_option():
    assert set(identity.FIELDS) == set(DEFAULTS) - ALWAYS_TOLD
    for known, table in ((METHODS, identity.OPTIONS), (MODELS, identity.MODEL_OPTIONS)):
        for name, owner in known.items():
            if not is_own(owner):
                assert set(owner.options) == set(table.get(name, {})), name


@committed
def test_committed_records_are_read_under_the_ids_they_have():
    store = Store(RESULTS)
    found, _ = store.survey()
    paths = [
        p.stem
        for p in sorted(RESULTS.glob("records/*.json"))
        if p.stem.rpartition("-")[0] in METHODS
    ]
    assert [r.config.id for r in found] == paths and len(paths) >= 389
    assert all(store.get(r.config) == r for r in found[::50])


@pytest.mark.parametrize(
    "name", sorted(set(identity.FIELDS) - {"upstream_epoch"})
)  # which needs a run to start from
def test_a_changed_default_gets_a_new_id_and_old_records_keep_theirs(name, records, monkeypatch):
    old, value = RunConfig("dfa"), other(DEFAULTS[name], CHOICES.get(name, ()))
    old_id = old.id
    init = inspect.unwrap(RunConfig.__init__)
    names = [
        p.name
        for p in inspect.signature(init).parameters.values()
        if p.default is not inspect.Parameter.empty
    ]
    changed = [value if n == name else d for n, d in zip(names, init.__defaults__)]
    monkeypatch.setattr(init, "__defaults__", tuple(changed))
    monkeypatch.setattr(RunConfig.__dataclass_fields__[name], "default", value)
    assert getattr(RunConfig("dfa"), name) == value
    assert RunConfig("dfa").id != old_id == RunConfig("dfa", **{name: getattr(old, name)}).id
    assert RunConfig.from_dict({"method": "dfa"}).id == old_id
    for record_id, config in records:
        assert RunConfig.from_dict(config).id == record_id


@pytest.mark.parametrize("owner, option", [*OWN, *OF_MODELS])
def test_a_changed_option_gets_a_new_id_and_old_records_keep_theirs(
    owner, option, records, monkeypatch
):
    cls, key = (METHODS[owner], "options") if owner in METHODS else (MODELS[owner], "model_options")

    def made(**given):
        named = (
            {"method": owner, "embedding": "init"}
            if owner in METHODS
            else {"method": "dfa", "model": owner, "depth": 3}
        )
        return RunConfig(**named, **({key: given} if given else {}))

    old, value = (
        made(),
        other(cls.options[option], getattr(cls, "choices", {}).get(option, WORDS.get(option, ()))),
    )
    old_id = old.id
    monkeypatch.setattr(cls, "options", cls.options | {option: value})
    assert getattr(made(), key)[option] == value
    assert made().id != old_id == made(**{option: getattr(old, key)[option]}).id
    bare = {k: v for k, v in old.to_dict().items() if k != key}
    assert RunConfig.from_dict(bare).id == old_id
    for record_id, config in records:
        assert RunConfig.from_dict(config).id == record_id


# -- drawn configs --------------------------------------------------------------------------------

SMALL = st.integers(1, 2**40)
# Training makes subnormal numbers zero, for the whole process.
POSITIVE = st.floats(0, 1e6, allow_subnormal=False)
DRAWN = {
    "width": SMALL,
    "depth": SMALL,
    "seed": st.integers(0, 2**70),
    "batch_size": SMALL,
    "lr": POSITIVE,
    "weight_decay": POSITIVE,
    "penalty": POSITIVE,
    "eta": POSITIVE,
    "clip": POSITIVE,
    "augment": st.booleans(),
    "terminal_ln": st.booleans(),
    "dataset": st.text(min_size=1),
    "schedule": st.sampled_from(CHOICES["schedule"]),
    "labels": st.sampled_from(CHOICES["labels"]),
    "credit_norm": st.sampled_from(CHOICES["credit_norm"]),
    "rule": st.sampled_from(CHOICES["rule"]),
    "options": st.fixed_dictionaries({}, optional={"feedback_scale": POSITIVE}),
}
VALUES = st.fixed_dictionaries({}, optional=DRAWN)


@st.composite
def configs(draw):
    values, epochs = draw(VALUES), draw(st.integers(1, 9))
    values |= {"epochs": epochs, "diagnose": draw(st.lists(st.integers(0, epochs)))}
    if draw(st.booleans()):
        up = RunConfig(
            "bp",
            values.get("dataset", "cifar10"),
            epochs=draw(st.integers(1, 5)),
            seed=draw(st.integers(0, 3)),
        )
        values |= {"upstream": up, "upstream_epoch": draw(st.integers(1, up.epochs))}
    return RunConfig(draw(st.sampled_from(["dfa", "fa", "sb"])), **values)


@given(configs())
@settings(max_examples=60, deadline=None)
def test_a_config_survives_json_pickle_and_copies_with_its_id(c):
    for again in (
        RunConfig.from_dict(json.loads(json.dumps(c.to_dict()))),
        RunConfig(**{f.name: getattr(c, f.name) for f in fields(c)}),
        pickle.loads(pickle.dumps(c)),
        copy.deepcopy(c),
        copy.copy(c),
        c.with_(),
    ):
        assert (
            again == c
            and again.id == c.id
            and hash(again) == hash(c)
            and again.signature == c.signature
        )


@given(configs(), configs())
@settings(max_examples=60, deadline=None)
def test_configs_are_equal_where_their_ids_are(a, b):
    assert (a == b) == (a.id == b.id)


@given(configs(), st.sampled_from(sorted(set(DRAWN) - {"dataset"})), st.data())
@settings(max_examples=100, deadline=None)
def test_a_changed_value_is_another_run(c, name, data):
    changed = c.with_(**{name: data.draw(DRAWN[name])})
    assert (getattr(changed, name) == getattr(c, name)) == (changed.id == c.id) == (changed == c)


def numpy_of(value):
    """The same value as numpy's loops and pandas' rows give it."""
    kinds = {bool: np.bool_, int: np.int64, float: np.float64, str: np.str_}
    return kinds[type(value)](value) if type(value) in kinds and value not in ("",) else value


@given(
    st.fixed_dictionaries({k: DRAWN[k] for k in ("width", "lr", "penalty", "augment", "schedule")}),
    st.integers(0, 2**62),
)
@settings(max_examples=40, deadline=None)
def test_numbers_of_numpy_are_numbers(values, seed):
    values |= {
        "seed": seed,
        "options": {"feedback_scale": values["lr"]},
        "diagnose": [3, 1],
        "epochs": 7,
    }
    loose = {k: numpy_of(v) for k, v in values.items()} | {"diagnose": np.array([3, 1])}
    loose["options"] = {"feedback_scale": np.float64(values["lr"])}
    a, b = RunConfig("dfa", **values), RunConfig("dfa", **loose)
    assert a == b and a.id == b.id and json.dumps(a.to_dict()) == json.dumps(b.to_dict())
    assert all(
        type(getattr(b, k)) is type(v)
        for k, v in values.items()
        if k not in ("options", "diagnose")
    )


def test_zero_has_one_sign():
    assert RunConfig("dfa", lr=-0.0).id == RunConfig("dfa", lr=0.0).id
    assert (
        math.copysign(
            1, RunConfig("dfa", options={"feedback_scale": -0.0}).options["feedback_scale"]
        )
        == 1
    )


# -- options --------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(-1e300, 1e300, allow_subnormal=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=3))
@settings(max_examples=60, deadline=None)
def test_options_behave_as_a_dict_that_cannot_be_changed(values):
    found = plain("options", values)
    thawed = RunConfig.from_dict(RunConfig("dfa").to_dict()).to_dict()["options"]
    thawed["new"] = 1  # a copy
    assert (
        isinstance(found, dict)
        and list(found) == list(values)
        and json.loads(json.dumps(found)) == values
    )
    for again in (
        copy.copy(found),
        copy.deepcopy(found),
        pickle.loads(pickle.dumps(found)),
        plain("again", found),
    ):
        assert again == found and type(again) is Options
    assert found | {"x": 1} == dict(found) | {"x": 1}
    for change in (
        lambda: found.__setitem__("x", 1),
        lambda: found.update(x=1),
        lambda: found.setdefault("x", 1),
        found.clear,
        found.popitem,
        lambda: found.pop("x", None),
        lambda: found.__delitem__("x"),
        lambda: found.__ior__({"x": 1}),
    ):
        with pytest.raises(TypeError, match=r"cannot be changed.*with_\(options="):
            change()
    assert json.loads(json.dumps(found)) == values


@pytest.mark.parametrize(
    "bad", [math.nan, math.inf, {1, 2}, {1: 2}, b"x", object(), [math.nan], {"a": {"b": len}}, 1j]
)
def test_what_json_cannot_keep_is_no_option(bad):
    with pytest.raises(ValueError, match="option x must be a finite number, text.*kept as JSON"):
        plain("option x", bad)


# -- values as they come --------------------------------------------------------------------------


class Unregistered(METHODS["dfa"]):
    name = "unregistered"


def refused(call, told):
    with pytest.raises(ValueError, match=told):
        call()


@pytest.mark.parametrize(
    "values, told",
    [
        ({"method": ["bp", "dfa"]}, "method must be one name, not .*a config for each"),
        ({"method": Unregistered}, r"method must be a name, not a class; register\(Unregistered\)"),
        ({"method": None}, "method must be a name, not None"),
        ({"model": 3}, "model must be a name, not 3"),
        ({"model": MODELS["resmlp"]}, "model must be a name, not a class"),
        ({"schedule": ["cosine"]}, "schedule must be one name"),
        ({"dataset": 3}, "dataset must be the name of a dataset, not 3"),
        ({"dataset": ""}, "dataset must be the name"),
        *(
            (
                {"options": v},
                f"options must be a dict of option: value.*feedback_scale.*, not {v!r}",
            )
            for v in (None, 3, "x")
        ),
        ({"options": []}, r"options must be a dict.*not \[\]"),
        ({"model_options": None}, "model_options must be a dict"),
        (
            {"options": {"feedback_scale": (1.0,)}},
            "option feedback_scale of method 'dfa' must be a finite number",
        ),
        *(
            ({"diagnose": v}, f"diagnose must be a list of epochs.*not {v!r}")
            for v in (None, 3, "12")
        ),
        ({"diagnose": (0.5,)}, r"diagnose must be a list of whole numbers, not \[0.5\]"),
        ({"diagnose": [True]}, r"whole numbers, not \[True\]"),
        ({"diagnose": ["1"]}, r"whole numbers, not \['1'\]"),
        (
            {"upstream": {"method": "bp"}, "upstream_epoch": 1},
            "upstream must be a RunConfig or None.*RunConfig.from_dict",
        ),
        ({"upstream": "bp", "upstream_epoch": 1}, "upstream must be a RunConfig or None, not 'bp'"),
        ({"widht": 3}, "unknown run parameter 'widht'; did you mean 'width'"),
        ({"seed": None}, "seed must be a whole number"),
        ({"epochs": np.float64(3)}, "epochs must be a whole number of at least 1, not 3.0"),
        ({"lr": 10**400}, "lr must be a finite"),
        ({"lr": np.float64("nan")}, "lr must be a finite number"),
        ({"seed": [1, 2]}, "seed must be a whole number"),
    ],
)
def test_a_value_of_a_wrong_kind_is_named_with_the_way_out(values, told):
    refused(lambda: RunConfig(**{"method": "dfa", **values}), told)
    if set(values) <= {"widht"}:
        refused(lambda: RunConfig("dfa").with_(**values), told)


RUNS = [
    ((None,), {}, "run needs a list of configs, not None"),
    ((RunConfig("bp"),), {}, r"needs a list of configs, not one; write \[config\]"),
    (([{"method": "bp"}],), {}, "run needs a list of RunConfigs.*from_dict makes one"),
    (("bp",), {}, "a list of configs, not 'bp'"),
    (
        ([RunConfig("bp"), RunConfig("bp")],),
        {},
        r"run names bp-\w+ \(seed 42\) 2 times; one run must not count as several",
    ),
    (([], 3), {}, "store must be a Store or a folder, not 3"),
    (([],), {"device": None}, "device must be auto, cpu or cuda, not None"),
    (([],), {"device": 0}, "device must be auto, cpu or cuda, not 0"),
    *(
        (([],), {"workers": n}, f"workers must be a whole number of at least 1, not {n}")
        for n in (0, -1, 1.5, None)
    ),
]


@pytest.mark.parametrize("args, more, told", RUNS)
def test_run_names_what_it_cannot_run(args, more, told):
    refused(lambda: run(*args, **more), told)


@pytest.mark.parametrize(
    "device, told",
    [(None, "not None"), ("mps", "unknown device 'mps'"), ("", "unknown device ''")],
)
def test_a_device_is_cpu_or_cuda(device, told):
    refused(lambda: resolve_device(device), told)


def test_a_store_may_be_a_folder(tmp_path):
    for folder in (tmp_path / "mine", str(tmp_path / "mine")):
        assert run([RunConfig("bp")], folder, train=False) == [None]
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    "values, told",
    [
        (3, "seeds must be a list of whole numbers.*not 3"),
        ("12", "not '12'"),
        (None, "not None"),
        ([], r"one or more.*not \[\]"),
        ([1, 2, 1], r"each of them once, not \[1, 2, 1\]"),
        ([1, np.int64(1)], r"each of them once"),
        ([1.5], "seed must be a whole"),
    ],
)
def test_seeds_are_whole_numbers_each_of_them_once(values, told):
    refused(lambda: seeds(RunConfig("bp"), values), told)
    refused(lambda: audit("dfa", seeds=values), told)


def test_one_run_never_counts_as_two_in_a_study(tmp_path):
    """Arms may share a run, and then each shows it; within an arm it would be n = 2 of one run."""
    study, c = Study("11_audit", "audit", tmp_path, tmp_path, train=False), RunConfig("bp")
    refused(lambda: study.run({"bp": [c, c.with_()]}), "arm 'bp' names bp-.* 2 times")
    assert study.run({"one": [c], "two": [c]}) == {"one": [], "two": []}
    assert study.rows[c.id]["label"] == "one = two"


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"sedes": [1]}, "keyword of audit 'sedes'; did you mean 'seeds'"),
        ({"seed": 1}, "keyword of audit 'seed'; did you mean 'seeds'"),
        ({"widht": 3}, "did you mean 'width'"),
        ({"code": "x"}, "keyword of audit 'code'"),
        ({"options": None}, "options must be a dict"),
    ],
)
def test_audit_names_a_misspelt_keyword(settings, told):
    refused(lambda: audit("dfa", **settings), told)
    refused(lambda: audit([["dfa"]]), "method must be one name")
