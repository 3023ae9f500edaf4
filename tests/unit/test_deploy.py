import json
import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from types import SimpleNamespace

import mlflow
import pytest
from kubernetes.client import V1Deployment, V1DeploymentSpec, V1DeploymentStatus, V1ObjectMeta, V1Pod
from kubernetes.client.api_client import ApiClient
from mlflow.exceptions import MlflowException

from mlops.datasets.declaration import LABEL
from mlops.registry import rollout
from mlops.registry.aliases import PREVIOUS, PRODUCTION, production
from mlops.registry.promotion import Production
from mlops.registry.record import CHAMPION, GATE, GATE_PASSED, GATE_REASONS, GATE_REFUSED, NO_CHAMPION, NOT_ASKED
from mlops.result import EXIT_REFUSED, Failure
from mlops.stores import deployments
from mlops.stores.ledger import Book
from mlops.waiting import TRANSIENT
from tests.servers import execute
from tests.unit import small_models, trainer_api
from tests.unit.dying import Died, dying
from tests.unit.kubernetes_api import CRASHING, NAME, NO_IMAGE, STARTING, Cluster, serving
from tests.unit.ledgers import as_owner

MODEL = "sensor-failure"


def serve(monkeypatch, url: str, *models: str, deployment: str = NAME) -> None:
    """What the chart writes down: that the Deployment serves these models."""
    servers = {model: {"deployment": deployment, "url": url} for model in models}
    monkeypatch.setenv("MAESTRO_MODEL_SERVERS", json.dumps(servers))


