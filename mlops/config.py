"""What the chart tells a pod, read once from the environment. Nothing else in `mlops` reads the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from mlops import keys
from mlops.result import Failure

if TYPE_CHECKING:
    from pathlib import Path


def _from(key: str, source: str, **options: Any) -> Any:
    """A field read from the environment key, which the chart writes from the value `source`."""
    return field(metadata={"key": key, "source": source}, **options)


@dataclass(frozen=True)
class FromEnvironment:
    """A frozen record whose fields are environment keys, or records of them themselves (`record` in their metadata).

    need: its name in mlops/needs.py, where task pods are told of it.
    """

    need: ClassVar[str | None] = None

    @classmethod
    def keys(cls) -> set[str]:
        """All environment keys that it is read from."""
        return {entry.metadata["key"] for entry in cls.entries()}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Reads all fields; one with a default may be missing. Raises Failure that names every missing key."""
        found = os.environ if environment is None else environment
        missing = [
            entry for entry in cls.entries() if entry.default is MISSING and not found.get(entry.metadata["key"])
        ]
        if missing:
            names = "; ".join(f"{entry.metadata['key']} (from {entry.metadata['source']})" for entry in missing)
            remedy = "In a pod, set the value in parentheses and run helm upgrade"
            if cls.need:
                remedy += f", and see that mlops/needs.py lists {cls.need!r} for the command"
            raise Failure(f"not set in the environment: {names}. {remedy}; outside of a pod, export the variable")
        values: dict[str, Any] = {}
        for entry in fields(cls):
            if "record" in entry.metadata:
                values[entry.name] = entry.metadata["record"].from_environment(found)
            elif value := found.get(entry.metadata["key"]):
                values[entry.name] = value
        return cls(**values)

    @classmethod
    def entries(cls) -> Iterator[Field[Any]]:
        """The fields that are read, those of the records in it among them."""
        for entry in fields(cls):
            if "record" in entry.metadata:
                yield from entry.metadata["record"].entries()
            else:
                yield entry


@dataclass(frozen=True)
class S3Settings(FromEnvironment):
    """The object store, and its buckets that more than one part of the platform uses."""

    need = "s3"
    endpoint: str = _from("AWS_ENDPOINT_URL_S3", "global.services.minio or global.s3.external.endpoint")
    access_key: str = _from("AWS_ACCESS_KEY_ID", "the Secret of a user in global.s3.users", repr=False)
    secret_key: str = _from("AWS_SECRET_ACCESS_KEY", "the Secret of a user in global.s3.users", repr=False)
    # The chart says these too. Who stands outside needs the address and the keys alone, unless values say otherwise.
    region: str = _from("AWS_DEFAULT_REGION", "global.s3.external.region", default="us-east-1")
    data_bucket: str = _from("MAESTRO_DATA_BUCKET", "global.buckets.data", default="data")
    reports_bucket: str = _from("MAESTRO_REPORTS_BUCKET", "global.buckets.reports", default="reports")
    predictions_bucket: str = _from("MAESTRO_PREDICTIONS_BUCKET", "global.buckets.predictions", default="predictions")


@dataclass(frozen=True)
class MLflowSettings(FromEnvironment):
    """The tracking server, and a user of it, whom its client reads from the environment by itself.

    Another MLflow than the platform's may ask nobody who they are.
    """

    need = "mlflow"
    tracking_uri: str = _from("MLFLOW_TRACKING_URI", "global.services.mlflow")
    username: str = _from("MLFLOW_TRACKING_USERNAME", "the need of the command", default="")
    password: str = _from("MLFLOW_TRACKING_PASSWORD", "the Secret global.mlflow.existingSecret", default="", repr=False)
    # "true": a model whose run does not say what its files are is not loaded.
    require_digests: str = _from("MAESTRO_REQUIRE_MODEL_DIGESTS", "global.mlflow.requireDigests", default="false")


@dataclass(frozen=True)
class MLflowReaderSettings(MLflowSettings, FromEnvironment):
    """The same for who changes nothing there: as a user who may not."""

    need = "mlflow-reader"


