"""charts/postgresql: what the server is told, and what stays when a release goes."""

from typing import Any

import pytest

from tests.charts.conftest import ROOT, Object, Refused, containers, environment, find, render

EXTERNAL = {"enabled": True, "host": "db.example.com"}


def postgresql(values: dict[str, Any] | None = None, **shared: Any) -> list[Object]:
    return render("postgresql", {**(values or {}), "global": {"postgresql": shared}})


def stateful_set(objects: list[Object]) -> Object:
    return find(objects, "StatefulSet", "maestro-postgresql")["spec"]


def server(objects: list[Object]) -> Object:
    (container,) = stateful_set(objects)["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize(
    ("name", "value", "argument"),
    [
        ("shared_buffers", "1GB", "shared_buffers=1GB"),
        ("max_locks_per_transaction", 10_000_000, "max_locks_per_transaction=10000000"),
        ("random_page_cost", 1.1, "random_page_cost=1.1"),
        ("log_connections", True, "log_connections=true"),
        ("search_path", "a, b", "search_path=a, b"),
    ],
)
def test_a_setting_reaches_the_server_as_it_is_written(name: str, value: Any, argument: str) -> None:
    program, *arguments = server(postgresql({"conf": {name: value}}))["args"]
    assert program == "postgresql-start"
    assert arguments[::2] == ["-c"] * len(arguments[::2])
    assert argument in arguments[1::2]


@pytest.mark.parametrize("name", ["port", "listen_addresses", "unix_socket_directories", "data_directory", "hba_file"])
def test_what_the_chart_and_the_image_settle_themselves_is_no_setting(name: str) -> None:
    with pytest.raises(Refused, match=f"invalid propertyName '{name}'"):
        postgresql({"conf": {name: "x"}})


def test_each_database_has_a_user_a_password_and_a_check() -> None:
    objects = postgresql(databases=["airflow", "mlflow", "feature_store"])
    told = environment(server(objects))
    assert told["POSTGRES_DATABASES"] == "airflow mlflow feature_store"
    keys = {value["secretKeyRef"]["key"] for name, value in told.items() if name.endswith("_PASSWORD")}
    assert told["FEATURE_STORE_PASSWORD"]["secretKeyRef"]["key"] == "feature_store-password"
    assert keys == set(find(objects, "Secret", "maestro-postgresql")["data"])
    checks = containers(find(objects, "Pod", "maestro-postgresql-test")["spec"])
    addresses = [environment(check)["DATABASE_URL"] for check in checks]
    assert addresses == [
        f"postgresql://{n}@maestro-postgresql:5432/{n}" for n in ("airflow", "mlflow", "feature_store")
    ]


def test_the_users_that_are_confined_are_named() -> None:
    assert environment(server(postgresql()))["POSTGRES_CONFINED"] == "sensors"
    assert environment(server(postgresql({"confined": ["feast", "mlflow"]})))["POSTGRES_CONFINED"] == "feast mlflow"


@pytest.mark.parametrize("name", ["postgres", "Airflow", "air-flow", "1st", "a b", ""])
def test_a_name_that_is_no_plain_database_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="databases"):
        postgresql(databases=[name])


def test_the_superusers_password_is_nobody_elses() -> None:
    objects = postgresql()
    users = [
        environment(check)["PGPASSWORD"]
        for check in containers(find(objects, "Pod", "maestro-postgresql-test")["spec"])
    ]
    assert "postgres-password" not in {user["secretKeyRef"]["key"] for user in users}


def test_an_existing_secret_takes_the_place_of_the_charts_own() -> None:
    objects = postgresql(existingSecret="ours")
    assert not [entry for entry in objects if entry["kind"] == "Secret"]
    secrets = {
        value["secretKeyRef"]["name"] for value in environment(server(objects)).values() if isinstance(value, dict)
    }
    assert secrets == {"ours"}


