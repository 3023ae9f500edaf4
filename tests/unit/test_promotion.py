"""Who changes what is in production, and the ledger of it: with a real MLflow and PostgreSQL, and killed processes."""

import multiprocessing
import os
import re
import signal
from dataclasses import replace

import mlflow
import psycopg
import pytest

from mlops.config import LedgerSettings
from mlops.registry.aliases import PREVIOUS, PRODUCTION
from mlops.registry.model_registry import ModelRegistry
from mlops.registry.promotion import Production, Reason, changing
from mlops.result import Failure, Refused
from mlops.stores.ledger import Book, Busy, Entry, Ledger
from mlops.stores.tracking import Tracking
from tests.processes import eventually
from tests.servers import execute
from tests.unit.ledgers import as_owner

MODEL = "anything"
WHY = Reason("a test asked for it", {"auc": 0.75}, "the test")


@pytest.fixture
def registry(tracking: Tracking, ledger: Ledger) -> ModelRegistry:
    return ModelRegistry(tracking, ledger)


@pytest.fixture
def versions(tracking: Tracking) -> list[str]:
    """Three versions of a model without files: what is in production is a matter of names."""
    client = mlflow.MlflowClient()
    client.create_registered_model(MODEL)
    run = client.create_run(client.create_experiment("any")).info
    return [str(client.create_model_version(MODEL, f"{run.artifact_uri}/model", run.run_id).version) for _ in range(3)]


def promote(tracking: Tracking, ledger: Ledger, version: str, reason: Reason = WHY) -> str | None:
    with changing(tracking, ledger, MODEL) as production:
        return production.promote(version, reason)


def roll_back(tracking: Tracking, ledger: Ledger, request: str | None = None) -> str | None:
    with changing(tracking, ledger, MODEL) as production:
        return production.roll_back(replace(WHY, request=request)).to_version


def aliases(tracking: Tracking) -> tuple[str | None, str | None]:
    return tracking.aliased(MODEL, PRODUCTION), tracking.aliased(MODEL, PREVIOUS)


def changes(ledger: Ledger) -> list[tuple[str, str | None, str | None]]:
    return [(entry.verb, entry.from_version, entry.to_version) for entry in ledger.entries(MODEL)]


def test_each_change_is_an_entry_that_says_who_did_it_when_and_why_and_what_spoke_for_it(
    registry, tracking, ledger, versions
):
    promote(tracking, ledger, "1")
    promote(tracking, ledger, "2")
    assert roll_back(tracking, ledger) == "1"
    assert changes(ledger) == [("promote", None, "1"), ("promote", "1", "2"), ("rollback", "2", "1")]
    assert aliases(tracking) == ("1", "2")
    for entry in registry.history(MODEL):
        assert (entry.who, entry.why, entry.evidence) == ("the test", "a test asked for it", {"auc": 0.75})
    assert registry.verify() == []


def test_what_is_in_production_already_is_no_change(tracking, ledger, versions):
    promote(tracking, ledger, "1")
    assert promote(tracking, ledger, "2") == promote(tracking, ledger, "2") == "1"
    assert len(ledger.entries(MODEL)) == 2


def test_a_rollback_that_is_tried_again_goes_back_once(tracking, ledger, versions):
    for version in versions[:2]:
        promote(tracking, ledger, version)
    assert [roll_back(tracking, ledger, "a task") for _ in range(3)] == ["1", "1", "1"]
    assert aliases(tracking) == ("1", "2")
    assert roll_back(tracking, ledger, "another task") == "2"
    with pytest.raises(Refused, match="came after it: nothing is done"):
        roll_back(tracking, ledger, "a task")


def test_a_promotion_that_is_tried_again_undoes_no_later_one(tracking, ledger, versions):
    asked = replace(WHY, request="a task")
    promote(tracking, ledger, "1")
    assert [promote(tracking, ledger, "2", asked) for _ in range(3)] == ["1", "1", "1"]
    with pytest.raises(Refused, match="was made by this request: name a new one for version 3"):
        promote(tracking, ledger, "3", asked)
    promote(tracking, ledger, "3")
    with pytest.raises(Refused, match="came after it: nothing is done"):
        promote(tracking, ledger, "2", asked)
    assert aliases(tracking) == ("3", "2")