@pytest.fixture
def cluster(platform, ledger, monkeypatch, tmp_path):
    import kubernetes.config.kube_config

    found = Cluster()
    with serving(found, tmp_path / "kubeconfig") as address:
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setattr(kubernetes.config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        serve(monkeypatch, address, MODEL)
        monkeypatch.setattr(deployments, "_POLL", 0.02)
        monkeypatch.setattr("mlops.registry.rollout._SETTLING", 0.1)
        yield found


@pytest.fixture
def train(platform, tables):
    """Logs a model that passed the gate, or was refused for `reasons`, and returns its run. Of the columns in `missing`
    its example has no values.
    """

    def once(*reasons: str, missing: Sequence[str] = ()) -> str:
        table = tables("shuttle").train.head(1000)
        features, labels = table.drop(columns=LABEL), table[LABEL]
        tags = {GATE: GATE_REFUSED if reasons else GATE_PASSED, GATE_REASONS: json.dumps(reasons)}
        example = features.head(2).astype(dict.fromkeys(missing, float)).assign(**dict.fromkeys(missing, float("nan")))
        return small_models.log(platform.tracking, small_models.fitted(features, labels), example, tags)

    return once


def deploy(run_id: str, timeout: str = "20") -> tuple[str, ...]:
    return ("serving", "deploy", "--model", MODEL, "--run-id", run_id, "--timeout", timeout)


def test_the_first_deployment_registers_rolls_and_moves_the_alias(platform, cluster, train):
    result = platform.result_of(*deploy(train()))
    assert len(result.pop("example")["data"]) == 1, "a row for somebody who wants to try the server"
    assert result == {"model": MODEL, "version": "1", "previous": None}
    assert cluster.version == "1"
    assert cluster.requests == 1
    assert production(platform.tracking, MODEL) == "1"
    version = mlflow.MlflowClient(platform.mlflow.tracking_uri).get_model_version(MODEL, "1")
    assert version.description.startswith(f"# {MODEL}\n")
    assert version.tags["maestro.dataset"] == "shuttle"
    assert mlflow.artifacts.load_text(f"runs:/{version.run_id}/model_card.md").startswith(f"# {MODEL}\n")


def test_the_next_one_keeps_the_version_before_it(platform, cluster, train):
    platform.result_of(*deploy(train()))
    result = platform.result_of(*deploy(train()))
    assert (result["version"], result["previous"]) == ("2", "1")
    assert (production(platform.tracking, MODEL), platform.tracking.aliased(MODEL, PREVIOUS)) == ("2", "1")


def test_a_retry_registers_and_rolls_nothing_twice(platform, cluster, train):
    run_id = train()
    platform.result_of(*deploy(train()))
    first, second = platform.result_of(*deploy(run_id)), platform.result_of(*deploy(run_id))
    assert first == second
    assert (second["version"], second["previous"]) == ("2", "1")
    assert cluster.versions == ["1", "2"]
    assert platform.tracking.aliased(MODEL, PREVIOUS) == "1"


def test_a_deployment_that_dies_after_any_write_is_completed_by_a_retry(platform, ledger, cluster, train):
    client, tracking = mlflow.MlflowClient(platform.mlflow.tracking_uri), platform.tracking
    first, second = train(), train()

    def version_1_is_in_production():
        with suppress(MlflowException):
            client.delete_registered_model(MODEL)
        execute(as_owner(os.environ["MAESTRO_LEDGER"]), "truncate promotions")
        tracking.set_alias(MODEL, PRODUCTION, tracking.register(MODEL, first))
        cluster.roll("1")

    def one_is_in_production():
        assert production(tracking, MODEL) in ("1", "2")
        assert tracking.aliased(MODEL, PREVIOUS) in (None, "1")
        assert cluster.version == "2" or production(tracking, MODEL) == "1", "no model is promoted and not served"
        if production(tracking, MODEL) == "2":
            assert client.get_model_version(MODEL, "2").description, "it has its card by then"

    def end():
        made_by = sorted(version.run_id for version in client.search_model_versions(f"name = '{MODEL}'"))
        return production(tracking, MODEL), tracking.aliased(MODEL, PREVIOUS), cluster.version, made_by

    ends = []
    for after in count(1):
        version_1_is_in_production()
        try:
            with dying(after, one_is_in_production):
                undisturbed = platform.result_of(*deploy(second))
        except Died:
            ends.append((platform.result_of(*deploy(second)), end()))
        else:
            break
    assert end() == ("2", "1", "2", sorted([first, second]))
    assert len(ends) >= 4, "after the version, the rollout, and each of the two aliases"
    assert ends == [(undisturbed, end())] * len(ends)


def test_a_model_that_did_not_pass_is_skipped_with_the_reasons_and_nothing_is_registered(platform, cluster, train):
    code, message = platform.run(*deploy(train("F1 is low", "AUC is low")))
    assert code == 99
    assert json.loads(message) == {"skipped": "not deployed: F1 is low; AUC is low"}
    assert production(platform.tracking, MODEL) is None
    assert cluster.versions == []


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (CRASHING, "pod new ended 3 times, exit 1: model version 2 may run code"),
        (NO_IMAGE, "pod new: ErrImagePull: no such image"),
    ],
    ids=["crashing", "no image"],
)
def test_a_version_that_does_not_come_up_is_taken_back(platform, cluster, train, monkeypatch, status, cause):
    monkeypatch.setattr("mlops.waiting.GRACE", 0.1)
    platform.result_of(*deploy(train()))
    cluster.broken["2"] = status
    message = platform.failure_of(*deploy(train()))
    assert cause in message
    assert "the model server went back to version 1" in message
    assert cluster.versions == ["1", "2", "1"]
    assert production(platform.tracking, MODEL) == "1"


def test_a_model_that_nobody_judged_is_not_deployed(platform, cluster, train):
    run_id = train()
    mlflow.MlflowClient(platform.mlflow.tracking_uri).delete_tag(run_id, GATE)
    assert "has not been through the gate" in platform.failure_of(*deploy(run_id), code=EXIT_REFUSED)
    assert cluster.versions == []


def test_a_registry_that_stumbles_fails_no_rollout(platform, cluster, train, monkeypatch):
    def seen_once():
        found = stumbling()
        cluster.broken.pop("2", None)
        return found

    platform.result_of(*deploy(train()))
    cluster.broken["2"] = NO_IMAGE
    stumbling = cluster.pods
    monkeypatch.setattr(cluster, "pods", seen_once)
    assert platform.result_of(*deploy(train()))["version"] == "2"
    assert "2" not in cluster.broken
    assert cluster.versions == ["1", "2"]