@dataclass(frozen=True)
class FeastSettings(FromEnvironment):
    """The feature store's registry and the bucket of its offline store; the online store is Redis.

    With the object store: the user of who opens `s3` alone may not open that bucket.
    """

    need = "feast"
    store: S3Settings = field(metadata={"record": S3Settings})
    bucket: str = _from("MAESTRO_FEAST_BUCKET", "global.buckets.feast")
    registry: str = _from("MAESTRO_FEAST_REGISTRY", "global.postgresql")
    registry_password: str = _from(
        "MAESTRO_FEAST_REGISTRY_PASSWORD", "the Secret global.postgresql.existingSecret", repr=False
    )


@dataclass(frozen=True)
class RedisSettings(FromEnvironment):
    """Redis, as one of its users: `features` in a task, `queue` in the sensor trainer."""

    need = "redis"
    host: str = _from("MAESTRO_REDIS_HOST", "global.services.redis or global.redis.external")
    port: str = _from("MAESTRO_REDIS_PORT", "global.services.redis or global.redis.external")
    username: str = _from("MAESTRO_REDIS_USERNAME", "global.redis.external.users")
    password: str = _from("MAESTRO_REDIS_PASSWORD", "the Secret global.redis.existingSecret", repr=False)
    # The file with the authority's certificate where Redis speaks TLS; None where it does not.
    ca: str | None = _from("MAESTRO_REDIS_CA", "global.tls.enabled", default=None)

    @property
    def tls(self) -> dict[str, Any]:
        """What redis-py's client takes beside the address to speak TLS and to verify the server and its name."""
        return {"ssl": True, "ssl_ca_certs": self.ca, "ssl_check_hostname": True} if self.ca else {}

    @property
    def connection(self) -> dict[str, Any]:
        """What every client of redis-py takes: where the server is, as whom it comes, and TLS where that is on."""
        said = {"host": self.host, "port": int(self.port), "username": self.username, "password": self.password}
        return {**said, **self.tls}


@dataclass(frozen=True)
class LedgerSettings(FromEnvironment):
    """The ledger of promotions, as its role that adds and reads."""

    need = "ledger"
    url: str = _from("MAESTRO_LEDGER", "global.postgresql")
    password: str = _from("MAESTRO_LEDGER_PASSWORD", "the Secret global.postgresql.existingSecret", repr=False)


@dataclass(frozen=True)
class PushgatewaySettings(FromEnvironment):
    """Where a pod pushes what it measured when it ends; without a host nowhere, as on a person's machine."""

    need = "pushgateway"
    host: str | None = _from("MAESTRO_PUSHGATEWAY_HOST", "global.services.pushgateway", default=None)
    port: str = _from("MAESTRO_PUSHGATEWAY_PORT", "global.services.pushgateway", default="9091")


class ModelServer(NamedTuple):
    """The Deployment of a model's server, and the address of its Service."""

    deployment: str
    url: str


@dataclass(frozen=True)
class ModelServerSettings(FromEnvironment):
    """The model servers as one sees them who rolls one to a version.

    servers: a JSON object of the models whose version in production is served, each with `deployment` and `url`. A
    platform without model servers has none.
    """

    need = "model-server"
    namespace: str = _from("MAESTRO_NAMESPACE", "the pod's own namespace")
    servers: str = _from("MAESTRO_MODEL_SERVERS", "modelServer.models", default="{}")

    def of(self, model: str) -> ModelServer | None:
        """The one of a model; None where no server serves it."""
        found = json.loads(self.servers).get(model)
        return None if found is None else ModelServer(**found)


@dataclass(frozen=True)
class SensorTrainerSettings(FromEnvironment):
    """The sensor trainer as its clients see it. A platform without the trainer has no token."""

    need = "sensor-trainer"
    url: str = _from("MAESTRO_SENSOR_TRAINER_URL", "global.services.sensorTrainer")
    token: str = _from(
        "MAESTRO_SENSOR_TRAINER_TOKEN", "the Secret global.sensorTrainer.existingSecret", default="", repr=False
    )


