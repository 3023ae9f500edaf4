"""What the chart tells a pod, read once from the environment. Nothing else in `mlops` reads the environment."""

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from mlops import keys
from mlops.result import Failure


def _from(key: str, source: str, **options: Any) -> Any:
    """A field read from the environment key, which the chart writes from the value `source`."""
    return field(metadata={"key": key, "source": source}, **options)


@dataclass(frozen=True)
class _FromEnvironment:
    """A frozen record whose fields are environment keys."""

    @classmethod
    def keys(cls) -> dict[str, str]:
        """The environment key of each field."""
        return {field.name: field.metadata["key"] for field in fields(cls)}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Reads all fields; one with a default may be missing. Raises Failure that names every missing key."""
        found = os.environ if environment is None else environment
        values = {name: found[key] for name, key in cls.keys().items() if found.get(key)}
        missing = [entry for entry in fields(cls) if entry.name not in values and entry.default is MISSING]
        if missing:
            names = "; ".join(f"{entry.metadata['key']} (from {entry.metadata['source']})" for entry in missing)
            raise Failure(
                f"not set in the environment: {names}. In a pod, set the value in parentheses and run helm upgrade; "
                "outside of a pod, export the variable"
            )
        return cls(**values)


@dataclass(frozen=True)
class Settings(_FromEnvironment):
    """Where the platform's services are and what this pod may use, rendered by the chart's `common.taskEnv`."""

    mlflow_tracking_uri: str = _from("MLFLOW_TRACKING_URI", "global.services.mlflow")
    s3_endpoint: str = _from("AWS_ENDPOINT_URL_S3", "global.services.minio or global.s3.external.endpoint")
    s3_region: str = _from("AWS_DEFAULT_REGION", "global.s3.external.region")
    s3_access_key: str = _from("AWS_ACCESS_KEY_ID", "the Secret global.s3.existingSecret", repr=False)
    s3_secret_key: str = _from("AWS_SECRET_ACCESS_KEY", "the Secret global.s3.existingSecret", repr=False)
    data_bucket: str = _from("MAESTRO_DATA_BUCKET", "global.buckets.data")
    reports_bucket: str = _from("MAESTRO_REPORTS_BUCKET", "global.buckets.reports")
    namespace: str = _from("MAESTRO_NAMESPACE", "the pod's own namespace")
    code_version: str = _from("MAESTRO_CODE_VERSION", "global.images.tags.task")
    model_server_deployment: str = _from("MAESTRO_MODEL_SERVER_DEPLOYMENT", "global.services.modelServer")
    model_server_url: str = _from("MAESTRO_MODEL_SERVER_URL", "global.services.modelServer")
    feast_bucket: str = _from("MAESTRO_FEAST_BUCKET", "global.buckets.feast")
    feast_registry: str = _from("MAESTRO_FEAST_REGISTRY", "global.postgresql")
    feast_registry_password: str = _from(
        "MAESTRO_FEAST_REGISTRY_PASSWORD", "the Secret global.postgresql.existingSecret", repr=False
    )
    redis_host: str = _from("MAESTRO_REDIS_HOST", "global.services.redis or global.redis.external")
    redis_port: str = _from("MAESTRO_REDIS_PORT", "global.services.redis or global.redis.external")
    redis_password: str = _from("MAESTRO_REDIS_PASSWORD", "the Secret global.redis.existingSecret", repr=False)
    statsd_host: str = _from("MAESTRO_STATSD_HOST", "global.services.statsd")
    statsd_port: str = _from("MAESTRO_STATSD_PORT", "global.services.statsd")
    sensor_trainer_url: str = _from("MAESTRO_SENSOR_TRAINER_URL", "global.services.sensorTrainer")
    sensor_trainer_token: str = _from(
        "MAESTRO_SENSOR_TRAINER_TOKEN", "the Secret global.sensorTrainer.existingSecret", default="", repr=False
    )
    slack_webhook_url: str | None = _from(
        "MAESTRO_SLACK_WEBHOOK_URL", "the Secret global.notifications.slackWebhookSecret", default=None, repr=False
    )


@dataclass(frozen=True)
class ModelServerSettings(_FromEnvironment):
    """What a pod of the model server is told; without a version it serves the alias `production`."""

    mlflow_tracking_uri: str = _from("MLFLOW_TRACKING_URI", "global.services.mlflow")
    model_name: str = _from("MODEL_NAME", "modelServer.modelName")
    model_version: str | None = _from("MODEL_VERSION", "the annotation maestro/model-version", default=None)


@dataclass(frozen=True)
class SensorSettings(_FromEnvironment):
    """What a pod of the sensor trainer is told, whether it answers requests, trains, or migrates the tables.

    The password of PostgreSQL is not among them: libpq reads it from PGPASSWORD.
    """

    database_url: str = _from("DATABASE_URL", "global.postgresql")
    redis_host: str = _from("MAESTRO_REDIS_HOST", "global.services.redis or global.redis.external")
    redis_port: str = _from("MAESTRO_REDIS_PORT", "global.services.redis or global.redis.external")
    redis_password: str = _from("MAESTRO_REDIS_PASSWORD", "the Secret global.redis.existingSecret", repr=False)
    mlflow_tracking_uri: str = _from("MLFLOW_TRACKING_URI", "global.services.mlflow")
    token: str = _from("SENSOR_TRAINER_TOKEN", "the Secret global.sensorTrainer.existingSecret", repr=False)
    dataset: str = _from("SENSOR_DATASET", "sensorTrainer.dataset", default="shuttle")
    sensors: str = _from("SENSOR_NAMES", "sensorTrainer.sensors", default="shuttle")
    minimum_new_readings: str = _from("SENSOR_MINIMUM_NEW_READINGS", "sensorTrainer.minimumNewReadings", default="500")
    training_days: str = _from("SENSOR_TRAINING_DAYS", "sensorTrainer.trainingDays", default="30")
    retention_days: str = _from("SENSOR_RETENTION_DAYS", "sensorTrainer.retentionDays", default="90")


def datasets_folder() -> Path:
    """Where the image `datasets` holds one folder of files a dataset."""
    return Path(os.environ.get("MAESTRO_DATASETS_DIR", "/datasets"))


@dataclass(frozen=True)
class RunIdentity(_FromEnvironment):
    """Which try of which task instance this pod is, told by the operator."""

    dag_id: str = _from("MAESTRO_DAG_ID", "the operator")
    run_id: str = _from("MAESTRO_RUN_ID", "the operator")
    task_id: str = _from("MAESTRO_TASK_ID", "the operator")
    try_number: str = _from("MAESTRO_TRY_NUMBER", "the operator", default="1")
    map_index: str = _from("MAESTRO_MAP_INDEX", "the operator, for a mapped task", default="-1")

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
