"""MLflow: runs, the model registry with its aliases, and models that are safe to load."""

from __future__ import annotations

import base64
import json
import logging
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from mlops.config import MLflowSettings
from mlops.result import JSON, Failure, Refused
from mlops.stores.model_files import DECLARATION, Layout, differences, digest, digests, faults, forget_client

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from mlflow.entities import Run

MODEL_ARTIFACT = "model"
_MODEL_FOLDER = f"{MODEL_ARTIFACT}/"
_TEXTS = (".html", ".json", ".md", ".toml", ".txt", ".yaml")
SUPERSEDED = "maestro.superseded"  # the tag of a run that another one took the place of
DIGESTS = "maestro.digests"  # the tag of a run with the SHA-256 of each file that is checked when it is loaded
DESCRIPTION_LIMIT = 5000  # characters of a version's description in MLflow's database
_HEALTH_TIMEOUT = 15.0  # seconds; the tracking server asks its database
_TAG_LIMIT = 8000  # characters of a run's tag; MLflow cuts a longer one without a word
_CLIENT_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing leaves the cluster
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # a task log is no terminal
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",  # about 30 s; after that the task's own retries are better
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",  # the environment holds secrets
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output may be where the result goes
    "GIT_PYTHON_REFRESH": "quiet",  # a task image has no git
}

log = logging.getLogger(__name__)


class Saved(NamedTuple):
    """A model as it is logged. flavor: a module of MLflow; arguments: those of its log_model."""

    flavor: str
    arguments: Mapping[str, Any]


class Input(NamedTuple):
    """A column that a model reads. optional: whether its values may be missing."""

    name: str
    numeric: bool
    optional: bool

    @property
    def kind(self) -> Literal["number", "identifier"]:
        """As what a column is declared of which no more is known."""
        return "number" if self.numeric else "identifier"


class Signature(NamedTuple):
    """What a model reads and what it answers. output: long, string or double."""

    inputs: Sequence[Input]
    output: str


class AliasedVersion(NamedTuple):
    """A version that somebody uses by an alias; tags: its own, over those of the run that made it."""

    model: str
    version: str
    aliases: list[str]
    tags: Mapping[str, str]


class RegisteredModel(NamedTuple):
    """versions: the oldest first; aliases: the version of each."""

    name: str
    versions: list[str]
    aliases: Mapping[str, str]


