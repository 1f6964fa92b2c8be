"""The list of mutations must not rot: every text to be changed still occurs once, and its tests
still exist.
"""

import pytest
from mutations import MUTATIONS, ROOT, text_of


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_still_applies(name):
    _, old, new, tests = MUTATIONS[name]
    count = text_of(ROOT, name).count(old)
    assert count == 1 and old != new
    path, _, function = tests.partition("::")
    assert f"def {function or 'test_'}" in (ROOT / "tests" / path).read_text(encoding="utf-8")
