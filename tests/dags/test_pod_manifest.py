"""The manifest of a task's pod."""

import copy
import re
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml
from airflow.sdk.exceptions import AirflowException
from hypothesis import given
from hypothesis import strategies as st

from mlops.airflow.platform import Platform
from mlops.airflow.pods.manifest import TRY, TaskTry, label_value, make_pod
from mlops.config import RunIdentity
from mlops.masking import SECRETS
from tests.dags.conftest import NAMESPACE, PLATFORM, PLATFORM_ENVIRONMENTS, POD_TEMPLATE

DNS_1123_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")

ids = st.text(min_size=1, max_size=250)
tries = st.builds(
    TaskTry,
    dag_id=ids,
    task_id=ids,
    run_id=ids,
    map_index=st.integers(-1, 1000),
    try_number=st.integers(1, 100),
    uuid=st.uuids().map(str),
)


def platform() -> Platform:
    return Platform(
        namespace=NAMESPACE,
        images=PLATFORM["images"],
        sizes=PLATFORM["sizes"],
        placements=PLATFORM["placements"],
        identities=PLATFORM["identities"],
        environments={name: entries or () for name, entries in PLATFORM_ENVIRONMENTS.items()},
        failed_pod_ttl=3600,
        reports_bucket="reports",
        data_bucket="data",
        template=POD_TEMPLATE,
    )


def a_try(**fields: object) -> TaskTry:
    return TaskTry(
        **{
            "dag_id": "ml_pipeline_dag",
            "task_id": "train_model",
            "run_id": "manual__2026-01-01",
            "map_index": -1,
            "try_number": 1,
            "uuid": str(uuid.UUID(int=1)),
            **fields,
        }
    )


def base(pod: dict) -> dict:
    return pod["spec"]["containers"][0]


def environment(pod: dict) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in base(pod)["env"]}


@given(tries)
def test_the_name_is_a_dns_label_whatever_the_dag_is_called(task: TaskTry) -> None:
    assert len(task.pod_name) <= 63
    assert DNS_1123_LABEL.fullmatch(task.pod_name)


@given(tries, st.uuids())
def test_the_name_is_the_same_within_a_try_and_another_in_the_next(task: TaskTry, next_uuid: uuid.UUID) -> None:
    again = TaskTry(**vars(task))
    later = TaskTry(**{**vars(task), "uuid": str(next_uuid), "try_number": task.try_number + 1})
    assert again.pod_name == task.pod_name
    assert (later.pod_name == task.pod_name) == (later.uuid == task.uuid)
    assert later.key == task.key, "an earlier try's pod is found by the key"


@given(tries, tries)
def test_two_task_instances_share_no_key(one: TaskTry, other: TaskTry) -> None:
    same = [getattr(one, name) == getattr(other, name) for name in ("dag_id", "task_id", "run_id", "map_index")]
    assert (one.key == other.key) == all(same)


@given(tries)
def test_labels_are_valid_and_annotations_exact(task: TaskTry) -> None:
    metadata = make_pod(platform(), task, ["true"])["metadata"]
    for value in metadata["labels"].values():
        assert len(value) <= 63
        assert LABEL_VALUE.fullmatch(value)
    assert metadata["annotations"]["maestro/run-id"] == task.run_id


@given(st.text(), st.text())
def test_two_texts_never_become_one_label(one: str, other: str) -> None:
    assert (label_value(one) == label_value(other)) == (one == other)


@given(tries)
def test_the_pod_reads_its_identity_back_from_its_environment(task: TaskTry) -> None:
    given = environment(make_pod(platform(), task, ["true"]))
    assert set(task.environment) <= RunIdentity.keys()
    identity = RunIdentity.from_environment(given)
    assert (identity.dag_id, identity.task_id, identity.run_id) == (task.dag_id, task.task_id, task.run_id)
    assert (identity.try_number, identity.map_index) == (str(task.try_number), str(task.map_index))