def test_a_version_that_is_never_ready_is_taken_back_after_the_time_out(platform, cluster, train):
    cluster.broken["1"] = STARTING
    message = platform.failure_of(*deploy(train(), timeout="0.3"))
    assert "not ready after 0 s (new: Running, no reason given)" in message
    assert "went back to no model, as before" in message
    assert cluster.versions == ["1", None]
    assert production(platform.tracking, MODEL) is None


def test_a_version_that_answers_no_request_is_taken_back(platform, cluster, train):
    platform.result_of(*deploy(train()))
    cluster.answers_requests = False
    message = platform.failure_of(*deploy(train()))
    assert "does not answer the model's input example: 500" in message
    assert cluster.versions == ["1", "2", "1"]
    assert production(platform.tracking, MODEL) == "1"


def test_a_retry_after_a_failed_rollout_still_knows_what_to_go_back_to(platform, cluster, train):
    platform.result_of(*deploy(train()))
    cluster.broken["2"] = CRASHING
    run_id = train()
    cluster.version = "2"  # the first try died while it waited
    assert "went back to version 1" in platform.failure_of(*deploy(run_id))
    del cluster.broken["2"]
    assert platform.result_of(*deploy(run_id))["version"] == "2"


def test_the_production_version_itself_has_nothing_to_go_back_to(platform, cluster, train):
    run_id = train()
    platform.result_of(*deploy(run_id))
    cluster.broken["1"] = CRASHING
    assert "went back" not in platform.failure_of(*deploy(run_id))
    assert cluster.versions == ["1"]


def test_what_the_pods_of_the_version_before_suffer_from_stops_no_rollout(platform, cluster, train):
    cluster.broken[""] = CRASHING
    assert platform.result_of(*deploy(train()))["version"] == "1"


def test_a_version_that_is_rolled_over_by_another_is_not_promoted_and_leaves_the_other_in_its_place(
    platform, cluster, train
):
    platform.result_of(*deploy(train()))
    cluster.overtaken_by = "9"
    message = platform.failure_of(*deploy(train()))
    assert "rolled to version 9 while version 2 was waited for: deploy one at a time" in message
    assert cluster.versions == ["1", "2", "9"]
    assert production(platform.tracking, MODEL) == "1"


def test_an_api_server_that_is_away_is_a_failure_with_its_cause(platform, cluster, train, monkeypatch):
    from kubernetes.client import AppsV1Api
    from urllib3.exceptions import MaxRetryError

    def away(*_):
        raise MaxRetryError(None, "/apis", "connection refused")

    monkeypatch.setattr(AppsV1Api, "read_namespaced_deployment", away)
    message = platform.failure_of(*deploy(train()))
    assert "the Kubernetes API cannot be reached for deployment 'maestro-model-server'" in message
    assert "connection refused" in message


def compared(platform, run_id: str, champion: str) -> str:
    """The run, with what evaluate_model notes of the comparison."""
    platform.tracking.log(run_id, tags={CHAMPION: champion})
    return run_id


def test_a_model_that_was_compared_with_another_champion_is_not_deployed(platform, cluster, train):
    first, second = (compared(platform, train(), NO_CHAMPION) for _ in range(2))
    platform.result_of(*deploy(first))
    code, message = platform.run(*deploy(second))
    assert code == 99
    assert "compared with version none and would replace version 1, which is in production by now" in message
    assert (cluster.versions, production(platform.tracking, MODEL)) == (["1"], "1")


def test_a_retry_knows_the_champion_as_its_own_model(platform, cluster, train):
    run_id = compared(platform, train(), NO_CHAMPION)
    assert platform.result_of(*deploy(run_id))["version"] == "1"
    assert platform.result_of(*deploy(run_id))["version"] == "1"


def test_a_model_that_was_compared_with_the_champion_or_with_none_on_purpose_is_deployed(platform, cluster, train):
    platform.result_of(*deploy(compared(platform, train(), NO_CHAMPION)))
    assert platform.result_of(*deploy(compared(platform, train(), "1")))["version"] == "2"
    assert platform.result_of(*deploy(compared(platform, train(), NOT_ASKED)))["version"] == "3"