def test_for_an_external_server_nothing_is_rendered() -> None:
    assert postgresql(external=EXTERNAL, existingSecret="ours") == []


@pytest.mark.parametrize(
    ("shared", "remedy"),
    [
        (
            {"external": EXTERNAL},
            "sensors-password, ledger-password and set global.postgresql.existingSecret",
        ),
        ({"external": {"enabled": True}, "existingSecret": "ours"}, "set global.postgresql.external.host"),
        ({"external": {"host": "db.example.com"}}, "set global.postgresql.external.enabled to true"),
    ],
)
def test_an_external_server_that_is_half_told_is_refused_with_the_remedy(shared: dict[str, Any], remedy: str) -> None:
    with pytest.raises(Refused, match=remedy):
        postgresql(**shared)


def test_the_claim_has_nothing_that_an_upgrade_of_the_chart_would_change() -> None:
    spec = stateful_set(postgresql())
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["metadata"]["labels"] == spec["selector"]["matchLabels"]
    assert "storageClassName" not in claim["spec"], "the cluster's default"


def test_the_volume_is_as_values_ask() -> None:
    (claim,) = stateful_set(postgresql({"persistence": {"size": "3Gi", "storageClass": "fast"}}))[
        "volumeClaimTemplates"
    ]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"]["storage"] == "3Gi"


def test_probes_ask_by_tcp_which_opens_when_users_and_databases_are_there() -> None:
    container = server(postgresql())
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "--host=127.0.0.1" in container[probe]["exec"]["command"]


def test_the_image_and_the_chart_agree_on_how_the_server_ends_and_where_its_data_lies() -> None:
    dockerfile = (ROOT / "images/postgresql/Dockerfile").read_text()
    assert "STOPSIGNAL SIGINT" in dockerfile, "SIGTERM would wait for the clients"
    paths = {mount["name"]: mount["mountPath"] for mount in server(postgresql())["volumeMounts"]}
    assert f"PGDATA={paths['data']}/" in dockerfile, "a folder below the mount, whose rights are PostgreSQL's"


def test_a_release_name_that_leaves_no_room_is_refused_with_the_remedy() -> None:
    assert render("postgresql", name="r" * 41)
    with pytest.raises(Refused, match="release name of at most 41 characters"):
        render("postgresql", name="r" * 42)


# The pooler

POOLED = {"pooler": {"enabled": True}}


def pooler(objects: list[Object]) -> Object:
    (container,) = containers(find(objects, "Deployment", "maestro-postgresql-pooler")["spec"]["template"]["spec"])
    return container


def test_without_a_pooler_nothing_of_it_is_there() -> None:
    objects = postgresql()
    assert not [entry for entry in objects if entry["kind"] in ("Deployment", "PodDisruptionBudget")]
    assert "POSTGRES_POOLED" not in environment(server(objects))
    assert "pooler-password" not in find(objects, "Secret", "maestro-postgresql")["data"]


def test_server_and_pooler_agree_on_databases_and_on_the_poolers_password() -> None:
    objects = postgresql({"pooler": {"pools": {"airflow": 7, "mlflow": 3, "feast": 2}}}, **POOLED)
    told, served = environment(pooler(objects)), environment(server(objects))
    assert told["POOLER_POOLS"] == "airflow=7 feast=2 mlflow=3"
    assert served["POSTGRES_POOLED"] == "airflow feast mlflow"
    assert told["PGPASSWORD"] == served["POOLER_PASSWORD"]
    assert (told["PGHOST"], told["PGPORT"]) == ("maestro-postgresql", "5432")
    assert told["PGDATABASE"] in served["POSTGRES_POOLED"], "where probes ask"


def test_the_pooler_holds_the_password_of_no_client_and_not_the_superusers() -> None:
    objects = postgresql(**POOLED)
    secrets = [value["secretKeyRef"] for value in environment(pooler(objects)).values() if isinstance(value, dict)]
    assert secrets == [{"name": "maestro-postgresql", "key": "pooler-password"}]