def test_a_pod_is_the_template_with_the_tasks_own_parts() -> None:
    pod = make_pod(platform(), a_try(), ["python", "-m", "mlops"], size="medium", deadline=90.5)
    assert pod["metadata"]["namespace"] == NAMESPACE
    assert pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "maestro"
    assert pod["metadata"]["labels"]["maestro/dag-id"] == "ml_pipeline_dag"
    assert pod["metadata"]["labels"][TRY] == a_try().uuid
    assert pod["spec"]["serviceAccountName"] == "maestro-task"
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["activeDeadlineSeconds"] == 90
    assert base(pod)["image"] == PLATFORM["images"]["task"]
    assert base(pod)["args"] == ["python", "-m", "mlops"]
    assert base(pod)["resources"] == PLATFORM["sizes"]["medium"]
    assert "command" not in base(pod), "the image's entrypoint stays in charge"


def test_a_size_asks_for_the_nodes_that_values_give_it_beside_those_of_the_template() -> None:
    spec = {**platform().template["spec"], "nodeSelector": {"pool": "tasks"}, "tolerations": [{"key": "tasks"}]}
    chosen = Platform(**{**vars(platform()), "template": {**platform().template, "spec": spec}})
    gpu, small = (make_pod(chosen, a_try(), ["true"], size=size)["spec"] for size in ("gpu", "small"))
    assert gpu["nodeSelector"] == {"pool": "tasks", "disk": "fast"}
    assert gpu["tolerations"] == [{"key": "tasks"}, {"key": "gpu", "operator": "Exists"}]
    assert (small["nodeSelector"], small["tolerations"]) == ({"pool": "tasks"}, [{"key": "tasks"}])


@pytest.mark.parametrize(
    "options", [{}, {"identity": "deployer", "size": "medium", "env": {"A": "b"}, "deadline": 9.0}]
)
def test_all_that_the_charts_template_gives_reaches_the_pod_but_what_is_the_tasks_own(options: dict) -> None:
    """The security contexts above all: without them a cluster refuses the pod, or runs it with rights that it lacks."""
    pod, template = make_pod(platform(), a_try(), ["true"], **options), POD_TEMPLATE
    own = {"containers", "serviceAccountName", "automountServiceAccountToken", "activeDeadlineSeconds"}
    assert without(own, pod["spec"]) == without(own, template["spec"])
    own = {"image", "args", "env", "resources"}
    assert without(own, base(pod)) == without(own, base(template))
    assert pod["spec"]["containers"][1:] == template["spec"]["containers"][1:]
    assert without({"metadata", "spec"}, pod) == without({"metadata", "spec"}, template)


def without(names: set[str], mapping: dict) -> dict:
    return {name: value for name, value in mapping.items() if name not in names}


def test_an_identity_brings_its_service_account_and_token() -> None:
    pod = make_pod(platform(), a_try(), ["true"], identity="deployer")
    assert pod["spec"]["serviceAccountName"] == "maestro-deployer"
    assert pod["spec"]["automountServiceAccountToken"] is True


def test_a_tasks_environment_is_stronger_than_the_templates_but_not_than_its_identity() -> None:
    env = {"MAESTRO_DATA_BUCKET": "other", "MAESTRO_DAG_ID": "forged"}
    pod = make_pod(platform(), a_try(), ["true"], env=env)
    names = [entry["name"] for entry in base(pod)["env"]]
    assert len(names) == len(set(names))
    assert environment(pod)["MAESTRO_DATA_BUCKET"] == "other"
    assert environment(pod)["MAESTRO_DAG_ID"] == "ml_pipeline_dag"
    assert {"name": "MAESTRO_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}} in base(pod)[
        "env"
    ]


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        ((), set()),
        (("mlflow",), {"MLFLOW_TRACKING_URI"}),
        (("s3", "notifications"), {"AWS_ENDPOINT_URL_S3"}),
    ],
)
def test_a_pod_is_told_of_what_it_needs_and_of_nothing_else(needs: tuple[str, ...], told: set[str]) -> None:
    names = environment(make_pod(platform(), a_try(), ["true"], needs=needs)).keys()
    assert names & {"AWS_ENDPOINT_URL_S3", "MLFLOW_TRACKING_URI"} == told


