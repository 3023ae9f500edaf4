"""What people are told of problems that begin, go on, get worse and end."""

import json
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from mlops.notify.channels import Delivery
from mlops.notify.problems import Change, Problem, notify_changes
from mlops.result import Failure
from mlops.stores.object_store import ObjectStore, reports_bucket

NOW = datetime(2026, 6, 1, tzinfo=UTC)
TOLD, LOST = Delivery(("slack",), {}), Delivery((), {"slack": "it is away"})
ALL = ("schema", "quality", "drift", "anomalies", "missing")


@pytest.fixture
def store(environment, s3_endpoint, monkeypatch) -> ObjectStore:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    found = reports_bucket()
    found.ensure()
    return found


@pytest.fixture
def tell(store) -> Callable[..., list[str]]:
    """The lines that a run of its own tells of the problems."""

    def once(
        *problems: Problem,
        judged: Collection[str] = ALL,
        run: str = "run",
        now: datetime = NOW,
        dataset: str = "shuttle",
        send: Callable[[Sequence[Change]], Delivery] = lambda changes: TOLD,
    ) -> list[str]:
        where = {"folder": f"problems/{dataset}", "window": "w"}
        changes = notify_changes(store, problems, send, judged=judged, **where, run=run, now=now).changes
        return [
            change.line(f"{dataset}, column {change.problem.subject}, {change.problem.kind}", "r.html")
            for change in changes
        ]

    return once


def drift(value: float = 0.2, column: str = "f1") -> Problem:
    return Problem("drift", column, f"{value:.0%} lie elsewhere", value, 0.04)


def test_a_problem_that_goes_on_is_told_once_and_again_when_it_is_over(tell):
    began, *more = (tell(drift(), run=str(run)) for run in range(5))
    assert began == ["shuttle, column f1, drift: 20% lie elsewhere (value 0.2, threshold 0.04). Report: r.html"]
    assert more == [[]] * 4
    assert tell(now=NOW + timedelta(days=1)) == [
        "shuttle, column f1, drift: over. It was told at 2026-06-01T00:00:00+00:00: 20% lie elsewhere. Report: r.html"
    ]
    assert tell() == []
    assert len(tell(drift())) == 1, "it is another problem when it begins again"


def test_a_problem_that_gets_half_as_large_again_is_told_anew(tell):
    tell(drift(0.2))
    assert tell(drift(0.29)) == []
    (line,) = tell(drift(0.31))
    assert line.endswith("It is worse: 0.2 was told at 2026-06-01T00:00:00+00:00.")
    assert tell(drift(0.31)) == tell(drift(0.4)) == tell(drift(0.1)) == []
    assert len(tell(drift(0.47))) == 1, "than what was told last"


def test_another_check_of_a_column_that_fails_makes_its_problem_worse(tell):
    one, other = (
        Problem("quality", "f1", text, value, 0.0) for value, text in ((0.1, "missing"), (0.05, "out of range"))
    )
    assert len(tell(one)) == 1
    (line,) = tell(one, other)
    assert "quality: missing; out of range (value 0.1" in line
    assert tell(one, other) == tell(other) == []


def test_columns_kinds_and_datasets_are_problems_of_their_own(tell):
    anomalies = Problem("anomalies", "f1", "many", 0.2, 0.03)
    assert len(tell(drift(), drift(column="f2"), anomalies)) == 3
    assert len(tell(drift(), dataset="adult")) == 1
    (over,) = tell(drift(), anomalies)
    assert "column f2, drift: over" in over


def test_what_a_run_did_not_look_for_is_not_over(tell):
    tell(drift())
    assert tell(judged=("schema", "missing")) == []
    assert len(tell(judged=("drift",))) == 1


def test_of_runs_that_tell_at_once_one_does(tell):
    alerts, sent = [drift(column=f"f{number}") for number in range(5)], []

    def send(changes: Sequence[Change]) -> Delivery:
        sent.extend(change.problem.subject for change in changes)
        return TOLD

    def told(run: int) -> None:
        tell(*alerts, run=str(run), send=send)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(told, range(8)))
    assert sorted(sent) == ["f0", "f1", "f2", "f3", "f4"]


def test_what_a_run_did_not_live_to_tell_another_tells_later(tell):
    def die(changes: Sequence[Change]) -> Delivery:
        raise Failure("the pod was killed")

    for begun, alerts in enumerate(([drift(0.2)], [drift(0.4)], [])):
        later = NOW + timedelta(days=begun)
        with pytest.raises(Failure):
            tell(*alerts, run="first", now=later, send=die)
        assert tell(*alerts, run="second", now=later + timedelta(minutes=14)) == [], "the first may still be at it"
        assert len(tell(*alerts, run="second", now=later + timedelta(minutes=15))) == 1
        assert tell(*alerts, run="first", now=later + timedelta(hours=1)) == []


def test_a_problem_that_nobody_was_told_of_is_not_told_to_be_over(tell):
    assert tell(drift(), send=lambda changes: LOST) == []
    assert tell(now=NOW + timedelta(hours=6)) == []
    assert len(tell(drift(), run="another", now=NOW + timedelta(hours=12))) == 1


def test_what_no_channel_took_the_same_run_tells_at_once_and_another_after_a_while(tell):
    assert tell(drift(), run="first", send=lambda changes: LOST) == []
    assert len(tell(drift(), run="first")) == 1
    assert tell(drift(0.4), run="second", send=lambda changes: LOST) == []
    assert tell(drift(0.4), run="third") == [], "the second may still try again"
    assert len(tell(drift(0.4), run="third", now=NOW + timedelta(minutes=15))) == 1


def test_what_one_channel_took_is_told_though_another_lost_it(tell, store):
    half = Delivery(("mail",), {"slack": "it is away"})
    assert len(tell(drift(), send=lambda changes: half)) == 1
    assert tell(drift()) == []


def test_what_a_release_before_noted_of_each_window_is_left_alone(tell, store):
    store.write_bytes(
        "alerts/shuttle/w/drift/f1.json", b'{"run": "r", "at": "2026-05-01T00:00:00+00:00", "told": true}'
    )
    assert len(tell(drift())) == 1
    assert tell(drift()) == []


def test_a_problem_without_a_value_gets_no_worse_and_no_number_is_told_of_it(tell):
    began, more = tell(Problem("failing", "d", "a run failed")), tell(Problem("failing", "d", "two runs failed"))
    assert began == ["shuttle, column d, failing: a run failed. Report: r.html"]
    assert more == []


def test_what_a_release_before_told_of_a_column_is_told_no_second_time(tell, store):
    alert = {"kind": "drift", "column": "f1", "value": 0.2, "threshold": 0.04, "text": "20% lie elsewhere"}
    entry = {"number": 1, "what": "began", "alert": alert, "alerts": 1, "window": "w", "run": "r", "told": True}
    entry["at"] = "2026-05-01T00:00:00+00:00"
    store.write_bytes("problems/shuttle/drift/f1/000001.json", json.dumps(entry).encode())
    assert tell(drift()) == []
    assert tell() == [
        "shuttle, column f1, drift: over. It was told at 2026-05-01T00:00:00+00:00: 20% lie elsewhere. Report: r.html"
    ]
    over = json.loads(store.read_bytes("problems/shuttle/drift/f1/000002.json"))
    assert over["alert"] == alert, "that release can go on with what this one wrote"