def test_it_is_ready_by_what_the_server_says_and_alive_by_itself() -> None:
    container = pooler(postgresql(**POOLED))
    assert container["readinessProbe"]["exec"]["command"][-1] == "--command=SELECT 1"
    assert container["livenessProbe"]["exec"]["command"][0] == "pg_isready"
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] > 0, "it refuses new clients while it ends"


def test_its_pods_are_as_many_and_where_values_say() -> None:
    of = {"replicas": 3, "nodeSelector": {"disk": "none"}, "priorityClassName": "high"}
    objects = postgresql({"pooler": of, "nodeSelector": {"disk": "fast"}}, **POOLED)
    spec = find(objects, "Deployment", "maestro-postgresql-pooler")["spec"]
    assert spec["replicas"] == 3
    assert spec["template"]["spec"]["nodeSelector"] == {"disk": "none"}
    assert spec["template"]["spec"]["priorityClassName"] == "high"
    budget = find(objects, "PodDisruptionBudget", "maestro-postgresql-pooler")["spec"]
    assert budget["selector"] == spec["selector"]
    assert not [entry for entry in postgresql(**POOLED) if entry["kind"] == "PodDisruptionBudget"], (
        "one pod is no quorum"
    )


def test_the_check_asks_by_both_ways() -> None:
    checks = containers(find(postgresql(**POOLED), "Pod", "maestro-postgresql-test")["spec"])
    asked = {check["name"]: environment(check)["DATABASE_URL"] for check in checks}
    assert asked["airflow"] == "postgresql://airflow@maestro-postgresql:5432/airflow"
    assert asked["pooled-airflow"] == "postgresql://airflow@maestro-postgresql-pooler:6432/airflow"
    assert "pooled-ledger" not in asked


def test_both_ends_speak_tls_and_are_verified() -> None:
    objects = render("postgresql", {"global": {"postgresql": POOLED, "tls": {"enabled": True}}})
    told = environment(pooler(objects))
    assert (told["POOLER_TLS"], told["PGSSLMODE"]) == ("/etc/tls", "verify-full")
    mounts = {mount["mountPath"] for mount in pooler(objects)["volumeMounts"]}
    assert {"/etc/tls", "/etc/tls-ca"} <= mounts
    plain = environment(pooler(postgresql(**POOLED)))
    assert not plain.keys() & {"POOLER_TLS", "PGSSLMODE"}


