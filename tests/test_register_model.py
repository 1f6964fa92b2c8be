"""A model of one's own: registered by name, known by its code, found faulty before it trains."""

import pytest
import torch
from conftest import ROUNDING, SMALL, float64, full, member, tiny

from faeval_core import METHODS, Model, data, preflight, register_model, run
from faeval_core.__main__ import main
from faeval_core.methods.base import RuleError
from faeval_core.models import MODELS
from faeval_core.models.base import Init
from faeval_core.runs.store import Store


class Narrowing(Model):
    """Plain tanh layers, each of half the width before, without LayerNorm and residual add."""

    options = {"gain": 1.0}
    terminal_ln = residual = False
    probe = 256

    def __init__(self, cfg, image_shape, classes):
        super().__init__(cfg, image_shape, classes)
        self.levels = [(self.width // 2**l,) for l in range(self.depth + 1)]

    def init(self, generator):
        new, sizes = Init(generator), self.sizes
        new.uniform("embed", sizes[0], self.features)
        for l in range(self.depth):
            new.uniform(f"blocks.{l}.fc2", sizes[l + 1], sizes[l])
        new.uniform("readout.head", self.classes, sizes[-1])
        return new.p

    def embed(self, p, x, stats=None):
        return self.linear(p, "embed", x.flatten(1))

    def block(self, p, l, h, stats=None):
        gain = self.cfg.model_options["gain"]
        return torch.tanh(gain * self.linear(p, f"blocks.{l}.fc2", h))


@pytest.fixture(autouse=True)
def known():
    """Models that a test registers are gone after it."""
    before = dict(MODELS)
    yield
    MODELS.clear()
    MODELS.update(before)


def narrowing(method="bp", **changes):
    return tiny(method, model="narrowing", **{"width": 16, "depth": 2, "epochs": 1, **changes})


def test_a_registered_model_trains_by_any_method_and_is_measured(store, blobs):
    assert register_model("narrowing", Narrowing) is Narrowing
    configs = [narrowing(name, options=SMALL.get(name, {})) for name in METHODS]
    records = run(configs, store, progress=False)
    assert [r.status for r in records] == ["complete"] * len(METHODS)
    assert [len(r.final["gamma"]) for r in records] == [3] * len(METHODS)
    method, _, p, s = member(narrowing(model_options={"gain": 2.0}))
    with float64():
        found = full(method, p, s, data.Pixels(blobs))
    assert found["gamma"] == pytest.approx([1] * 3, abs=ROUNDING)
    assert min(found["rho"]) > 0.99


def test_a_model_is_known_by_its_code(store):
    register_model("narrowing", Narrowing)
    before = narrowing()
    assert run([before], store, progress=False)[0] is not None and store.has(before)

    class Narrowing2(Narrowing):
        def block(self, p, l, h, stats=None):
            return torch.relu(self.linear(p, f"blocks.{l}.fc2", h))

    register_model("narrowing", Narrowing2)
    assert narrowing().id != before.id and not store.has(narrowing())
    register_model("narrowing", Narrowing)
    assert narrowing().id == before.id and store.has(narrowing())


@pytest.mark.parametrize(
    "name, cls, error, message",
    [
        ("resmlp", Narrowing, ValueError, "'resmlp' belongs to faeval itself; choose another"),
        ("my net", Narrowing, ValueError, "of letters, digits, - and _, not 'my net'"),
        (3, Narrowing, ValueError, "not 3"),
        ("mine", torch.nn.Linear, TypeError, "needs a subclass of Model.*faeval_core.judge"),
        ("mine", Narrowing.block, TypeError, "needs a subclass of Model"),
        ("mine", type("Bare", (Model,), {"embed": 0}), TypeError, "Bare lacks init, block"),
    ],
)
def test_what_cannot_be_registered_is_refused(name, cls, error, message):
    before = dict(MODELS)
    with pytest.raises(error, match=message):
        register_model(name, cls)
    assert MODELS == before


def renamed(self, generator):
    return {k.replace("blocks", "layers"): v for k, v in Narrowing.init(self, generator).items()}


def too_few(self, cfg, image_shape, classes):
    Narrowing.__init__(self, cfg, image_shape, classes)
    self.levels = self.levels[:-1] * 2


@pytest.mark.parametrize(
    "faulty, message",
    [
        ({"init": renamed}, "parameter 'layers.0.fc2.weight'; names begin with embed., blocks.0."),
        (
            {"embed": lambda *a: Narrowing.embed(*a)[:, None]},
            r"shape \(100, 1, 16\) at level 0, whose entry in self.levels says \(16,\)",
        ),
        ({"__init__": too_few}, "of depth 2 has 4 levels; self.levels holds the shape of each"),
        ({"readout": lambda self, p, h: h}, r"logits of shape \(100, 4\), not \(100, 10\)"),
        ({"embed": lambda *a: Narrowing.embed(*a) / 0}, "initial values: h_0 is not finite"),
    ],
)
def test_a_faulty_model_is_named_before_it_trains(faulty, message):
    register_model("narrowing", Narrowing)
    cfg = narrowing(dataset="digits", augment=False)
    register_model("faulty", type("Faulty", (Narrowing,), faulty))
    (found,) = preflight.faults([cfg.with_(model="faulty")]).values()
    assert isinstance(found, RuleError)
    with pytest.raises(RuleError, match=f"model 'faulty'.*{message}"):
        raise found


def test_the_command_line_takes_a_model_from_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(
        "from faeval_core import register_model\n"
        "from faeval_core.models import MODELS\n"
        "class Doubled(MODELS['resmlp']):\n"
        "    def block(self, p, l, h, stats=None):\n"
        "        return 2 * super().block(p, l, h, stats)\n"
        "register_model('doubled', Doubled)\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    line = "run --method dfa --method-file my_model.py --model doubled --dataset digits --width 8"
    line += " --depth 2 --epochs 1 --no-augment"
    assert main(line.split()) == 0 and "complete" in capsys.readouterr().out
    (record,), _ = Store("results").survey()
    assert record.config.model == "doubled" and record.config.code
    row = {"label": "x", "config": record.config.to_dict(), "id": record.config.id}
    study = {"runs": [row | {"status": "complete", "flops": 1.0}]}
    monkeypatch.setattr("faeval_core.cli.commands.studies", lambda root: {"20_own": study})
    del MODELS["doubled"]  # as in a process that does not know it
    assert main(["status"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["20_own", "1", "1", "0"]
