"""Identity of a run, validation, records, and the faults that a store must survive."""

import dataclasses
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
import victims
from conftest import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from victims import HANG

from faeval_core import METHODS, RunConfig, RunRecord, Store, run
from faeval_core.data import datasets
from faeval_core.ground.files import publish, publish_json, publish_tensors
from faeval_core.runs import queue, tensor_files, worker
from faeval_core.runs import store as store_module
from faeval_core.runs.record import RecordRefused, StoreFault, rounded
from faeval_core.training.device import resolve_device

# A server process that has imported everything once and forks the processes that these tests kill.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["faeval_core", "torch._dynamo"])


# -- identity


def test_identity_is_of_the_values_that_differ_from_the_defaults():
    """Spelling out defaults, the order of options and of epochs, and int for float change
    nothing.
    """
    short, told = RunConfig("dfa"), RunConfig(**RunConfig("dfa").to_dict())
    assert short.id == told.id and short == told and hash(short) == hash(told)
    assert RunConfig("dfa", options={"feedback_scale": 1.0}).id == short.id
    assert RunConfig("bp", lr=1, penalty=0).id == RunConfig("bp", lr=1.0).id
    assert RunConfig("bp", diagnose=(5, 1, 5, 100)).id == RunConfig("bp", diagnose=(1, 5)).id
    assert (
        RunConfig.from_dict(json.loads(json.dumps(dict(reversed(short.to_dict().items())))))
        == short
    )
    # as an older record may be, from before a field existed
    partial = {"method": "dfa", "seed": 42}
    assert RunConfig.from_dict(partial) == short


def test_a_record_from_before_a_field_existed_is_still_read(store):
    """A new field keeps the identity of what was run without it, and the checksum is that of the
    text as it was written.
    """
    made = record()
    path = store.put(made)
    raw = json.loads(path.read_text(encoding="utf-8"))
    del raw["config"]["rule"], raw["config"]["model_options"]
    science = {k: v for k, v in raw.items() if k not in ("id", "provenance", "checksum")}
    raw["checksum"] = hashlib.sha256(json.dumps(science, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert store.get(made.config) == made


def test_every_field_changes_the_identity(monkeypatch):
    up = RunConfig("bp", epochs=9)
    changes = {
        "method": "fa",
        "dataset": "digits",
        "width": 8,
        "depth": 2,
        "terminal_ln": False,
        "residual": False,
        "seed": 1,
        "epochs": 5,
        "batch_size": 64,
        "optimizer": "sgd",
        "lr": 0.1,
        "weight_decay": 0.0,
        "momentum": 0.5,
        "schedule": "constant",
        "augment": False,
        "labels": "random",
        "embedding": "init",
        "credit_norm": "batch_rms",
        "norm_embedding": False,
        "credit_level": "input",
        "precision": "bf16",
        "penalty": 0.1,
        "penalty_h0": 0.1,
        "penalty_reduction": "mean",
        "options": {"feedback_scale": 2.0},
        "diagnose": (1,),
        "upstream": up,
        "upstream_epoch": 1,
        "rule": "cosine",
        "eta": 0.3,
        "clip": 1.0,
        "train_net": False,
        "exploit": True,
        "model": "studentnet",
        "model_options": {"alpha": 0.5},
    }
    assert set(changes) == set(RunConfig("dfa").to_dict())
    made, plain = [RunConfig("dfa")], RunConfig("dfa").id
    for k, v in changes.items():
        extra = (
            {"upstream_epoch": 2}
            if k == "upstream"
            else {"upstream": up}
            if k == "upstream_epoch"
            else {}
        )
        extra |= {"model": "studentnet"} if k == "model_options" else {}
        made.append(RunConfig(**{"method": "dfa", k: v, **extra}))
    made.append(RunConfig("dfa", upstream=up.with_(seed=2), upstream_epoch=1))
    assert len({c.id for c in made}) == len(made) == len(set(made))
    monkeypatch.setattr(METHODS["dfa"], "version", METHODS["dfa"].version + 1)
    assert RunConfig("dfa").id != plain and plain.startswith("dfa-")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"method": "dfaa"}, "unknown method 'dfaa'; did you mean 'dfa'.*bp, cb, dfa"),
        ({"model": "resmpl"}, "unknown model 'resmpl'; did you mean 'resmlp'"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; did you mean 'adamw'.*adamw, sgd"),
        ({"embedding": "exactly"}, "did you mean 'exact'.*exact, init, rule"),
        (
            {"credit_norm": "rms"},
            ("unknown credit_norm 'rms'.*batch_rms, raw, sample_rms, sample_rms_g"),
        ),
        (
            {"options": {"feedback_scal": 2}},
            "option of method 'dfa' 'feedback_scal'; did you mean 'feedback_scale'",
        ),
        (
            {"method": "bp", "options": {"feedback_scale": 2}},
            "option of method 'bp' 'feedback_scale'",
        ),
        ({"lr": -1e-3}, "lr must be a finite number of at least 0, not -0.001"),
        ({"lr": float("nan")}, "lr must be a finite number"),
        ({"penalty": float("inf")}, "penalty must be a finite number"),
        ({"lr": "fast"}, "lr must be .*not 'fast'"),
        ({"weight_decay": True}, "weight_decay must be .*not True"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
        ({"epochs": 2.5}, "epochs must be .*not 2.5"),
        ({"width": "64"}, "width must be .*not '64'"),
        ({"depth": True}, "depth must be .*not True"),
        ({"epochs": 5, "diagnose": (6,)}, r"diagnose names epochs \[6\] outside 0..5"),
        (
            {"upstream": RunConfig("bp", epochs=3), "upstream_epoch": 4},
            "upstream_epoch 4 is outside 1..3",
        ),
        (
            {"method": "frozen", "penalty": 0.1},
            "'frozen' does not train its blocks, so penalty must be 0",
        ),
        (
            {"method": "bp", "credit_norm": "sample_rms"},
            "'bp' has no credit for credit_norm='sample_rms' to change; 'oracle'",
        ),
        (
            {"method": "bp", "norm_embedding": False},
            "'bp' has no credit for norm_embedding=False to change",
        ),
        (
            {"method": "frozen", "embedding": "shared"},
            "'frozen' has no credit for embedding='shared' to change",
        ),
    ],
)
def test_a_wrong_value_is_named_with_the_right_ones(values, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**{"method": "dfa", **values})