@pytest.mark.parametrize(
    ("values", "shared", "remedy"),
    [
        ({"pools": {"airflow": None}}, {}, r"set pooler\.pools\.airflow to a number"),
        ({"pools": {"ledger": 2}}, {}, "pooler.pools has ledger, which nobody opens by the pooler"),
        ({}, {"databases": ["airflow", "mlflow"]}, r"feast.* is not in global\.postgresql\.databases: add it there"),
        ({"pools": {"airflow": 0}}, {}, "pools"),
        ({"replicas": 0}, {}, "replicas"),
        ({}, {"external": EXTERNAL, "existingSecret": "ours"}, "set pooler.enabled to false"),
    ],
)
def test_a_pooler_that_would_not_serve_its_clients_is_refused_with_the_remedy(
    values: dict[str, Any], shared: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(Refused, match=remedy):
        postgresql({"pooler": values}, **POOLED, **shared)


# Backups

BACKUPS = {"backup": {"enabled": True}}
TLS = {"tls": {"enabled": True}}


def backed_up(values: dict[str, Any] | None = None, **shared: Any) -> list[Object]:
    return render("postgresql", {**BACKUPS, **(values or {}), "global": {**TLS, **shared}})


def test_server_restore_and_backup_look_in_one_place_and_keys_are_files_that_may_change() -> None:
    objects = backed_up({"restore": {"from": "before"}})
    pod = stateful_set(objects)["template"]["spec"]
    job = find(objects, "CronJob", "maestro-postgresql-backup")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    said = []
    for spec in (pod, job):
        (keys,) = (volume["secret"] for volume in spec["volumes"] if volume["name"] == "backup-keys")
        assert keys["secretName"] == "maestro-minio-backups"
        for container in containers(spec):
            told = environment(container)
            assert not [name for name in told if "S3_KEY" in name], "a rotated key would restart the server"
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounts["backup-keys"] == told["BACKUP_KEYS"]
            said.append({name: value for name, value in told.items() if name.startswith("PGBACKREST_")})
    assert len(said) == 3
    assert said[0] == said[1] == said[2]
    assert said[0]["PGBACKREST_STANZA"] == "maestro-maestro"
    assert said[0]["PGBACKREST_REPO1_S3_ENDPOINT"] == "maestro-minio:9000"


def test_without_backups_nothing_of_them_is_there() -> None:
    objects = postgresql()
    assert not [entry for entry in objects if entry["kind"] in ("CronJob", "Job")]
    assert "initContainers" not in stateful_set(objects)["template"]["spec"]
    assert not [name for name in environment(server(objects)) if "BACKUP" in name or "PGBACKREST" in name]


def test_a_backup_runs_on_the_node_of_the_server_wherever_values_put_that() -> None:
    zone = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    objects = backed_up({"affinity": zone, "nodeSelector": {"disk": "fast"}})
    spec = find(objects, "CronJob", "maestro-postgresql-backup")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (beside,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert beside["topologyKey"] == "kubernetes.io/hostname"
    labels = stateful_set(objects)["template"]["metadata"]["labels"]
    assert beside["labelSelector"]["matchLabels"].items() <= labels.items()
    assert spec["affinity"]["nodeAffinity"] == zone["nodeAffinity"]
    assert spec["nodeSelector"] == {"disk": "fast"}


def test_another_store_is_told_with_its_keys_and_may_be_reached() -> None:
    elsewhere = {
        "endpoint": "https://s3.example.com:9443",
        "bucket": "ours",
        "region": "eu",
        "existingSecret": "theirs",
    }
    objects = render("postgresql", {"backup": {"enabled": True, "s3": elsewhere}})
    told = environment(server(objects))
    assert told["PGBACKREST_REPO1_S3_ENDPOINT"] == "s3.example.com:9443"
    assert (told["PGBACKREST_REPO1_S3_BUCKET"], told["PGBACKREST_REPO1_S3_REGION"]) == ("ours", "eu")
    (keys,) = (v for v in stateful_set(objects)["template"]["spec"]["volumes"] if v["name"] == "backup-keys")
    assert keys["secret"]["secretName"] == "theirs"
    for component in ("postgresql", "postgresql-backup", "postgresql-stanza"):
        policy = find(objects, "NetworkPolicy", f"maestro-{component}-network")["spec"]
        assert {"protocol": "TCP", "port": 9443} in [port for rule in policy["egress"] for port in rule["ports"]]


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        (BACKUPS, "pgbackrest speaks TLS only: set global.tls.enabled to true"),
        ({"restore": {"from": "a"}}, "pgbackrest speaks TLS only"),
        ({"restore": {"at": "2026-11-28 09:30:00+00"}}, r"restore\.from names no backups"),
        ({"restore": {"from": "a", "at": "yesterday"}}, "restore/at"),
        ({"backup": {"enabled": True, "s3": {"endpoint": "https://s3.example.com"}}}, "set backup.s3.existingSecret"),
        ({**BACKUPS, "global": TLS, "conf": {"archive_mode": "off"}}, "take it out of conf"),
        (
            {**BACKUPS, "global": {**TLS, "postgresql": {"external": EXTERNAL, "existingSecret": "ours"}}},
            "who runs it backs it up",
        ),
    ],
)
def test_backups_that_could_not_be_made_are_refused_with_the_remedy(values: dict[str, Any], remedy: str) -> None:
    with pytest.raises(Refused, match=remedy):
        render("postgresql", values)