def test_the_only_version_has_nothing_to_go_back_to(tracking, ledger, versions):
    promote(tracking, ledger, "1")
    with pytest.raises(Failure, match="no previous version"):
        roll_back(tracking, ledger)


STEPS = {
    "announced": (Production, "_note"),
    "in the ledger": (Book, "append"),
    "previous": (Tracking, "set_alias"),
    "production": (Tracking, "set_alias"),
    "applied": (Production, "_note"),
}


def killed_after(step: str, settings: LedgerSettings, tracking: Tracking) -> None:
    """Promotes version 2 in a process that is gone when the step is done."""
    owner, name = STEPS[step]
    left = 2 if step in ("production", "applied") else 1
    done = getattr(owner, name)

    def die(*arguments, **options):
        nonlocal left
        done(*arguments, **options)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, die)
    promote(tracking, Ledger(settings), "2")


def sessions() -> int:
    """How many the ledger has: that of a process that was killed ends when the server sees it."""
    with psycopg.connect(as_owner(os.environ["MAESTRO_LEDGER"])) as connection:
        query = "select from pg_stat_activity where datname = current_database() and usename = 'ledger'"
        return connection.execute(query).rowcount


@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_is_killed_after_any_step_leaves_the_old_or_the_new_state_and_the_next_one_mends_it(
    registry, tracking, ledger, versions, step, caplog
):
    promote(tracking, ledger, "1")
    settings = LedgerSettings.from_environment()
    process = multiprocessing.get_context("fork").Process(target=killed_after, args=(step, settings, tracking))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    eventually(lambda: not sessions(), 60)
    assert tracking.aliased(MODEL, PRODUCTION) == ("2" if step in ("production", "applied") else "1")
    half = step in ("in the ledger", "previous", "production")
    assert ["left half done" in fault for fault in registry.verify()] == [True] * half
    with changing(tracking, ledger, MODEL) as production:
        assert production.version == ("1" if step == "announced" else "2")
    assert ("left half done: it is carried out now" in caplog.text) == half
    assert registry.verify() == []
    promote(tracking, ledger, "2")
    assert changes(ledger) == [("promote", None, "1"), ("promote", "1", "2")]
    assert aliases(tracking) == ("2", "1")


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(tracking, ledger, versions):
    with changing(tracking, ledger, MODEL) as production:
        with pytest.raises(Busy, match="another process changes which version of 'anything'"):
            promote(tracking, Ledger.from_environment(), "3")
        production.promote("2", WHY)
    assert changes(ledger) == [("promote", None, "2")]
    promote(tracking, ledger, "3")
    assert aliases(tracking) == ("3", "2")


def test_what_is_promoted_while_it_is_verified_is_not_taken_for_forged(
    registry, tracking, ledger, versions, monkeypatch
):
    promote(tracking, ledger, "1")
    entries = ledger.entries

    def read_before_the_promotion(model: str | None = None) -> list[Entry]:
        found = entries(model)
        promote(tracking, Ledger.from_environment(), "2")
        return found

    monkeypatch.setattr(ledger, "entries", read_before_the_promotion)
    assert registry.verify() == []


def test_what_is_being_changed_and_looks_forged_is_said_to_be_changed(registry, tracking, ledger, versions):
    promote(tracking, ledger, "1")
    tracking.set_alias(MODEL, PRODUCTION, "2")
    with ledger.held(MODEL), pytest.raises(Busy, match="another process changes"):
        registry.verify()
    assert "names version 2" in registry.verify()[0]