class Tracking:
    """The tracking server. Each method raises Failure where the server is away or refuses."""

    def __init__(self, settings: MLflowSettings) -> None:
        for key, value in _CLIENT_SETTINGS.items():
            os.environ.setdefault(key, value)
        import mlflow

        self._uri = settings.tracking_uri
        self._digests_required = settings.require_digests == "true"
        mlflow.set_tracking_uri(self._uri)
        self._client = mlflow.MlflowClient(self._uri)

    @classmethod
    def from_environment(cls) -> Self:
        return cls(MLflowSettings.from_environment())

    def runs(self, experiment: str, tag: str, value: str) -> list[Run]:
        """The experiment's runs that carry the tag with this value, newest first."""
        with self._explained():
            found = self._client.get_experiment_by_name(experiment)
            if found is None:
                return []
            query = f"tags.`{tag}` = '{value}'"
            return list(self._client.search_runs([found.experiment_id], query, order_by=["attributes.start_time DESC"]))

    def run(self, run_id: str) -> Run:
        with self._explained():
            return self._client.get_run(run_id)

    @contextmanager
    def new_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> Iterator[str]:
        """A new run, yielded by its id: finished at the end of the block, failed where the block raises."""
        import mlflow

        _refuse_long_tags(tags)
        with self._explained():
            mlflow.set_experiment(experiment)
            with mlflow.start_run(run_name=name, tags=dict(tags)) as run:
                yield run.info.run_id

    def end_run(self, run_id: str, reason: str) -> None:
        """Takes a run out of the finished and the running ones; it stays readable."""
        with self._explained():
            self._client.set_tag(run_id, SUPERSEDED, reason)
            self._client.set_terminated(run_id, status="KILLED")

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        step: int | None = None,
    ) -> None:
        """step: of the metrics, where they are points of a curve."""
        import mlflow

        _refuse_long_tags(tags or {})
        with self._explained():
            if params:
                mlflow.log_params(dict(params), run_id=run_id)
            if metrics:
                mlflow.log_metrics(dict(metrics), step=step, run_id=run_id)
            for key, value in (tags or {}).items():
                self._client.set_tag(run_id, key, value)

    def log_model(self, saved: Saved, example: pd.DataFrame, signature: Signature, packages: Sequence[str]) -> None:
        """Logs a model to the run of the enclosing `new_run`, with its signature and `example` as input example.

        The run is told what its files are. packages: what it needs to run, pinned to the versions installed here.
        """
        from importlib import metadata

        from mlflow.models import ModelSignature
        from mlflow.types.schema import ColSpec, Schema, TensorSpec

        inputs: list[ColSpec | TensorSpec] = [
            ColSpec("double" if column.numeric else "string", column.name, required=not column.optional)
            for column in signature.inputs
        ]

        with self._explained():
            logged = import_module(saved.flavor).log_model(
                **saved.arguments,
                name=MODEL_ARTIFACT,
                signature=ModelSignature(Schema(inputs), Schema([ColSpec(signature.output)])),
                input_example=example,
                pip_requirements=[f"{package}=={metadata.version(package)}" for package in packages],
            )
        self._record(logged.run_id, _within_model(self._digests_of(f"runs:/{logged.run_id}/{MODEL_ARTIFACT}")))

    def download_model(self, model_uri: str, folder: Path, layout: Layout) -> Path:
        """The folder, below `folder`, of a model that is safe to load. Raises Failure for any other model.

        Its files are those of the layout, MLmodel says what it may, and none is another one than its run was told of.
        model_uri: `runs:/<run id>/model` or `models:/<name>/<version>`.
        """
        path = self._download(model_uri, folder)
        wrong = faults(path, layout)
        if wrong:
            raise Failure(
                f"{model_uri} may run code when it is loaded: {'; '.join(wrong[:5])}: log it with "
                "'python -m mlops training fit', which writes files that cannot"
            )
        self._refuse_others(model_uri, path)
        return path

    def download_files(self, model_uri: str, folder: Path) -> Path:
        """The same of a model that nobody is to load: none of its files is another one than its run was told of."""
        path = self._download(model_uri, folder)
        self._refuse_others(model_uri, path)
        return path

    def _refuse_others(self, model_uri: str, path: Path) -> None:
        """Raises Failure where a file of the model that lies at `path` is another one than its run was told of."""
        run_id = self._run_of(model_uri)
        recorded = {file: value for file, value in self._recorded(run_id).items() if file.startswith(_MODEL_FOLDER)}
        if self._is_recorded(run_id, model_uri, recorded):
            self._refuse_altered(model_uri, differences(recorded, _within_model(digests(path))))

    def seal(self, name: str, version: str, layout: Layout) -> bool:
        """Records the digests of a version of before they were, as its files are now; False where it has them.

        Raises Failure for a model that is not safe to load.
        """
        run_id = self.made_by(name, version)
        if self._recorded(run_id):
            return False
        with _temporary() as folder:
            path = self._download(f"models:/{name}/{version}", folder)
            if wrong := faults(path, layout):
                raise Failure(f"version {version} of {name} is not safe to load: {'; '.join(wrong[:5])}")
            found = _within_model(digests(path))
        with self._explained():
            texts = [entry.path for entry in self._client.list_artifacts(run_id) if not entry.is_dir]
        self._record(run_id, found | {file: digest(self.read_text(run_id, file).encode()) for file in texts})
        return True

    def log_sealed_text(self, run_id: str, file: str, text: str) -> None:
        """Writes a file of the run, which is told what it is."""
        self.log_text(run_id, file, text)
        self._record(run_id, {file: digest(text.encode())})

    def read_sealed_text(self, run_id: str, file: str) -> str:
        """A file of the run. Raises Failure where it is not there or is another one than the run was told of."""
        text, uri = self.read_text(run_id, file), f"runs:/{run_id}/{file}"
        recorded = self._recorded(run_id).get(file)
        if self._is_recorded(run_id, uri, recorded):
            self._refuse_altered(uri, [] if digest(text.encode()) == recorded else [f"{file} was altered"])
        return text

    def _download(self, model_uri: str, folder: Path) -> Path:
        from pathlib import Path

        import mlflow

        with self._explained(model_uri):
            path = Path(mlflow.artifacts.download_artifacts(model_uri, dst_path=str(folder)))
        forget_client(path)
        return path

    def _digests_of(self, model_uri: str) -> dict[str, str]:
        with _temporary() as folder:
            return digests(self._download(model_uri, folder))

    def _run_of(self, model_uri: str) -> str:
        """The run of runs:/<run id>/model, or the one that made models:/<name>/<version> or models:/<name>@<alias>."""
        scheme, _, place = model_uri.partition(":/")
        name, _, rest = place.partition("/")
        if scheme == "runs":
            return name
        name, _, alias = name.partition("@")
        version = self.aliased(name, alias) if alias else rest
        if version is None:
            raise Failure(f"no version of model {name!r} has the alias {alias!r}: give it to one")
        return self.made_by(name, version)

    def _record(self, run_id: str, found: Mapping[str, str]) -> None:
        self.log(run_id, tags={DIGESTS: json.dumps({**self._recorded(run_id), **found}, sort_keys=True)})

    def _recorded(self, run_id: str) -> dict[str, str]:
        recorded: dict[str, str] = json.loads(self.run(run_id).data.tags.get(DIGESTS, "{}"))
        return recorded

    def _is_recorded(self, run_id: str, subject: str, recorded: object) -> bool:
        """Whether there is something to compare with. A run of before 0.2 was told nothing, which values may refuse."""
        if recorded:
            return True
        remedy = "run 'python -m mlops serving seal' where its files are to be trusted as they are now, or train anew"
        if self._digests_required:
            raise Failure(f"run {run_id} does not say what the files of {subject} are: {remedy}")
        log.warning("run %s does not say what the files of %s are: %s", run_id, subject, remedy)
        return False

    @staticmethod
    def _refuse_altered(subject: str, wrong: Sequence[str]) -> None:
        if wrong:
            raise Failure(
                f"{subject} is not what was logged: {'; '.join(wrong[:5])}: see who can write to MLflow's bucket, and "
                "train the model anew"
            )

    def log_text(self, run_id: str, file: str, text: str) -> None:
        """Writes a file of the run, over the one there is."""
        with self._explained():
            self._client.log_text(run_id, text, file)

    def input_columns(self, model_uri: str) -> dict[str, str]:
        """The type of each column in the model's signature, in order, empty where it is any; no column without one."""
        return {str(column.name): getattr(column.type, "name", "") for column in self._inputs(model_uri)}

    def inputs(self, model_uri: str) -> list[Input]:
        """The columns in the model's signature, in order; none without one."""
        return [
            Input(str(column.name), getattr(column.type, "name", "") != "string", not column.required)
            for column in self._inputs(model_uri)
        ]

    def _inputs(self, model_uri: str) -> list[Any]:
        import mlflow

        with self._explained(model_uri):
            signature = mlflow.models.get_model_info(model_uri).signature
        return [] if signature is None else list(signature.inputs.inputs)

    def input_example(self, model_uri: str) -> bytes:
        """The model's input example as the JSON body of a request to a scoring server."""
        from pathlib import Path
        from tempfile import TemporaryDirectory

        import mlflow

        with TemporaryDirectory() as folder, self._explained(model_uri):
            file = mlflow.artifacts.download_artifacts(f"{model_uri}/serving_input_example.json", dst_path=folder)
            return Path(file).read_bytes()

    def read_text(self, run_id: str, file: str) -> str:
        """A file of the run. Raises Failure where it is not there."""
        from pathlib import Path
        from tempfile import TemporaryDirectory

        import mlflow

        uri = f"runs:/{run_id}/{file}"
        with TemporaryDirectory() as folder, self._explained(uri):
            path = mlflow.artifacts.download_artifacts(uri, dst_path=folder, tracking_uri=self._uri)
            return Path(path).read_text(encoding="utf-8")

    def texts(self, run_id: str) -> dict[str, str]:
        """The run's files of text. Raises Failure for one that is not what the run was told of."""
        with self._explained(f"runs:/{run_id}"):
            found = [entry.path for entry in self._client.list_artifacts(run_id) if not entry.is_dir]
        recorded = self._recorded(run_id)
        return {
            file: self.read_sealed_text(run_id, file) if file in recorded else self.read_text(run_id, file)
            for file in found
            if file.endswith(_TEXTS)
        }

    def find_text(self, run_id: str, file: str) -> str | None:
        """A file of the run; None where it has none of that name."""
        with self._explained(f"runs:/{run_id}/{file}"):
            there = any(entry.path == file for entry in self._client.list_artifacts(run_id))
        return self.read_text(run_id, file) if there else None

    def register(self, name: str, run_id: str, tags: Mapping[str, str] | None = None) -> str:
        """The version of the run's model in the registry: the one there is, else a new one, which has the tags.

        MLflow's client sends a request again whose answer was lost, and may so register twice: the older version
        stays, and one that nobody has written anything to is deleted.
        """
        import mlflow

        with self._explained():
            if not (versions := self._versions_of(name, run_id)):
                mlflow.register_model(f"runs:/{run_id}/{MODEL_ARTIFACT}", name, tags=dict(tags or {}))
                versions = self._versions_of(name, run_id)
            first, *surplus = versions
            for version in surplus:
                found = self._client.get_model_version(name, version)
                if not found.aliases and not found.description and found.tags == dict(tags or {}):
                    log.warning("version %s of %s is the second one of run %s: deleted", version, name, run_id)
                    self._client.delete_model_version(name, version)
        return first

    def _versions_of(self, name: str, run_id: str) -> list[str]:
        """The versions of a run's model, the oldest first."""
        found = self._client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        return sorted((str(version.version) for version in found), key=int)

    def models(self) -> list[RegisteredModel]:
        """All registered models by name, each with its versions, the oldest first, and its aliases."""
        with self._explained():
            found = {model.name: dict(model.aliases) for model in self._pages(self._client.search_registered_models)}
        return [self._model(name, found[name]) for name in sorted(found)]

    def model(self, name: str) -> RegisteredModel:
        """Raises Refused where no model of that name is registered."""
        from mlflow.exceptions import RestException

        with self._explained():
            try:
                aliases = self._client.get_registered_model(name).aliases
            except RestException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                remedy = "'python -m mlops registry list' names those that are"
                raise Refused(f"no model {name!r} is registered: {remedy}") from error
        return self._model(name, dict(aliases))

    def _model(self, name: str, aliases: Mapping[str, str]) -> RegisteredModel:
        return RegisteredModel(name, sorted(self.tagged_versions(name), key=int), aliases)

    def tagged_versions(self, name: str) -> dict[str, dict[str, str]]:
        """The tags of each version of a registered model, none of one that is not there."""
        with self._explained():
            found = self._pages(partial(self._client.search_model_versions, f"name = '{name}'"))
            return {str(version.version): dict(version.tags) for version in found}

    def version_tags(self, name: str, version: str) -> dict[str, str]:
        with self._explained(f"models:/{name}/{version}"):
            return dict(self._client.get_model_version(name, version).tags)

    def set_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        with self._explained(f"models:/{name}/{version}"):
            self._client.set_model_version_tag(name, version, key, value)

    @staticmethod
    def _pages(search: Callable[..., Any]) -> Iterator[Any]:
        token = None
        while True:
            page = search(page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def versions(self, name: str, tag: str, value: str) -> list[str]:
        """The versions of the registered model that carry the tag with this value, the oldest first."""
        with self._explained():
            found = self._client.search_model_versions(f"name = '{name}' and tags.`{tag}` = '{value}'")
            return sorted((str(version.version) for version in found), key=int)

    def made_by(self, name: str, version: str) -> str:
        """The run that made a version. Raises Failure where it names none."""
        with self._explained(f"models:/{name}/{version}"):
            run_id = self._client.get_model_version(name, version).run_id
        if not run_id:
            raise Failure(f"version {version} of model {name!r} names no run: give its alias to one that was trained")
        return str(run_id)

    def registered_runs(self) -> list[Run]:
        """The runs that all versions of all registered models were made by, those that were deleted among them."""
        with self._explained():
            versions = list(self._pages(self._client.search_model_versions))
            return [self._client.get_run(run_id) for run_id in sorted({one.run_id for one in versions if one.run_id})]

    def describe(self, name: str, version: str, description: str, tags: Mapping[str, str]) -> None:
        """Writes a version's description and tags; repeating it changes nothing."""
        with self._explained():
            self._client.update_model_version(name, version, description)
            for key, value in tags.items():
                self._client.set_model_version_tag(name, version, key, value)

    def aliased(self, name: str, alias: str) -> str | None:
        """The version of the registered model that has the alias; None where no version or no such model has it."""
        from mlflow.exceptions import RestException

        with self._explained():
            try:
                return str(self._client.get_model_version_by_alias(name, alias).version)
            except RestException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def aliased_versions(self) -> list[AliasedVersion]:
        """All versions of all registered models that have an alias, ordered by model and version."""
        with self._explained():
            found = [
                AliasedVersion(
                    model.name,
                    str(version),
                    sorted(alias for alias, of in model.aliases.items() if of == version),
                    self._tags(model.name, version),
                )
                for model in self._pages(self._client.search_registered_models)
                for version in set(model.aliases.values())
            ]
        return sorted(found, key=lambda entry: (entry.model, int(entry.version)))

    def _tags(self, name: str, version: str) -> dict[str, str]:
        """A version's tags, and those of the run that made it where that run is still there."""
        from mlflow.exceptions import RestException

        entry = self._client.get_model_version(name, version)
        try:
            made_by = self._client.get_run(entry.run_id).data.tags if entry.run_id else {}
        except RestException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            made_by = {}
        return {**made_by, **entry.tags}

    def set_alias(self, name: str, alias: str, version: str) -> None:
        with self._explained():
            self._client.set_registered_model_alias(name, alias, version)

    @contextmanager
    def _explained(self, subject: str | None = None) -> Iterator[None]:
        """Turns what the client raises into a Failure that names the server and the remedy."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            subject = f" for {subject}" if subject else ""
            if "Invalid Host header" in error.message:
                remedy = "add the server's name to its --allowed-hosts"
            elif error.error_code == "UNAUTHENTICATED":
                remedy = "correct the Secret global.mlflow.existingSecret, and start the pods anew that read it"
            elif error.error_code == "PERMISSION_DENIED":
                remedy = "a command that writes to MLflow needs 'mlflow' in mlops/needs.py"
            elif "Max retries" in error.message or "request to" in error.message:
                remedy = "check that MLflow runs and that global.services.mlflow names it"
            else:
                remedy = "see the log of the MLflow pod"
            raise Failure(f"MLflow at {self._uri} failed{subject}: {error.message.strip()}: {remedy}") from error


def health_check(settings: MLflowSettings, timeout: float = _HEALTH_TIMEOUT) -> Callable[[], object]:
    """A function that asks for an experiment, which the tracking server has from its database: whether both answer.

    It raises what `HttpService.ask` raises. timeout: seconds.
    """
    from mlops.stores.http import HttpService

    service = HttpService("MLflow", settings.tracking_uri, "global.services.mlflow", timeout=timeout)
    user = base64.b64encode(f"{settings.username}:{settings.password}".encode()).decode()
    headers = {"Authorization": f"Basic {user}"} if settings.password else {}
    return partial(service.ask, "GET", "/api/2.0/mlflow/experiments/search?max_results=1", headers=headers)


def load_through(model: Path, file: str, loader: str, config: Mapping[str, JSON], switch: str) -> None:
    """Has MLflow load a downloaded model through the module `loader`, and take the parameter `switch`, true or false.

    Its function `_load_pyfunc(path, config)` is told of the config and, as `columns`, of those of the signature. Of
    what was stored `file` and the signature are left, and what MLflow reads beside them is written here.
    """
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import ParamSchema, ParamSpec

    known = Model.load(str(model)).signature
    signature = ModelSignature(known.inputs, known.outputs, ParamSchema([ParamSpec(switch, "boolean", False)]))
    for path in model.iterdir():
        if path.name != file:
            path.unlink()
    flavor = {
        "loader_module": loader,
        "config": {**config, "columns": known.inputs.input_names()},
        "python_version": platform.python_version(),  # which MLflow warns about where it is not said
    }
    Model(flavors={"python_function": flavor}, signature=signature).save(str(model / DECLARATION))


def scoring_command(model: Path, host: str, port: int, factory: str) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment of MLflow's scoring server for a downloaded model.

    factory: `module:function` that makes the application, of `scoring_application`.
    """
    import shlex

    from mlflow.pyfunc.scoring_server import get_cmd

    command, environment = get_cmd(str(model), port, host)  # type: ignore[arg-type]  # its host is annotated as int
    *server, _ = shlex.split(command)  # the last word is MLflow's own application
    return [*server, "--factory", factory], environment


def scoring_application() -> Any:
    """MLflow's application (ASGI) for the model that the environment of `scoring_command` names, which is loaded."""
    from mlflow.pyfunc.scoring_server.app import app

    return app


@contextmanager
def _temporary() -> Iterator[Path]:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        yield Path(folder)


def _within_model(found: Mapping[str, str]) -> dict[str, str]:
    """Digests of a model's files by their paths in its run."""
    return {f"{_MODEL_FOLDER}{name}": value for name, value in found.items()}


def _refuse_long_tags(tags: Mapping[str, str]) -> None:
    """Raises Failure for a tag that MLflow would cut."""
    for key, value in tags.items():
        if len(value) > _TAG_LIMIT:
            raise Failure(f"tag {key} has {len(value)} characters, MLflow keeps {_TAG_LIMIT}: log it as a file")