def test_a_model_server_that_is_scaled_to_nothing_is_sent_no_request(platform, cluster, train):
    cluster.replicas = 0
    assert platform.result_of(*deploy(train()))["version"] == "1"
    assert cluster.requests == 0


def test_a_model_that_no_server_serves_is_registered_only(platform, cluster, train, monkeypatch):
    serve(monkeypatch, "http://127.0.0.1:9", "income")
    result = platform.result_of(*deploy(train()))
    assert (result["version"], result["example"]) == ("1", None)
    assert cluster.versions == []
    assert production(platform.tracking, MODEL) == "1"


def test_a_platform_without_a_model_server_registers_only(platform, cluster, train, monkeypatch):
    monkeypatch.delenv("MAESTRO_MODEL_SERVERS")
    assert platform.result_of(*deploy(train()))["example"] is None
    assert cluster.versions == []


def test_a_value_that_is_missing_in_the_example_is_null(platform, cluster, train):
    example = platform.result_of(*deploy(train(missing=["f2"])))["example"]
    assert dict(zip(example["columns"], example["data"][0], strict=True))["f2"] is None


ROLLBACK = ("serving", "rollback", "--model", MODEL)


def test_rolling_back_swaps_the_versions_and_can_be_undone(platform, cluster, train):
    platform.result_of(*deploy(train()))
    assert "no previous version" in platform.failure_of(*ROLLBACK)
    platform.result_of(*deploy(train()))
    result = platform.result_of(*ROLLBACK)
    assert (result["version"], result["previous"]) == ("1", "2")
    assert result["example"]
    assert (cluster.version, production(platform.tracking, MODEL)) == ("1", "1")
    platform.as_run("another").result_of(*ROLLBACK)
    assert (cluster.version, production(platform.tracking, MODEL)) == ("2", "2")
    cluster.broken["1"] = CRASHING
    message = platform.as_run("a third").failure_of(*ROLLBACK, code=EXIT_REFUSED)
    assert "the model server went back to version 2" in message
    assert (cluster.version, production(platform.tracking, MODEL)) == ("2", "2")
    assert platform.tracking.aliased(MODEL, PREVIOUS) == "1"


def test_a_rollback_that_is_tried_again_does_not_go_forward(platform, cluster, train):
    platform.result_of(*deploy(train()))
    platform.result_of(*deploy(train()))
    assert platform.result_of(*ROLLBACK) == platform.result_of(*ROLLBACK)
    assert (cluster.versions, production(platform.tracking, MODEL)) == (["1", "2", "1"], "1")


def test_a_rollback_that_dies_after_any_write_is_completed_by_a_retry(platform, cluster, train):
    platform.result_of(*deploy(train()))
    platform.result_of(*deploy(train()))
    for after in count(1):
        again = platform.as_run(f"run {after}")
        version = {"1": "2", "2": "1"}[str(production(platform.tracking, MODEL))]
        try:
            with dying(after, lambda: None):
                again.result_of(*ROLLBACK)
        except Died:
            assert again.result_of(*ROLLBACK)["version"] == version
        else:
            break
        assert (cluster.version, production(platform.tracking, MODEL)) == (version, version)
    assert after >= 5, "after the rollout, the announcement, each of the two aliases, and its end"


def test_a_person_promotes_a_version_that_is_served_then_and_the_ledger_says_who(platform, ledger, cluster, train):
    for _ in range(2):
        platform.result_of(*deploy(train()))
    promote = ("registry", "promote", "--model", MODEL, "--version", "1", "--who", "me", "--why", "it was better")
    assert platform.result_of(*promote)["previous"] == "2"
    assert (cluster.version, production(platform.tracking, MODEL)) == ("1", "1")
    *_, entry = ledger.entries(MODEL)
    assert (entry.who, entry.why, entry.evidence["gate"]) == ("me", "it was better", GATE_PASSED)
    assert "has no version 9" in platform.failure_of(*promote[:5], "9", code=EXIT_REFUSED)


def test_a_version_that_a_person_asks_for_and_that_does_not_come_up_is_taken_back_and_not_tried_again(
    platform, cluster, train
):
    for _ in range(2):
        platform.result_of(*deploy(train()))
    cluster.broken["1"] = CRASHING
    message = platform.failure_of("registry", "promote", "--model", MODEL, "--version", "1", code=EXIT_REFUSED)
    assert "the model server went back to version 2" in message
    assert (cluster.versions, production(platform.tracking, MODEL)) == (["1", "2", "1", "2"], "2")