def test_who_loses_the_lock_moves_no_alias(tracking, ledger, versions):
    """As with a database that starts anew in between: another process may have the lock by then."""
    promote(tracking, ledger, "1")
    end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and state = 'idle'"
    with changing(tracking, ledger, MODEL) as production:
        execute(as_owner(os.environ["MAESTRO_LEDGER"]), end)
        with pytest.raises(Failure, match=r"the ledger at .* failed"):
            production.promote("2", WHY)
    assert aliases(tracking) == ("1", None)


@pytest.mark.parametrize(
    "statement", ["update promotions set why = 'x'", "delete from promotions", "truncate promotions"]
)
def test_the_ledgers_role_changes_and_removes_nothing(tracking, ledger, versions, statement):
    promote(tracking, ledger, "1")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        execute(os.environ["MAESTRO_LEDGER"], statement)
    assert changes(ledger) == [("promote", None, "1")]


def forged(statement: str) -> None:
    """By one who may do everything in the database."""
    execute(as_owner(os.environ["MAESTRO_LEDGER"]), statement)


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("update promotions set who = 'nobody' where number = 1", "entry 2 .* does not follow the entry before it"),
        ("update promotions set evidence = '{}' where number = 2", r"entry 2 .* was announced by nobody, or altered"),
        ("delete from promotions where number = 1", "entry 1 of anything is not there, and entry 2 is"),
        ("delete from promotions where number = 2", "was told of entry 2.*, which is not in the ledger"),
        ("truncate promotions", "version 1 of anything was told of entry 1.*, which is not in the ledger"),
    ],
)
def test_an_altered_or_removed_entry_is_found(registry, tracking, ledger, versions, statement, fault):
    promote(tracking, ledger, "1")
    promote(tracking, ledger, "2")
    forged(statement)
    assert [found for found in registry.verify() if re.search(fault, found)]


def forge(ledger: Ledger, version: str, **content) -> None:
    """Adds an entry of which MLflow knows nothing."""
    with ledger.held(MODEL) as book:
        *_, last = book.entries()
        follows = {"number": last.number + 1, "from_version": last.to_version, "before": last.digest}
        book.append(replace(last, **follows, to_version=version, request="forged", **content))


def test_an_entry_that_is_added_by_hand_is_found_and_carried_out_by_nobody(registry, tracking, ledger, versions):
    promote(tracking, ledger, "1")
    forge(ledger, "3")
    assert "announced by nobody" in registry.verify()[0]
    with pytest.raises(Refused, match="announced by nobody: it is forged"):
        promote(tracking, ledger, "2")
    assert aliases(tracking) == ("1", None)


def test_an_alias_that_was_moved_past_the_ledger_is_found_and_can_be_adopted(registry, tracking, ledger, versions):
    promote(tracking, ledger, "1")
    promote(tracking, ledger, "2")
    tracking.set_alias(MODEL, PRODUCTION, "3")
    assert "names version 3, and entry 2 of anything (promote 1 -> 2) says 2" in registry.verify(MODEL)[0]
    with pytest.raises(Refused, match="registry adopt"):
        promote(tracking, ledger, "1")
    assert registry.adopt(MODEL, why="by hand").to_version == "3"
    assert registry.adopt(MODEL, why="by hand") is None
    assert registry.verify() == []
    promote(tracking, ledger, "1")
    assert changes(ledger)[2:] == [("adopt", "2", "3"), ("promote", "3", "1")]


@pytest.mark.parametrize("version", ["2", "3"])
def test_an_entry_that_was_added_by_hand_is_disowned_by_an_adoption_and_counts_no_more(
    registry, tracking, ledger, versions, version, caplog
):
    promote(tracking, ledger, "1")
    promote(tracking, ledger, "2")
    forge(ledger, version)
    with pytest.raises(Refused, match=r"'registry adopt' .* disowns the entry too"):
        promote(tracking, ledger, "3")
    assert registry.adopt(MODEL, why="an incident").to_version == "2"
    assert f"(promote 2 -> {version}) was announced by nobody: it is disowned" in caplog.text
    assert (registry.adopt(MODEL, why="again"), registry.verify()) == (None, [])
    assert roll_back(tracking, ledger) == "1", "not to what the forged entry says"
    assert (aliases(tracking), registry.verify()) == (("1", "2"), [])
    forged("update promotions set to_version = '1' where number = 3")
    assert "altered" in registry.verify()[0], "it stays in the chain"