def test_a_misspelt_field_or_dataset_is_named(store):
    with pytest.raises(ValueError, match="unknown run parameter 'widht'; did you mean 'width'"):
        RunConfig.from_dict({"method": "bp", "widht": 3})
    with pytest.warns(UserWarning, match="1 runs are left out: .*'blobz'; did you mean 'blobs'"):
        assert run([tiny(dataset="blobz")], store, progress=False) == [None]
    with pytest.raises(ValueError, match="unknown device 'gpu0'; use auto, cpu or cuda"):
        resolve_device("gpu0")


# -- records


def record(loss=0.5, status="complete", **changes):
    curves = {"test_acc": [0.1, 0.2], "train_loss": [loss, 1e-11]}
    return RunRecord(
        tiny("dfa", **changes), status, curves, {"2": {"rho": [None, 1.0]}}, None, {"seconds": 1.0}
    )


def test_record_round_trip(store):
    made = record(upstream=tiny("bp"), upstream_epoch=1, diagnose=(0, 1))
    path = store.put(made)
    found = store.get(made.config)
    assert (
        found == made
        and found.checksum == made.checksum
        and found.accuracy == 0.2
        and store.all() == [made]
    )
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert raw["id"] == made.config.id == path.stem and raw["config"]["width"] == 12
    assert record(status="diverged").accuracy is None
    made.provenance = {"seconds": 99.0}
    # timing is no science
    assert made.checksum == found.checksum and record(loss=0.6).checksum != found.checksum


def test_nan_is_refused_and_rounding_makes_it_undefined(store):
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            store.put(record(loss=bad))
        assert not list(store.root.rglob("*.json*"))
    assert rounded({"a": [math.nan, math.inf, 1 / 3, -1e-11], "b": (1, "x", None)}) == {
        "a": [None, None, 0.3333333, -1e-11],
        "b": [1, "x", None],
    }