def test_a_promotion_that_is_tried_again_after_another_one_rolls_no_server(platform, cluster, train):
    for _ in range(2):
        platform.result_of(*deploy(train()))
    promote = ("registry", "promote", "--model", MODEL, "--version")
    platform.result_of(*promote, "1")
    platform.as_run("a colleague's").result_of(*promote, "2")
    again = platform.as_run(platform.run_id)
    assert "came after it: nothing is done" in again.failure_of(*promote, "1", code=EXIT_REFUSED)
    assert (cluster.versions, production(platform.tracking, MODEL)) == (["1", "2", "1", "2"], "2")


PROMOTE = ("registry", "promote", "--model", MODEL, "--version")


def test_a_version_that_cannot_be_written_down_is_taken_back(platform, cluster, train, monkeypatch):
    for _ in range(3):
        platform.result_of(*deploy(train()))

    def away(*_):
        raise Failure("PostgreSQL is away")

    with monkeypatch.context() as patch:
        patch.setattr(Book, "append", away)
        message = platform.as_run("one").failure_of(*PROMOTE, "1", code=EXIT_REFUSED)
    assert message.endswith("PostgreSQL is away; the model server went back to version 3")
    assert (cluster.version, production(platform.tracking, MODEL)) == ("3", "3")
    with monkeypatch.context() as patch:
        patch.setattr(Production, "_apply", away)
        assert "went back" not in platform.as_run("another").failure_of(*PROMOTE, "1")
    assert cluster.version == "1", "the ledger says so, and the next change gives it the alias"
    platform.as_run("a third").result_of(*PROMOTE, "1")
    assert production(platform.tracking, MODEL) == "1"


def test_a_rollback_of_a_server_that_was_left_ahead_brings_it_back_to_production_and_no_further(
    platform, cluster, train, monkeypatch
):
    for _ in range(3):
        platform.result_of(*deploy(train()))
    platform.result_of(*PROMOTE, "2")

    def away(*_):
        raise Failure("away")

    with monkeypatch.context() as patch:
        patch.setattr(Book, "append", away)
        patch.setattr(Production, "decided", away)
        message = platform.as_run("one").failure_of(*PROMOTE, "1")
    assert "the model server is left at version 1" in message
    message = platform.as_run("another").failure_of(*ROLLBACK, code=EXIT_REFUSED)
    assert "left at version 1, which is not in production: it is back at version 2" in message
    assert (cluster.version, production(platform.tracking, MODEL)) == ("2", "2")
    assert platform.as_run("a third").result_of(*ROLLBACK)["version"] == "3"


def test_a_missing_model_server_is_named_with_the_remedy(platform, cluster, train, monkeypatch):
    serve(monkeypatch, "http://127.0.0.1:9", MODEL, deployment="absent")
    message = platform.failure_of(*deploy(train()))
    assert "deployment 'absent' in namespace 'maestro' not found" in message
    assert production(platform.tracking, MODEL) is None


def test_an_identity_without_rights_is_told_which_one_has_them(platform, cluster, train):
    cluster.denies = True
    assert "run the step with the identity 'deployer'" in platform.failure_of(*deploy(train()))


@pytest.mark.parametrize(
    ("change", "done"),
    [
        ({}, True),
        ({"observed_generation": 6}, False),
        ({"observed_generation": None}, False),
        ({"updated_replicas": 1}, False),
        ({"updated_replicas": None}, False),
        ({"available_replicas": 1}, False),
        ({"available_replicas": None}, False),
        ({"replicas": 3}, False),
        ({"replicas": 1}, False),
    ],
    ids=str,
)
def test_a_rollout_is_done_when_all_pods_are_new_and_ready_and_no_old_one_is_left(change, done):
    status = {"observed_generation": 7, "replicas": 2, "updated_replicas": 2, "available_replicas": 2, **change}
    spec = V1DeploymentSpec(replicas=2, selector={}, template={})
    found = V1Deployment(metadata=V1ObjectMeta(generation=7), spec=spec, status=V1DeploymentStatus(**status))
    assert deployments.is_rolled_out(found) is done


