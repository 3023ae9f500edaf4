import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.result import LIMIT, Failure, encode, hand_back, shorten

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=10), json_values, max_size=5))
def test_a_result_comes_back_as_it_was(result):
    try:
        text = encode(result)
    except Failure:
        assert len(json.dumps(result, ensure_ascii=False).encode()) > LIMIT
    else:
        assert json.loads(text) == result
        assert len(text.encode()) <= LIMIT


def test_a_result_of_exactly_the_limit_is_taken_and_one_byte_more_is_not():
    frame = len(encode({"key": ""}))
    assert len(encode({"key": "x" * (LIMIT - frame)})) == LIMIT
    with pytest.raises(Failure, match=r"4097 bytes, 4096 are allowed \(largest field: key\).*object store"):
        encode({"key": "x" * (LIMIT - frame + 1)})


def test_the_limit_counts_bytes_and_not_characters():
    with pytest.raises(Failure, match="largest field: key"):
        encode({"key": "ü" * (LIMIT // 2)})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, {"deep": float("-inf")}]])
def test_a_number_that_json_does_not_know_is_refused_by_its_name(value):
    with pytest.raises(Failure, match="the result's f1 cannot be written"):
        encode({"accuracy": 1.0, "f1": value})


@given(st.text(max_size=400), st.integers(min_value=20, max_value=200))
def test_a_shortened_text_fits_and_a_short_one_is_left_alone(text, limit):
    short = shorten(text, limit)
    assert len(short.encode()) <= limit
    if len(text.encode()) <= limit:
        assert short == text


def test_a_shortened_text_keeps_the_cause_and_the_remedy():
    short = shorten("the cause " + "x" * 9000 + " the remedy")
    assert short.startswith("the cause")
    assert short.endswith("the remedy")


def test_the_message_goes_to_the_path_that_the_pod_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MAESTRO_RESULT_PATH", str(tmp_path / "message"))
    hand_back("ä message")
    assert (tmp_path / "message").read_text(encoding="utf-8") == "ä message"


def test_outside_of_a_container_the_message_goes_to_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.delenv("MAESTRO_RESULT_PATH", raising=False)
    monkeypatch.setattr("mlops.result.TERMINATION_LOG", str(tmp_path / "absent"))
    hand_back("message")
    assert capsys.readouterr().out == "message\n"


def test_in_a_container_the_message_goes_to_its_termination_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.delenv("MAESTRO_RESULT_PATH", raising=False)
    monkeypatch.setattr("mlops.result.TERMINATION_LOG", str(log))
    hand_back("message")
    assert log.read_text() == "message"