def test_a_forged_adoption_disowns_nothing(registry, tracking, ledger, versions):
    promote(tracking, ledger, "1")
    promote(tracking, ledger, "2")
    genuine = [entry.digest for entry in ledger.entries(MODEL)]
    forge(ledger, "3", verb="adopt", evidence={"disowned": genuine})
    adopted = registry.adopt(MODEL, why="an incident")
    assert (adopted.from_version, adopted.to_version) == ("2", "2")
    assert registry.verify() == []
    assert roll_back(tracking, ledger) == "1"


def test_a_version_that_was_replaced_long_ago_and_deleted_since_can_be_told_of(registry, tracking, ledger, versions):
    promote(tracking, ledger, "1")
    promote(tracking, ledger, "2")
    mlflow.MlflowClient().delete_model_version(MODEL, "1")
    assert "version 1 knows nothing of it" in registry.verify()[0]
    registry.adopt(MODEL, why="it was deleted")
    assert registry.verify() == []
    promote(tracking, ledger, "3")
    assert (aliases(tracking), registry.verify()) == (("3", "2"), [])


def test_a_version_that_was_deleted_in_mlflow_stops_no_model_for_ever(registry, tracking, ledger, versions):
    promote(tracking, ledger, "1")
    promote(tracking, ledger, "2")
    mlflow.MlflowClient().delete_model_version(MODEL, "2")
    assert aliases(tracking) == (None, "1")
    with pytest.raises(Refused, match="MLflow has lost version 2 or what it was told"):
        promote(tracking, ledger, "3")
    assert registry.adopt(MODEL, why="it was deleted").to_version is None
    assert registry.verify() == []
    promote(tracking, ledger, "3")
    assert registry.verify() == []


def test_a_model_whose_only_version_in_production_was_deleted_asks_for_another_one(
    registry, tracking, ledger, versions
):
    promote(tracking, ledger, "1")
    mlflow.MlflowClient().delete_model_version(MODEL, "1")
    with pytest.raises(Refused, match="give one of them the alias 'production' first"):
        registry.adopt(MODEL, why="it was deleted")
    tracking.set_alias(MODEL, PRODUCTION, "2")
    assert registry.adopt(MODEL, why="it was deleted").to_version == "2"
    promote(tracking, ledger, "3")
    assert (aliases(tracking), registry.verify()) == (("3", "2"), [])


def test_after_an_adoption_a_rollback_goes_to_the_version_that_was_in_production(registry, tracking, ledger, versions):
    promote(tracking, ledger, "1")
    promote(tracking, ledger, "2")
    tracking.set_alias(MODEL, PRODUCTION, "3")
    registry.adopt(MODEL, why="by hand")
    assert (aliases(tracking), registry.verify()) == (("3", "2"), [])
    assert roll_back(tracking, ledger) == "2"
    assert aliases(tracking) == ("2", "3")


def test_what_was_in_production_before_there_was_a_ledger_is_its_first_entry(registry, tracking, ledger, versions):
    tracking.set_alias(MODEL, PRODUCTION, "1")
    assert registry.verify() == []
    promote(tracking, ledger, "2")
    assert changes(ledger) == [("adopt", None, "1"), ("promote", "1", "2")]
    assert registry.verify() == []


def test_a_ledger_that_is_away_is_named_with_the_remedy(tracking, versions):
    away = Ledger(LedgerSettings("postgresql://ledger@127.0.0.1:9/ledger", "none"))
    with pytest.raises(Failure, match=r"the ledger at postgresql://ledger@127\.0\.0\.1:9/ledger failed .*global\."):
        promote(tracking, away, "1")
    assert aliases(tracking) == (None, None)