def test_a_pod_is_told_which_of_its_environment_is_secret_wherever_that_comes_from() -> None:
    secret = {"valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
    there = replace(
        platform(),
        environments={"s3": [{"name": "KEY", **secret}, {"name": "URL", "value": "x"}]},
        template=with_env(POD_TEMPLATE, {"name": "OF_VALUES", **secret}),
    )
    assert environment(make_pod(there, a_try(), ["true"], needs=["s3"]))[SECRETS] == "KEY,OF_VALUES"
    assert SECRETS not in environment(make_pod(platform(), a_try(), ["true"]))


def with_env(template: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(template)
    (container,) = [found for found in changed["spec"]["containers"] if found["name"] == "base"]
    container.setdefault("env", []).append(entry)
    return changed


def test_what_the_template_says_is_stronger_than_what_is_needed() -> None:
    """So that values may set it, for all pods, in taskPods.env."""
    template = copy.deepcopy(POD_TEMPLATE)
    (container,) = [entry for entry in template["spec"]["containers"] if entry["name"] == "base"]
    container.setdefault("env", []).append({"name": "MLFLOW_TRACKING_URI", "value": "http://elsewhere"})
    pod = make_pod(replace(platform(), template=template), a_try(), ["true"])
    assert environment(pod)["MLFLOW_TRACKING_URI"] == "http://elsewhere"
    assert [entry["name"] for entry in base(pod)["env"]].count("MLFLOW_TRACKING_URI") == 1


def expanded(text: str, environment: dict[str, str]) -> str:
    """What the kubelet makes of an argument or a value, on bytes and step by step as it does.

    Expand of k8s.io/kubernetes/third_party/forked/golang/expansion.
    """
    given, done, cursor = text.encode(), b"", 0
    while cursor < len(given):
        if given[cursor : cursor + 1] != b"$" or cursor + 1 == len(given):
            done += given[cursor : cursor + 1]
            cursor += 1
            continue
        rest = given[cursor + 1 :]
        closer = rest.find(b")")
        if rest[:1] == b"$":
            done, cursor = done + b"$", cursor + 2
        elif rest[:1] == b"(" and closer > 0:
            name = rest[1:closer].decode()
            done += environment.get(name, f"$({name})").encode()
            cursor += closer + 2
        elif rest[:1] == b"(":
            done, cursor = done + b"$(", cursor + 2
        else:
            first = rest.decode()[:1].encode()
            done, cursor = done + b"$" + first, cursor + 1 + len(first)
    return done.decode()


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("$(KEY)", "secret"),
        ("$$(KEY)", "$(KEY)"),
        ("$$$(KEY)", "$secret"),
        ("$$", "$"),
        ("$(NO)", "$(NO)"),
        ("$(K", "$(K"),
    ],
)
def test_the_kubelets_expansion_is_what_the_tests_take_it_for(text: str, read: str) -> None:
    """Cases of expand_test.go."""
    assert expanded(text, {"KEY": "secret"}) == read


@given(st.lists(st.text(alphabet="$()KEYé x") | st.text() | st.sampled_from(["$$", "$(KEY)", "$$(KEY)", "$$$(KEY)"])))
def test_an_argument_and_a_value_arrive_as_they_were_given(texts: list[str]) -> None:
    texts = [text.replace("\0", "") for text in texts]
    env = {f"VALUE_{number}": text for number, text in enumerate(texts)}
    pod = make_pod(platform(), a_try(run_id="$(KEY)"), texts, env=env)
    secrets = {"KEY": "secret", "AWS_SECRET_ACCESS_KEY": "secret"}
    assert [expanded(argument, secrets) for argument in base(pod)["args"]] == texts
    arrived = {name: expanded(value, secrets) for name, value in environment(pod).items() if isinstance(value, str)}
    assert {name: arrived[name] for name in env} == env
    assert arrived["MAESTRO_RUN_ID"] == "$(KEY)"