def test_a_damaged_record_is_recomputed_with_a_warning(store):
    cfg = tiny("dfa", epochs=1)
    first = run([cfg], store, progress=False)[0]
    path = store.record_path(cfg)
    whole = path.read_text(encoding="utf-8")
    wrong = json.loads(whole)
    wrong["curves"]["test_acc"][0] += 0.01  # one digit, otherwise valid
    run([cfg.with_(seed=9)], store, progress=False)
    nested = "[" * 100_000
    for damage in (
        whole[: len(whole) // 2],
        "",
        "[]",
        "null",
        "{}",
        whole[:-9] + "\xff",
        json.dumps(wrong),
        nested,
        '{"config": ' + nested,
    ):
        path.write_bytes(damage.encode("latin1"))
        with pytest.warns(UserWarning, match="counts as missing") as told:
            again = run([cfg], store, progress=False)[0]
        assert len(told) == 1  # once, however often it is looked for
        assert again.checksum == first.checksum and store.get(cfg).checksum == first.checksum
    path.write_text("{", encoding="utf-8")
    store.record_path(cfg.with_(seed=2)).write_text("{", encoding="utf-8")
    store.record_path(cfg).with_name("mine-1.json").write_text("{", encoding="utf-8")
    left = "these are left out: 1 of methods that are not known here, 2 unreadable, such as dfa-"
    with pytest.warns(UserWarning, match=left) as told:
        assert [r.config.seed for r in store.all()] == [9]
    assert len(told) == 1


def resigned(path, change):
    """A record as another version of faeval could have written it."""
    raw = json.loads(path.read_text())
    change(raw)
    science = {k: v for k, v in raw.items() if k not in ("id", "provenance", "checksum")}
    raw["checksum"] = hashlib.sha256(json.dumps(science, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(raw))
    return path.read_bytes()


@pytest.mark.parametrize(
    "change, told",
    [
        (
            lambda raw: raw["config"].update(colour="red"),
            "does not understand its config .*unknown run parameter 'colour'",
        ),
        (
            lambda raw: raw["config"]["options"].update(depth=3),
            "does not understand its config .*option of method 'dfa' 'depth'",
        ),
        (
            lambda raw: raw["config"].update(labels="noisy"),
            "does not understand its config .*unknown labels 'noisy'",
        ),
        (
            lambda raw: raw.update(energy=[1.0]),
            r"parts that this version of faeval does not know \(energy\)",
        ),
        (
            lambda raw: raw.update(faults=raw.pop("fault")),
            r"parts that this version of faeval does not know \(faults\)",
        ),
        (lambda raw: raw["config"].update(width=13), "it belongs to another config"),
        (
            lambda raw: raw["provenance"].update(dataset_fingerprint="f00"),
            "images of 'blobs' with fingerprint f00, others",
        ),
    ],
)
def test_a_record_of_something_else_is_neither_used_nor_replaced(store, change, told, monkeypatch):
    """Of a newer version, of another config, of other images under the same name."""
    cfg = tiny("dfa", epochs=1)
    run([cfg], store, progress=False)
    path, made = store.record_path(cfg), store.get(cfg)
    kept = resigned(path, change)
    way_out = "use another results folder, or move it away to train it anew"
    monkeypatch.setattr(queue, "_train_wave", None)  # nothing is trained in vain
    for act in (
        lambda: run([cfg], store),
        lambda: store.get(cfg),
        lambda: store.has(cfg),
        lambda: store.put(made),
    ):
        with pytest.raises(
            RecordRefused, match=f"{path.name} is not used, nor replaced: .*{told}.*; {way_out}"
        ):
            act()
    found, left = store.survey()
    assert found == [] and sum(left.values()) == 1 and path.read_bytes() == kept


@pytest.mark.parametrize(
    "name, act",
    [
        ("datasets.json", lambda store, cfg: store.get(cfg)),
        ("rules.json", lambda store, cfg: store.adopt([cfg])),
        ("datasets.json", lambda store, cfg: run([cfg.with_(seed=3)], store, progress=False)),
    ],
)
@pytest.mark.parametrize("content", ["", "{", "[]", "<<<<<<< ours\n{}", "[" * 100_000])
def test_a_damaged_table_of_the_store_is_named(store, name, act, content):
    """And no record is made anew for it."""
    cfg = tiny("dfa", epochs=1)
    run([cfg], store, progress=False)
    (store.root / name).write_text(content)
    with pytest.raises(StoreFault, match=f"{name} is damaged .*restore it"):
        act(store, cfg)


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    """(store, config, bytes of its record, record, path of a checkpoint, its bytes, tensors, meta),
    for flips of bits.
    """
    store, made = Store(tmp_path_factory.mktemp("flips")), record()
    path, tensors = (
        store.checkpoint_path(made.config),
        {"param/a": torch.randn(3), "opt/a": torch.tensor(5.0)},
    )
    progress = {"curves": {"test_acc": [0.25, 0.5]}, "diagnostics": {}, "seconds": 1.5}
    store.save_tensors(path, tensors, {"epoch": 2, "progress": progress})
    meta = store.load_tensors(path)[1]
    return store, made, store.put(made).read_bytes(), path, path.read_bytes(), tensors, meta


@given(st.data())
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore:checkpoint .* is damaged")
def test_no_bit_of_a_checkpoint_flips_unseen(small_files, data):
    """Header or tensors: it is found damaged, or reads as it was saved."""
    store, _, _, path, whole, tensors, meta = small_files
    at = data.draw(st.integers(0, 8 * len(whole) - 1))
    path.write_bytes(flipped(whole, at))
    for only_meta in (True, False):
        found = store.load_tensors(path, only_meta)
        assert found is None or found[1] == meta
    assert found is None or all(torch.equal(found[0][k], v) for k, v in tensors.items())


@given(st.data())
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore:record .* is unreadable")
def test_no_bit_of_a_record_flips_unseen(small_files, data):
    store, made, whole, *_ = small_files
    path = store.record_path(made.config)
    path.write_bytes(flipped(whole, data.draw(st.integers(0, 8 * len(whole) - 1))))
    found = store.get(made.config)
    assert found is None or found.science() == made.science()


def flipped(content, bit):
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


def test_a_checkpoint_from_before_headers_were_covered_is_made_anew_and_a_snapshot_is_not(store):
    tensors = {"a": torch.ones(2)}
    for meta, kept in (({"epoch": 2, "progress": {}}, False), ({"epoch": 2}, True)):
        path = store.snapshot_path(tiny(), 2)
        publish_tensors(path, tensors, meta | {"digest": tensor_files._digest(tensors)})
        with (
            nullcontext()
            if kept
            else pytest.warns(UserWarning, match="is damaged and is made anew")
        ):
            assert (store.load_tensors(path) is not None) == kept


def test_images_are_hashed_once_and_so_is_a_snapshot_that_is_asked_for(store, blobs, monkeypatch):
    hashed = []
    monkeypatch.setattr(datasets, "digest", lambda parts: hashed.append("images") or "0" * 64)
    copy = dataclasses.replace(blobs)
    assert copy.fingerprint == copy.fingerprint and hashed == ["images"]
    path, real = store.snapshot_path(tiny(), 2), tensor_files._digest
    monkeypatch.setattr(
        tensor_files, "_digest", lambda tensors: hashed.append("tensors") or real(tensors)
    )
    assert not store.has_tensors(path)
    store.save_tensors(path, {"a": torch.ones(2)}, {"epoch": 2})
    hashed.clear()
    assert store.has_tensors(path) and store.has_tensors(path) and hashed == ["tensors"]
    content = path.read_bytes()
    publish(path, flipped(content, 8 * len(content) - 1))
    with pytest.warns(UserWarning, match="is damaged"):
        assert not store.has_tensors(path)


def test_datasets_that_are_new_at_the_same_time_are_all_noted(store, blobs, monkeypatch):
    """The first of them writes what it has read once the others have asked for the lock, or have
    written without it.
    """
    publish_json, lock, asked, others = store_module.publish_json, Store.lock, [], threading.Event()

    def came():
        asked.append(None)
        if len(asked) >= 4:
            others.set()

    def noted(self, name, wait=True):
        came()
        return lock(self, name, wait)

    def late(path, value):
        came()
        assert others.wait(HANG)
        return publish_json(path, value)

    monkeypatch.setattr(store_module, "publish_json", late)
    monkeypatch.setattr(Store, "lock", noted)
    several = [dataclasses.replace(blobs, name=f"blobs{i}") for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(store.check_dataset, several))
    assert json.loads((store.root / "datasets.json").read_text(encoding="utf-8")) == {
        d.name: d.fingerprint for d in several
    }


def test_reading_never_trains(store, monkeypatch):
    cfg = tiny("bp", epochs=1)
    assert run([cfg], store, train=False) == [None]
    monkeypatch.setenv("FAEVAL_TRAIN", "0")
    assert run([cfg], store) == [None] and not store.root.exists()
    monkeypatch.delenv("FAEVAL_TRAIN")
    made = run([cfg], store, progress=False)
    monkeypatch.setenv("FAEVAL_TRAIN", "0")
    monkeypatch.setattr(queue, "_train_wave", None)
    assert run([cfg], store) == made


# -- tensors


def test_tensors_round_trip_and_damage_is_seen(store):
    tensors = {"param/a": torch.randn(3, 2), "opt/step": torch.tensor(5.0)}
    path = store.checkpoint_path(tiny())
    assert store.load_tensors(path) is None
    store.save_tensors(path, tensors, {"epoch": 3})
    found, meta = store.load_tensors(path)
    assert store.load_tensors(path, only_meta=True) == ({}, meta)
    assert (
        meta["epoch"] == 3
        and all(torch.equal(found[k], v) for k, v in tensors.items())
        and len(found) == 2
    )
    whole = path.read_bytes()
    for damage in (whole[:-1], whole[:40], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damage)
        with pytest.warns(UserWarning, match="is damaged and is made anew"):
            assert store.load_tensors(path) is None


def interrupt(configs, store, monkeypatch, at):
    """Train with a checkpoint after every epoch until Ctrl-C in epoch `at`."""
    real = worker.Ensemble.run_epoch

    def epoch(self):
        if self.epoch == at:
            raise KeyboardInterrupt
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "CHECKPOINT_SECONDS", -1)
        patch.setattr(worker.Ensemble, "run_epoch", epoch)
        with pytest.raises(KeyboardInterrupt):
            run(configs, store, progress=False)


def test_a_damaged_checkpoint_costs_only_time(store, tmp_path, monkeypatch):
    """One member's checkpoint is cut short: it starts over, the other continues, and both records
    are as ever.
    """
    configs = [tiny("fa", epochs=3, seed=s) for s in (1, 2)]
    whole = run(configs, Store(tmp_path / "whole"), progress=False)
    interrupt(configs, store, monkeypatch, at=2)
    path = store.checkpoint_path(configs[0])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.warns(UserWarning, match="is damaged"):
        found = run(configs, store, progress=False)
    assert [r.checksum for r in found] == [r.checksum for r in whole]


# -- kill -9 and races


def test_publishing_survives_kill_9(tmp_path):
    """Killed before any of the calls on files that it makes, from the first to the last, the file
    is one whole version.
    """
    path, versions = tmp_path / "record.json", [{"i": i, "body": [i] * 1000} for i in range(2)]
    publish_json(path, versions[0])
    for call in itertools.count(1):
        process = PROCESSES.Process(target=victims.publish_until, args=(path, versions[1], call))
        process.start()
        process.join()
        found = json.loads(path.read_bytes())
        assert found in versions
        if process.exitcode == 0:
            break
        assert process.exitcode == -9
        publish_json(path, versions[0])
    assert call > 8 and found == versions[1]  # it opens, writes, flushes, renames and tidies up


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    """A full disk at the flush."""
    path = publish(tmp_path / "a.json", "old")
    monkeypatch.setattr(
        os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        publish(path, "new")
    assert path.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two configs and their records from an uninterrupted run."""
    configs = [tiny("dfa", epochs=3, seed=s) for s in (1, 2)]
    return configs, [
        r.checksum for r in run(configs, Store(tmp_path_factory.mktemp("whole")), progress=False)
    ]


# Files of these two runs appear in this order: 1 the datasets' fingerprints; 2-3 and 4-5
# checkpoints of epochs 1 and 2; 6 weights and 7 record of the first run, 8 and 9 those of the
# second.
@pytest.mark.parametrize(
    "die_before, count",
    [("step", 5), ("step", 17)] + [("replace", n) for n in (1, 2, 3, 5, 6, 7, 8, 9)],
)
def test_training_survives_kill_9(store, home, whole, die_before, count):
    """Killed in a step, or with a file written but not yet in place, the next process gives the
    uninterrupted records.
    """
    configs, wanted = whole
    process = PROCESSES.Process(
        target=victims.train, args=(configs, store.root, home, die_before, count)
    )
    process.start()
    process.join()
    assert process.exitcode == -9
    assert [store.get(c) is not None for c in configs] == [
        die_before == "replace" and count > n for n in (7, 9)
    ]
    # of the first run, until its record is there
    kept = count == 17 if die_before == "step" else 2 < count < 8
    assert store.checkpoint_path(configs[0]).exists() == kept
    assert [r.checksum for r in run(configs, store, progress=False)] == wanted


def test_two_processes_may_race_on_one_key(store, home, whole, tmp_path):
    """Both ask for the same runs at once: both end well, with the same records, and no epoch is
    trained twice.
    """
    configs, wanted = whole
    both, begun = PROCESSES.Barrier(2), tmp_path / "begun"
    racers = [
        PROCESSES.Process(target=victims.race, args=(order, store.root, home, both, begun))
        for order in (configs, configs)
    ]
    for process in racers:
        process.start()
    for process in racers:
        process.join()
        assert process.exitcode == 0
    assert [store.get(c).checksum for c in configs] == wanted
    assert not any(store.checkpoint_path(c).exists() for c in configs)
    members = [
        seed
        for line in begun.read_text(encoding="utf-8").splitlines()
        for seed in json.loads(line.split(" of ")[1])
    ]
    assert sorted(members) == [1] * 3 + [2] * 3
