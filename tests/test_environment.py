"""What the environment says: every word that is known in any case, all else refused under the
variable's name.
"""

import math
import pwd

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from faeval_core import data, runs
from faeval_core.ground import environment

TEXT = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8)


@pytest.mark.parametrize("word, allowed", [*environment.SWITCHES.items(), ("", True)])
@pytest.mark.parametrize("written", [str, str.upper, str.title, " {} ".format])
def test_words_for_yes_and_no(monkeypatch, word, allowed, written):
    monkeypatch.setenv("FAEVAL_TRAIN", written(word))
    assert runs.training_allowed() is allowed and not runs.training_allowed(False)


@settings(deadline=None)
@given(TEXT.filter(lambda t: t.strip() and t.strip().lower() not in environment.SWITCHES))
@example("2")
@example("y es")
def test_all_else_is_neither(text):
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(ValueError, match="FAEVAL_TRAIN=.*neither yes nor no"),
    ):
        patch.setenv("FAEVAL_TRAIN", text)
        environment.training()


@settings(deadline=None)
@given(st.floats(allow_subnormal=False))
def test_seconds_to_wait(seconds):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAEVAL_WAIT", repr(seconds))
        if 0 <= seconds < math.inf:
            assert environment.waiting(600) == seconds
        else:
            with pytest.raises(ValueError, match="FAEVAL_WAIT=.*no number of seconds"):
                environment.waiting(600)


@pytest.mark.parametrize("text", ["soon", "10s", "1 h"])
def test_words_are_no_seconds(monkeypatch, text):
    monkeypatch.setenv("FAEVAL_WAIT", text)
    with pytest.raises(ValueError, match=f"FAEVAL_WAIT='{text}'"):
        environment.waiting(600)
    monkeypatch.setenv("FAEVAL_WAIT", "")
    assert environment.waiting(600) == 600


@pytest.mark.parametrize("name", environment.THREADS)
@pytest.mark.parametrize(
    "text, fine",
    [
        ("1", True),
        ("16", True),
        (" 4 ", True),
        ("4,2", True),
        ("", True),
        ("0", False),
        ("-1", False),
        ("abc", False),
        ("2.5", False),
        ("4,", False),
        ("4,0", False),
    ],
)
def test_numbers_of_threads(monkeypatch, name, text, fine):
    monkeypatch.setenv(name, text)
    if fine:
        environment.check_threads()
        return
    with pytest.raises(
        ValueError, match=f"{name}='{text}' in the environment is no number of threads"
    ):
        environment.check_threads()


def test_a_user_without_a_home_folder_is_told(monkeypatch):
    def nobody(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("FAEVAL_DATA")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(ValueError, match="needs your home folder.*set HOME, and FAEVAL_DATA"):
        data.data_home()