def test_making_a_pod_leaves_the_template_as_it_was() -> None:
    before = make_pod(platform(), a_try(), ["true"])
    make_pod(platform(), a_try(task_id="other"), ["false"], size="medium", identity="deployer", env={"A": "b"})
    assert make_pod(platform(), a_try(), ["true"]) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "tsk"}, "image 'tsk' is not declared: use one of datasets, task or add it to global.images"),
        ({"size": "huge"}, "size 'huge' is not declared: use one of gpu, medium, small or add it to taskSizes"),
        ({"identity": "root"}, "identity 'root' is not declared: use one of deployer"),
        (
            {"needs": ["s4"]},
            (
                "need 's4' is not declared: use one of code, mlflow, mlflow-reader, notifications, pushgateway, s3 "
                "or add it to charts/"
            ),
        ),
    ],
)
def test_a_name_that_is_not_declared_is_refused_with_the_ones_that_are(options: dict, message: str) -> None:
    with pytest.raises(AirflowException, match=re.escape(message)):
        make_pod(platform(), a_try(), ["true"], **options)


def test_a_template_without_the_base_container_is_refused() -> None:
    odd = Platform(**{**vars(platform()), "template": {"spec": {"containers": [{"name": "main"}]}}})
    with pytest.raises(AirflowException, match="no container named base"):
        make_pod(odd, a_try(), ["true"])


def test_the_platform_is_read_from_the_mounted_files() -> None:
    loaded = Platform.load()
    assert (loaded.namespace, loaded.failed_pod_ttl) == (NAMESPACE, 3600.0)
    assert loaded.template == POD_TEMPLATE


def test_a_platform_without_a_model_server_has_no_identities(pod_config) -> None:
    assert Platform.load().identities == {"deployer": "maestro-deployer"}
    declared = yaml.safe_load((pod_config / "platform.yaml").read_text())
    (pod_config / "platform.yaml").write_text(yaml.safe_dump({**declared, "identities": None}))
    assert Platform.load().identities == {}


def test_a_missing_or_incomplete_file_is_named_with_the_remedy(pod_config) -> None:
    (pod_config / "platform.yaml").write_text("namespace: maestro")
    with pytest.raises(
        AirflowException,
        match=r"platform.yaml lacks dataBucket, environments, failedPodTTL, identities, images, placements, "
        r"reportsBucket, sizes: .*helm upgrade",
    ):
        Platform.load()
    (pod_config / "platform.yaml").unlink()
    with pytest.raises(AirflowException, match=r"platform.yaml cannot be read.*MAESTRO_POD_CONFIG"):
        Platform.load()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """A service account's token, as Kubernetes mounts one in a pod of namespace maestro."""
    claims = {
        "iss": "https://kubernetes.default.svc",
        "kubernetes.io": {
            "namespace": NAMESPACE,
            "pod": {"name": "maestro-airflow-scheduler-0", "uid": str(uuid.UUID(int=2))},
            "serviceaccount": {"name": "maestro-airflow", "uid": str(uuid.UUID(int=3))},
        },
    }
    path = tmp_path / "token"
    path.write_text(jwt.encode(claims, "k" * 32))
    return path


def test_airflows_service_account_owns_the_pod_so_that_uninstalling_ends_it(token: Path) -> None:
    owned = make_pod(Platform.load(token=token), a_try(), ["true"])
    assert owned["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "ServiceAccount", "name": "maestro-airflow", "uid": str(uuid.UUID(int=3))}
    ]


def test_nothing_owns_the_pod_where_the_service_account_is_elsewhere(
    token: Path, pod_config: Path, tmp_path: Path
) -> None:
    (pod_config / "platform.yaml").write_text(yaml.safe_dump({**PLATFORM, "namespace": "elsewhere"}))
    for one in (token, tmp_path / "none"):
        assert "ownerReferences" not in make_pod(Platform.load(token=one), a_try(), ["true"])["metadata"]
