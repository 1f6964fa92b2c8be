"""Synthetic datasets, made where they are used: Gaussian inputs labelled by a random teacher, or
plain ones for Toy LQ.

Names: `teacher-a<α>-L<depth>`, such as teacher-a1.0-L4 (StudentNet's own family, 128 wide), and
`gaussian64`; with `-small` for a tenth of the images.
"""

import re
from types import SimpleNamespace

import torch

from ..ground.streams import stream
from ..models import StudentNet

NAME = re.compile(
    r"(?:teacher-a(?P<alpha>\d+\.\d+)-L(?P<depth>\d+)|gaussian64)(?P<small>-small)?", re.ASCII
)
NAMES = ("teacher-a1.0-L4", "gaussian64")
WIDTH, CLASSES, TRAIN, TEST = 128, 10, 12800, 2560
DEEPEST = 1000  # blocks of a teacher
TEACHER_STD = 0.3  # of the second Linear of each of its blocks, 30 times a student's at init


def is_synthetic(name: str) -> bool:
    return NAME.fullmatch(name) is not None


def tensors(name: str):
    """(train_x, train_y, test_x, test_y): float inputs N(0, 1), (N, 1, 1, features), and integer
    labels below 10.

    ValueError for a teacher outside of its family: α above 1, no block, or more than DEEPEST.
    """
    told = NAME.fullmatch(name).groupdict()
    if told["alpha"] and not (float(told["alpha"]) <= 1 and 1 <= int(told["depth"]) <= DEEPEST):
        raise ValueError(f"dataset {name!r}: a teacher has α in 0..1 and depth 1..{DEEPEST}")
    name, features = name.removesuffix("-small"), WIDTH if told["alpha"] else 64
    x = torch.randn(TRAIN + TEST, 1, 1, features, generator=stream(0, f"{name}.inputs"))
    if told["alpha"]:
        y = labels(x, float(told["alpha"]), int(told["depth"]), stream(0, f"{name}.teacher"))
    else:
        y = torch.randint(0, CLASSES, (len(x),), generator=stream(0, f"{name}.labels"))
    kept, tested = (TRAIN // 10, TEST // 10) if told["small"] else (TRAIN, TEST)
    return x[:kept], y[:kept], x[TRAIN : TRAIN + tested], y[TRAIN : TRAIN + tested]


def labels(x, alpha, depth, generator):
    """The class that a random StudentNet with larger block outputs than at a student's init gives
    each input.
    """
    cfg = SimpleNamespace(
        width=WIDTH, depth=depth, terminal_ln=False, residual=True, model_options={"alpha": alpha}
    )
    teacher = StudentNet(cfg, x.shape[1:], CLASSES)
    p = teacher.init(generator)
    for l in range(depth):
        p[f"blocks.{l}.fc2.weight"] *= TEACHER_STD / p[f"blocks.{l}.fc2.weight"].std()
    logits = teacher.logits(p, teacher.embed(p, x))
    return (logits - logits.mean(0)).argmax(-1)  # centred, so that no class is lost
