"""What each command of a task opens: the chart tells its pod of these, with their credentials, and of nothing else."""

from mlops.result import Failure

# What opens feast is told of s3 with it, as a user who may open the bucket of features as well.
# A command that asks for a dataset or a model opens s3 as well, where its declaration may lie.
# What every one opens is not listed: the push gateway, for what it measured when it ends.
# By group and command; each name is the `need` of a record in mlops/config.py, and `common.env.<name>` in the charts.
_NEEDS = {
    "datasets list": (),
    "datasets propose": (),
    "ingestion buckets": ("s3",),
    "ingestion users": ("s3",),
    "ingestion load": ("s3",),
    "ingestion download": ("s3",),
    "data-quality validate": ("s3",),
    "data-quality window": ("s3",),
    "data-quality schema": ("s3",),
    "data-quality quality": ("s3",),
    "data-quality report": ("s3", "notifications"),
    "drift compare": ("s3",),
    "drift anomalies": ("s3",),
    "drift reference": ("s3",),
    "features preprocess": ("s3",),
    "features engineer": ("s3",),
    "features build": ("feast", "code"),
    "features push": ("feast", "redis", "code"),
    "features apply": ("feast", "redis", "mlflow-reader"),
    "features historical": ("feast", "redis"),
    "features parts": ("feast", "redis"),
    "features validate-store": ("feast", "redis"),
    "features serve": ("feast", "redis"),
    "features materialize": ("feast", "redis"),
    "features validate-online": ("feast", "redis"),
    "training fit": ("s3", "mlflow", "code"),
    "training train": ("s3", "mlflow", "code"),
    "training evaluate": ("s3", "mlflow"),
    "registry register": ("s3", "mlflow"),
    "registry skip": ("mlflow-reader",),
    "registry list": ("mlflow-reader",),
    "registry history": ("ledger",),
    "registry compare": ("mlflow-reader",),
    "registry export": ("s3", "mlflow-reader"),
    "registry verify": ("mlflow-reader", "ledger"),
    "registry promote": ("s3", "mlflow", "model-server", "ledger"),
    "registry rollback": ("s3", "mlflow", "model-server", "ledger"),
    "registry adopt": ("mlflow", "ledger"),
    "serving deploy": ("s3", "mlflow", "model-server", "ledger"),
    "serving rollback": ("s3", "mlflow", "model-server", "ledger"),
    "serving seal": ("mlflow",),
    "serving serve": ("mlflow-reader",),
    "serving join-labels": ("s3",),
    "inference deliver": ("s3",),
    "inference ingest": ("s3", "mlflow-reader"),
    "inference preprocess": ("s3",),
    "inference score": ("s3", "mlflow-reader"),
    "inference evaluate": ("s3", "mlflow-reader"),
    "inference report": ("s3",),
    "sensor-trainer check-mlflow": ("mlflow-reader",),
    "sensor-trainer check-trainer": ("sensor-trainer",),
    "sensor-trainer trigger": ("sensor-trainer",),
    "sensor-trainer monitor": ("s3", "mlflow-reader", "sensor-trainer"),
    "sensor-trainer collect": ("s3", "sensor-trainer"),
    "sensor-trainer replay": ("s3", "sensor-trainer"),
    "health runs": ("s3", "airflow"),
    "health failures": ("s3", "airflow"),
    "health components": ("s3", "airflow", "prometheus"),
    "health report": ("s3", "code"),
    "health alert": ("s3", "notifications"),
    "notify send": ("notifications",),
    "retention runs": ("s3", "mlflow-reader"),
}


def needs(group: str, command: str) -> tuple[str, ...]:
    """What a command opens. Raises Failure for one that is not listed, since its pod would be told nothing."""
    found = _NEEDS.get(f"{group} {command}")
    if found is None:
        raise Failure(f"nothing says what '{group} {command}' opens: list it in mlops/needs.py")
    return (*found, "pushgateway")
