"""What charts tell a container in its environment is what the program in it reads, neither less nor more."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import mlflow.environment_variables
import pytest
import yaml
from mlflow.cli import cli

from mlops import masked
from mlops.cli import GROUPS, commands
from mlops.config import (
    CertificateSettings,
    DatabaseSettings,
    FromEnvironment,
    LogSettings,
    RedisSettings,
    RunIdentity,
    S3Settings,
    SensorApiSettings,
    SensorWorkerSettings,
    ServedModelSettings,
)
from mlops.masking import SECRETS
from mlops.needs import needs
from mlops.result import Failure
from tests.charts.conftest import ROOT, Loader, Object, containers, environment
from tests.charts.profiles import command_job, maestro, platform, pods, task_pod

AIRFLOW = Path(next(iter(importlib.util.find_spec("airflow").submodule_search_locations)))
# What the libraries read that the commands use, and in the case of the last the release gate.
LIBRARIES = {"HOME", "PGPASSWORD", "PGCONNECT_TIMEOUT", "MLFLOW_DISABLE_TELEMETRY"}
# By which they verify servers; tests/charts/test_tls.py says who is told of which.
LIBRARIES |= {"PGSSLMODE", "PGSSLROOTCERT", "SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE"}
LIBRARIES |= {"MLFLOW_TRACKING_SERVER_CERT_PATH"}
RELEASE_GATE = {"DATABASE_URL"}


def each() -> Iterator[tuple[str, Object]]:
    """`pod container` and the container, of all containers of the platform."""
    for name, pod in pods(maestro("everything")).items():
        for container in containers(pod["spec"]):
            yield f"{name} {container['name']}", container


def told(name: str) -> set[str]:
    return set(environment(dict(each())[name]))


NEEDS = {record.need: record for record in FromEnvironment.__subclasses__() if record.need}
# The sensor trainer's own commands are told by its chart alone.
COMMANDS = {
    (group, command)
    for group in GROUPS
    for command in commands(group)
    if (group, command) not in {("sensor-trainer", name) for name in ("serve", "work", "migrate")}
}
# What commands read beside what mlops/needs.py says of them: of services that are told it by their own charts.
OWN = {
    "feast-apply apply": RELEASE_GATE,
    "feast feast": CertificateSettings.keys(),
    "model-server model-server": ServedModelSettings.keys() | CertificateSettings.keys(),
    "model-server-trial model-server": ServedModelSettings.keys() | CertificateSettings.keys(),
    # One that reads features of ids and logs what it predicts.
    "model-server-clicks model-server": (
        ServedModelSettings.keys() | CertificateSettings.keys() | RedisSettings.keys() | S3Settings.keys()
    ),
    "sensor-trainer api": SensorApiSettings.keys() | CertificateSettings.keys(),
    "sensor-trainer-worker worker": SensorWorkerSettings.keys(),
    "sensor-trainer-migrate migrate": DatabaseSettings.keys(),
}
# Containers that run a command of the platform, each with the command.
RUN = {
    name: found.groups()
    for name, container in each()
    if (found := re.search(r"python -m mlops (\S+) (\S+)", " ".join(container.get("args", ()))))
}


# A container that a chart has for itself is no task: nothing asks what it measured, and most of them never end.
OF_TASKS = {"pushgateway"}


def test_the_containers_that_run_a_command_of_the_platform_are_these() -> None:
    assert RUN == {
        "command command": ("features", "build"),
        "minio-buckets buckets": ("ingestion", "buckets"),
        "minio-buckets users": ("ingestion", "users"),
        "feast feast": ("features", "serve"),
        "feast-apply apply": ("features", "apply"),
        "model-server model-server": ("serving", "serve"),
        "model-server-clicks model-server": ("serving", "serve"),
        "model-server-trial model-server": ("serving", "serve"),
        "sensor-trainer api": ("sensor-trainer", "serve"),
        "sensor-trainer-worker worker": ("sensor-trainer", "work"),
        "sensor-trainer-migrate migrate": ("sensor-trainer", "migrate"),
        "retention retention": ("retention", "runs"),
    }


@pytest.mark.parametrize("name", RUN)
def test_a_command_is_told_every_setting_that_it_reads_and_nothing_else(name: str) -> None:
    group, command = RUN[name]
    listed = set(needs(group, command) if (group, command) in COMMANDS else ())
    if name != "command command":
        listed -= OF_TASKS
    read = OWN.get(name, set()).union(*(NEEDS[need].keys() for need in listed))
    assert told(name) - LIBRARIES == read


def test_a_task_pod_is_told_of_each_need_what_is_read_for_it() -> None:
    environments = platform(maestro("everything")).environments
    assert {need: {entry["name"] for entry in entries} - LIBRARIES for need, entries in environments.items()} == {
        need: record.keys() for need, record in NEEDS.items()
    }


@pytest.mark.parametrize(("group", "command"), sorted(COMMANDS))
def test_a_command_that_a_person_runs_is_told_what_it_opens_and_nothing_else(group: str, command: str) -> None:
    (container,) = command_job(maestro("everything"), group, command)["spec"]["template"]["spec"]["containers"]
    assert set(environment(container)) - LIBRARIES == set().union(
        *(NEEDS[need].keys() for need in needs(group, command))
    )


@pytest.mark.parametrize(("group", "command"), sorted(COMMANDS))
def test_a_tasks_pod_is_told_what_its_command_opens_with_its_credentials_and_nothing_else(
    group: str, command: str
) -> None:
    opened = needs(group, command)
    (base,) = task_pod(maestro("everything"), needs=opened)["spec"]["containers"]
    told = environment(base)
    secret = {name for name, value in told.items() if "secretKeyRef" in value}
    read = set().union(*(NEEDS[need].keys() for need in opened))
    assert set(told) - LIBRARIES - {SECRETS} == RunIdentity.keys() | LogSettings.keys() | read
    assert told.get(SECRETS, "").split(",") == sorted(secret, key=list(told).index) or not secret
    # The feature store is told of the object store with it.
    assert ("AWS_SECRET_ACCESS_KEY" in secret) == (not {"s3", "feast"}.isdisjoint(opened))


def test_what_sends_a_message_holds_the_addresses_and_the_login_of_its_channels_and_no_other_key() -> None:
    (base,) = task_pod(maestro("everything"), needs=needs("notify", "send"))["spec"]["containers"]
    secret = [name for name, value in environment(base).items() if "secretKeyRef" in value]
    mail = [f"MAESTRO_MAIL_{key}" for key in ("FROM", "TO", "USERNAME", "PASSWORD")]
    assert secret == ["MAESTRO_SLACK_WEBHOOK_URL", *mail]


def test_a_tasks_command_is_run_by_what_masks_the_secrets_that_the_operator_names() -> None:
    (base,) = task_pod(maestro("everything"))["spec"]["containers"]
    assert base["command"] == ["python", "-m", masked.__name__]


def test_a_task_pod_without_needs_is_told_who_it_is_and_nothing_else() -> None:
    (base,) = task_pod(maestro("everything"), needs=())["spec"]["containers"]
    assert set(environment(base)) - LIBRARIES == RunIdentity.keys() | LogSettings.keys()


def test_each_need_that_is_listed_is_one_that_there_is_and_each_that_there_is_is_listed() -> None:
    listed = {need for group, command in COMMANDS for need in needs(group, command)}
    assert listed == NEEDS.keys()


@pytest.mark.parametrize(("group", "command"), sorted(COMMANDS))
def test_every_command_of_a_task_says_what_it_opens(group: str, command: str) -> None:
    assert set(needs(group, command)) <= NEEDS.keys()


def test_every_command_of_a_task_is_told_of_the_push_gateway() -> None:
    assert all("pushgateway" in needs(group, command) for group, command in COMMANDS)


def test_a_command_that_is_not_listed_is_named_with_the_remedy() -> None:
    with pytest.raises(Failure, match=r"'training dream' opens: list it in mlops/needs.py"):
        needs("training", "dream")


def test_every_variable_of_airflow_and_mlflow_is_one_that_they_know() -> None:
    options = yaml.load((AIRFLOW / "config_templates/config.yml").read_text(), Loader)  # noqa: S506
    known = {f"AIRFLOW__{s}__{o}".upper() for s, section in options.items() for o in section["options"]}
    known |= {"AIRFLOW_CONFIG", *vars(mlflow.environment_variables)}
    known |= {option.envvar for option in cli.commands["server"].params if isinstance(option.envvar, str)}
    # What postgresql-start reads is named for the users that it makes.
    theirs = [container for _, container in each() if "/postgresql:" not in container["image"]]
    names = {name for container in theirs for name in environment(container)}
    asked = {name for name in names if name.startswith(("AIRFLOW_", "MLFLOW_"))}
    assert len(asked) >= 8
    assert asked <= known


def test_every_variable_of_ours_is_read_by_our_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "mlops").rglob("*.py"))
    names = {name for _, container in each() for name in environment(container) if name.startswith("MAESTRO_")}
    assert not [name for name in names if f'"{name}"' not in code]