def test_a_rollout_of_no_pods_is_done_when_the_last_one_is_gone():
    spec, meta = V1DeploymentSpec(replicas=0, selector={}, template={}), V1ObjectMeta(generation=7)
    for replicas, done in ((None, True), (1, False)):
        status = V1DeploymentStatus(observed_generation=7, replicas=replicas)
        assert deployments.is_rolled_out(V1Deployment(metadata=meta, spec=spec, status=status)) is done


def pod(status: dict, *, init: bool = False, conditions: tuple[dict, ...] = ()) -> V1Pod:
    """A pod as the API gives it, whose one container has the status."""
    container = {"name": "c", "image": "i", "imageID": "", "ready": False, "restartCount": 0, **status}
    of = "initContainerStatuses" if init else "containerStatuses"
    body = {"metadata": {"name": "p"}, "status": {"phase": "Pending", of: [container], "conditions": list(conditions)}}
    return ApiClient().deserialize(SimpleNamespace(data=json.dumps(body)), V1Pod)


ENDED = {"state": {"running": {}}, "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}}


@pytest.mark.parametrize("init", [False, True])
@pytest.mark.parametrize(
    ("status", "cause"),
    [
        ({"state": {"running": {}}}, None),
        ({"state": {"waiting": {"reason": "ContainerCreating"}}}, None),
        ({"state": {"waiting": {"reason": "ErrImageNeverPull"}}}, "pod p: ErrImageNeverPull"),
        ({"state": {"waiting": {"reason": "InvalidImageName", "message": "no"}}}, "pod p: InvalidImageName: no"),
        ({"state": {"waiting": {"reason": "ErrImagePull"}}}, None),
        ({**ENDED, "restartCount": 1}, None),
        ({**ENDED, "restartCount": 2}, "pod p ended 2 times, exit 3: Error"),
        ({"state": {"running": {}}, "restartCount": 2}, None),
    ],
    ids=str,
)
def test_a_pod_does_not_come_up_without_a_possible_image_and_when_it_ended_twice(status, cause, init):
    assert deployments.permanent_cause([pod({"state": {"running": {}}}), pod(status, init=init)]) == cause


@pytest.mark.parametrize("init", [False, True])
@pytest.mark.parametrize(
    ("reason", "passes"),
    [*((each, True) for each in sorted(TRANSIENT)), ("InvalidImageName", False), ("PodInitializing", False)],
)
def test_what_may_pass_is_told_from_what_does_not(reason, passes, init):
    waits = pod({"state": {"waiting": {"reason": reason}}}, init=init)
    found = deployments.transient_cause([pod({"state": {"running": {}}}), waits])
    assert found == (f"pod p: {reason}" if passes else None)


def test_what_a_pod_waits_for_is_said_in_a_line():
    unmet = ({"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"},)
    met = ({"type": "Ready", "status": "True", "message": "fine"}, {"type": "Initialized", "status": "False"})
    waits = pod({"state": {"waiting": {"reason": "PodInitializing"}}}, conditions=unmet + met)
    assert deployments.pods_wait_for([waits]) == "p: Pending, PodInitializing; 0/1 nodes are available"
    assert deployments.pods_wait_for([pod({"state": {"running": {}}}, conditions=met)]) == "p: Pending, no reason given"


def test_a_request_to_a_pod_that_is_just_gone_is_sent_again(clock):
    with trainer_api.serving() as api:
        api.says((503, {"error_code": "NO_MODEL"}), (200, b'{"cut off"'), (200, {}), (200, {"predictions": [0, 1]}))
        assert rollout.predictions(api.url, b"{}") == 2
        assert [path for _, path, _, _ in api.asked] == ["/invocations"] * 4
        api.says((503, {"error_code": "NO_MODEL"}))
        with pytest.raises(Failure, match=r"does not answer the model's input example: 503 .*NO_MODEL"):
            rollout.predictions(api.url, b"{}")
    assert 30 <= sum(clock.pauses[3:]) <= 31