@dataclass(frozen=True)
class AirflowSettings(FromEnvironment):
    """Airflow's API, and a user who may read there and change nothing."""

    need = "airflow"
    url: str = _from("MAESTRO_AIRFLOW_URL", "global.services.airflow")
    username: str = _from("MAESTRO_AIRFLOW_USERNAME", "global.airflow.readOnlyUser.username")
    password: str = _from(
        "MAESTRO_AIRFLOW_PASSWORD", "the Secret global.airflow.readOnlyUser.existingSecret", repr=False
    )


@dataclass(frozen=True)
class PrometheusSettings(FromEnvironment):
    """Where metrics are asked for."""

    need = "prometheus"
    url: str = _from("MAESTRO_PROMETHEUS_URL", "global.services.prometheus")


@dataclass(frozen=True)
class MailSettings(FromEnvironment):
    """The server that takes mail, and who it is from and to; without a host none is sent.

    security: `starttls`, `tls` from the first byte, or `none`. to: addresses with commas between them.
    """

    host: str | None = _from("MAESTRO_MAIL_HOST", "global.notifications.mail.host", default=None)
    port: str = _from("MAESTRO_MAIL_PORT", "global.notifications.mail.port", default="587")
    security: str = _from("MAESTRO_MAIL_SECURITY", "global.notifications.mail.security", default="starttls")
    sender: str = _from(
        "MAESTRO_MAIL_FROM", "the Secret global.notifications.mail.existingSecret", default="", repr=False
    )
    to: str = _from("MAESTRO_MAIL_TO", "the Secret global.notifications.mail.existingSecret", default="", repr=False)
    username: str = _from(
        "MAESTRO_MAIL_USERNAME", "the Secret global.notifications.mail.existingSecret", default="", repr=False
    )
    password: str = _from(
        "MAESTRO_MAIL_PASSWORD", "the Secret global.notifications.mail.existingSecret", default="", repr=False
    )


@dataclass(frozen=True)
class NotificationSettings(FromEnvironment):
    """By what people are told something, and where they open pages; without a channel they are told in the log."""

    need = "notifications"
    mail: MailSettings = field(metadata={"record": MailSettings})
    slack_webhook_url: str | None = _from(
        "MAESTRO_SLACK_WEBHOOK_URL", "the Secret global.notifications.slackWebhookSecret", default=None, repr=False
    )
    airflow_address: str = _from("MAESTRO_AIRFLOW_ADDRESS", "global.notifications.addresses.airflow", default="")
    mlflow_address: str = _from("MAESTRO_MLFLOW_ADDRESS", "global.notifications.addresses.mlflow", default="")


@dataclass(frozen=True)
class CodeSettings(FromEnvironment):
    """Which code this is."""

    need = "code"
    version: str = _from("MAESTRO_CODE_VERSION", "global.images.tags.task")


@dataclass(frozen=True)
class ServedModelSettings(FromEnvironment):
    """Which model a pod of a model server serves, and what else it does."""

    model: str = _from("MODEL_NAME", "modelServer.modelName")
    alias: str = _from("MODEL_ALIAS", "modelServer.alias", default="production")
    # "true": it answers to ids, of which it reads the features from Redis.
    online_features: str = _from("MODEL_ONLINE_FEATURES", "modelServer.onlineFeatures", default="false")
    log_share: str = _from("MODEL_LOG_SHARE", "modelServer.log.share", default="0")
    rolled_out: str | None = _from("MODEL_VERSION", "the annotation maestro/model-version", default=None)
    rolled_out_of: str | None = _from("MODEL_VERSION_OF", "the annotation maestro/model-name", default=None)

    @property
    def version(self) -> str | None:
        """The version that was rolled out; None, for that of the alias, where none was of this model and for it.

        Annotations outlive a change of modelServer.modelName and of the alias, and only what serves `production` is
        rolled. Releases that wrote no name of a model had one model.
        """
        of_this = self.rolled_out_of in (None, self.model) and self.alias == "production"
        return self.rolled_out if of_this else None


@dataclass(frozen=True)
class CertificateSettings(FromEnvironment):
    """The files by which a server of ours speaks TLS; without them it speaks HTTP in the clear."""

    certificate: str | None = _from("MAESTRO_TLS_CERTIFICATE", "global.tls.enabled", default=None)
    key: str | None = _from("MAESTRO_TLS_KEY", "global.tls.enabled", default=None)


@dataclass(frozen=True)
class DatabaseSettings(FromEnvironment):
    """A database of the pod's own. Its password is not among them: libpq reads it from PGPASSWORD."""

    url: str = _from("DATABASE_URL", "global.postgresql")


@dataclass(frozen=True)
class SensorSettings(FromEnvironment):
    """What a pod of the sensor trainer is told, whether it answers requests or trains."""

    database: DatabaseSettings = field(metadata={"record": DatabaseSettings})
    redis: RedisSettings = field(metadata={"record": RedisSettings})
    mlflow: MLflowSettings = field(metadata={"record": MLflowSettings})
    dataset: str = _from("SENSOR_DATASET", "sensorTrainer.dataset", default="shuttle")
    sensors: str = _from("SENSOR_NAMES", "sensorTrainer.sensors", default="shuttle")
    minimum_new_readings: str = _from("SENSOR_MINIMUM_NEW_READINGS", "sensorTrainer.minimumNewReadings", default="500")
    training_days: str = _from("SENSOR_TRAINING_DAYS", "sensorTrainer.trainingDays", default="30")
    retention_days: str = _from("SENSOR_RETENTION_DAYS", "sensorTrainer.retentionDays", default="90")


@dataclass(frozen=True)
class SensorWorkerSettings(SensorSettings):
    """What a pod is told that trains: also where it writes down what it puts into production."""

    ledger: LedgerSettings = field(metadata={"record": LedgerSettings}, kw_only=True)


@dataclass(frozen=True)
class SensorApiSettings(SensorSettings):
    """What a pod is told that answers requests: also who may ask."""

    token: str = _from(
        "SENSOR_TRAINER_TOKEN", "the Secret global.sensorTrainer.existingSecret", repr=False, kw_only=True
    )


@dataclass(frozen=True)
class LogSettings(FromEnvironment):
    """How a task writes its log: `text` or `json`."""

    format: str = _from("MAESTRO_LOG_FORMAT", "airflow.logs.format", default="text")


def datasets_folder() -> Path:
    """Where the image `datasets` holds one folder of files a dataset."""
    from pathlib import Path

    return Path(os.environ.get("MAESTRO_DATASETS_DIR", "/datasets"))


@dataclass(frozen=True)
class RunIdentity(FromEnvironment):
    """Which try of which task instance this pod is, told by the operator."""

    dag_id: str = _from("MAESTRO_DAG_ID", "the operator")
    run_id: str = _from("MAESTRO_RUN_ID", "the operator")
    task_id: str = _from("MAESTRO_TASK_ID", "the operator")
    try_number: str = _from("MAESTRO_TRY_NUMBER", "the operator", default="1")
    map_index: str = _from("MAESTRO_MAP_INDEX", "the operator, for a mapped task", default="-1")

    @classmethod
    def if_told(cls) -> Self | None:
        """None outside of a task's pod."""
        return cls.from_environment() if os.environ.get("MAESTRO_DAG_ID") else None

    @property
    def folder(self) -> str:
        """Where this task instance writes: the same for each of its tries, another for every other one."""
        return f"runs/{self.run_key}"

    @property
    def run_key(self) -> str:
        """Names the task instance in MLflow, and the folder of its reports for people, whatever its try."""
        return keys.task_instance(self.dag_id, self.run_id, self.task_id, int(self.map_index))

    def key(self, name: str) -> str:
        """The object key of the table `name` of this task instance."""
        return f"{self.folder}/{name}.parquet"
