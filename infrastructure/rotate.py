"""`make rotate SECRET=...`: another password in place of one that a chart made, in the store and at all who read it.

What can be rotated is a row of `ROTATIONS`. Each goes the same way, and can be run again wherever it was interrupted:

1. The store takes the new value too, where it can know two; or readers know both, and what they stored by the old one
   is stored anew.
2. The Secret holds the new one, and when it was rotated.
3. The store is told of it, where it knows one.
4. The pods that read it start anew, one after the other; those of tasks read it at their own start. Of what the Secret
   holds on the way, too.

No value is an argument of a process, is printed, or is written to a file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import string
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from infrastructure.release import RELEASE, NotInstalled, find, kubectl, object_name, succeeded

ROTATED = "rotated.maestro/"  # annotation of a Secret, with the key behind it
LABEL = "maestro/secrets"  # of pods; charts/common/templates/_rotation.tpl
SECONDS = 600  # for the replacement of one workload's pods, and for a Job
_AGAIN = "-again-"  # in the name of a Job that was run once more
_KEPT = 24 * 60 * 60  # seconds that the log of one that failed can be read
_LETTERS = string.ascii_letters + string.digits

Object = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """A value that is replaced."""

    key: str
    old: str
    new: str


def _nothing(_: Change) -> None:
    """Where the store reads its password when it starts."""


def _letters(length: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def password() -> str:
    """32 letters and digits, as the charts make them."""
    return _letters(32)


def signing_key() -> str:
    return _letters(64)


@dataclass(frozen=True)
class Rotation:
    """How one value is replaced.

    secret: the component whose Secret holds it, below `key`.
    also_accept, tell: the steps 1 and 3 of the module's text.
    can_tell: asked before anything is changed; raises NotInstalled where the store could not be told.
    between: what the Secret holds one after the other before it holds the new value alone, where readers need both.
    store_anew: what was stored by the old value, once all readers know the new one.
    told: components that read it at their start and are told of it while they run, which need no new start.
    last: the store itself, where it is to start anew after its readers.
    """

    secret: str
    key: str
    make: Callable[[], str] = password
    also_accept: Callable[[Change], None] = _nothing
    tell: Callable[[Change], None] = _nothing
    can_tell: Callable[[], object] = lambda: None
    between: Callable[[Change], tuple[str, ...]] = lambda _: ()
    store_anew: Callable[[Change], None] = _nothing
    told: tuple[str, ...] = ()
    last: str | None = None


# How stores are told


def _inside(component: str, *command: str, stdin: str, kind: str = "deployment", container: str | None = None) -> str:
    """Runs a command in a pod of a component, with this input."""
    where = [object_name(kind, component), "-c", container or component]
    return kubectl("exec", "-i", *where, "--", *command, stdin=stdin)


def alter_role(role: str) -> Callable[[Change], None]:
    def tell(change: Change) -> None:
        kubectl_psql(alter_role_sql(role, change.new))

    return tell


def alter_role_sql(role: str, new: str) -> str:
    """The statement, for a password of letters and digits."""
    if not new.isalnum():
        raise ValueError("a password that is written into SQL has letters and digits only")
    return f"ALTER ROLE \"{role}\" PASSWORD '{new}';\n"


def kubectl_psql(sql: str) -> None:
    """By the socket in the server's own pod, which asks its superuser for no password."""
    psql = ("psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--host=/tmp", "--username=postgres")
    _inside("postgresql", *psql, stdin=sql, kind="statefulset")


def redis_accepts_both(user: str) -> Callable[[Change], None]:
    def also_accept(change: Change) -> None:
        said = _inside("redis", "redis-cli", stdin=redis_command(user, change.new), kind="statefulset")
        if said.strip() != "OK":
            raise NotInstalled(f"Redis answered {said.strip()[:80]!r} to a second password: look at its log")

    return also_accept


def redis_command(user: str, new: str) -> str:
    return f"ACL SETUSER {user} >{new}\n"


def run_again(component: str) -> Callable[[Change], None]:
    """By the Job that sets the store up, which sets passwords as the Secrets have them."""

    def tell(_: Change) -> None:
        made = json.loads(kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(another(_newest_job(component)))))
        name = f"job/{made['metadata']['name']}"
        if not succeeded(name, SECONDS, f"the Job {name}"):
            raise NotInstalled(f"{name} failed: read 'kubectl logs {name}', then run this again")
        kubectl("delete", name)

    return tell


def _newest_job(component: str) -> Object:
    """Of those that a chart made: one that was run again, and failed, is no model for the next."""
    labels = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component={component}"
    items: list[Object] = json.loads(kubectl("get", "job", "-l", labels, "-o", "json"))["items"]
    found = [job for job in items if _AGAIN not in job["metadata"]["name"]]
    if not found:
        raise NotInstalled(f"the Job of {component} is gone: 'make install' makes it anew, then run this again")
    return max(found, key=lambda job: str(job["metadata"]["creationTimestamp"]))


def another(job: Object) -> Object:
    """The same Job once more, as it is given to `kubectl create`."""
    template = job["spec"]["template"]
    labels = {
        k: v for k, v in template["metadata"]["labels"].items() if "controller-uid" not in k and "job-name" not in k
    }
    kept = {key: value for key, value in job["spec"].items() if key not in ("selector", "manualSelector")}
    kept["ttlSecondsAfterFinished"] = _KEPT
    name = job["metadata"]["name"]
    owned = {key: job["metadata"]["labels"][key] for key in job["metadata"]["labels"] if "controller-uid" not in key}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": f"{name}{_AGAIN}", "labels": owned},
        "spec": {**kept, "template": {**template, "metadata": {"labels": labels}}},
    }


# As `airflow rotate-fernet-key`, which ends where a task waits: what the task's trigger is given is not encrypted.
_RE_ENCRYPT = """
from airflow.cli.commands.rotate_fernet_key_command import rotate_items_in_batches
from airflow.models import Connection, Trigger, Variable
from airflow.models.connection_test import ConnectionTestRequest
from airflow.utils.session import create_session

with create_session() as session:
    for model in (Connection, ConnectionTestRequest):
        rotate_items_in_batches(session, model, model.is_encrypted | model.is_extra_encrypted)
    rotate_items_in_batches(session, Variable, Variable.is_encrypted)
    rotate_items_in_batches(session, Trigger, Trigger.encrypted_kwargs.not_like("{%"))
"""


def re_encrypt(change: Change) -> None:
    """All that Airflow's database holds encrypted, by the new key.

    It is told the keys by its input, as the pod that kubectl finds may be one that ends and does not know the last.
    """
    keys = f"import os\nos.environ['AIRFLOW__CORE__FERNET_KEY'] = {old_and_new(change)[-1]!r}\n"
    _inside("airflow-scheduler", "python", "-", stdin=keys + _RE_ENCRYPT, container="scheduler")


def fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def old_and_new(change: Change) -> tuple[str, str]:
    """Airflow encrypts with the first key and decrypts with each; one of an interrupted rotation is kept.

    Pods start anew one after the other: all know the new key before the first of them encrypts by it.
    """
    return f"{change.old},{change.new}", f"{change.new},{change.old}"


def _database(name: str) -> Rotation:
    return Rotation("postgresql", f"{name}-password", tell=alter_role(name), told=("postgresql",))


def _redis(user: str, key: str) -> Rotation:
    """Redis knows both until its own pod starts anew, which is when its probes use the new one."""
    return Rotation("redis", key, also_accept=redis_accepts_both(user), last="redis")


def _by_job(secret: str, key: str, component: str) -> Rotation:
    return Rotation(secret, key, tell=run_again(component), can_tell=lambda: _newest_job(component))


def _store_user(name: str) -> Rotation:
    return _by_job(f"minio-{name}", "secret-key", "minio-buckets")


STORE_USERS = ("airflow", "mlflow", "feast", "serving", "tasks", "features", "backups")

ROTATIONS: Mapping[str, Rotation] = {
    **{
        f"postgresql-{name}": _database(name)
        for name in ("airflow", "mlflow", "feast", "sensors", "ledger", "monitoring")
    },
    "postgresql-pooler": Rotation(
        "postgresql",
        "pooler-password",
        tell=alter_role("pooler"),
        told=("postgresql",),
        can_tell=lambda: find("deployment", "postgresql-pooler"),
    ),
    "postgresql": Rotation("postgresql", "postgres-password", tell=alter_role("postgres"), last="postgresql"),
    "redis": _redis("default", "redis-password"),
    **{f"redis-{user}": _redis(user, f"{user}-password") for user in ("features", "queue", "celery", "monitoring")},
    "minio": Rotation("minio", "root-password"),
    **{f"minio-{user}": _store_user(user) for user in STORE_USERS},
    **{f"mlflow-{user}": Rotation("mlflow", f"{user}-password") for user in ("writer", "reader")},
    "sensor-trainer": Rotation("sensor-trainer", "token"),
    "airflow-admin": _by_job("airflow", "admin-password", "airflow-setup"),
    "airflow-read-only": _by_job("airflow", "read-only-password", "airflow-setup"),
    "airflow-jwt": Rotation("airflow", "jwt-secret", signing_key),
    "airflow-api": Rotation("airflow", "api-secret-key", signing_key),
    "airflow-fernet": Rotation("airflow", "fernet-key", fernet_key, between=old_and_new, store_anew=re_encrypt),
}


def rotate(name: str) -> None:
    """Replaces one value. Raises NotInstalled where its Secret is not one that a chart made."""
    if name not in ROTATIONS:
        raise NotInstalled(f"nothing is called {name!r}: use one of {', '.join(sorted(ROTATIONS))}")
    rotation = ROTATIONS[name]
    secret = find("secret", rotation.secret)
    if not is_generated(secret):
        raise NotInstalled(
            f"Secret {secret['metadata']['name']} is yours: change it and its store yourself, "
            "then 'make install' starts its readers anew"
        )
    rotation.can_tell()
    change = Change(rotation.key, base64.b64decode(secret["data"][rotation.key]).decode(), rotation.make())
    _say(f"{name}: the store")
    rotation.also_accept(change)
    for value in rotation.between(change):
        _store(secret, change.key, value)
        _restart(rotation, secret["metadata"]["name"], change.key)
    rotation.store_anew(change)
    _store(secret, change.key, change.new)
    rotation.tell(change)
    _restart(rotation, secret["metadata"]["name"], change.key)
    _say(f"{name}: done")


def is_generated(secret: Object) -> bool:
    return bool(secret["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep")


def _store(secret: Object, key: str, value: str) -> None:
    name, encoded = secret["metadata"]["name"], base64.b64encode(value.encode()).decode()
    stamp = f"{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(2)}"
    patch = {"metadata": {"annotations": {ROTATED + key: stamp}}, "data": {key: encoded}}
    kubectl("patch", "secret", name, "--patch-file=/dev/stdin", stdin=json.dumps(patch))


def _restart(rotation: Rotation, secret: str, key: str) -> None:
    workloads: list[Object] = json.loads(
        kubectl("get", "deployments,statefulsets", "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "json")
    )["items"]
    stored = json.loads(kubectl("get", "secrets", "-o", "json"))["items"]
    for kind, name, patch in restarts(rotation, workloads, stored, (secret, key)):
        _say(f"{name} starts anew")
        kubectl("patch", kind, name, "--patch-file=/dev/stdin", stdin=json.dumps(patch))
        kubectl("rollout", "status", f"{kind}/{name}", f"--timeout={SECONDS}s")


def restarts(
    rotation: Rotation, workloads: list[Object], stored: list[Object], value: tuple[str, str]
) -> Iterator[tuple[str, str, Object]]:
    """Kind, name and patch of each workload whose pods start anew, the store itself last.

    The patch is the label that the charts give such pods, so that the next upgrade finds nothing to change.
    """
    by_name = {entry["metadata"]["name"]: entry for entry in stored}

    def component(workload: Object) -> str:
        return str(workload["metadata"]["labels"]["app.kubernetes.io/component"])

    def order(workload: Object) -> tuple[bool, bool, str]:
        """Schedulers behind workers: a result that one of these could not write takes a place until a new start."""
        name = component(workload)
        return name == rotation.last, name == "airflow-scheduler", name

    for workload in sorted(workloads, key=order):
        read = set(reads(workload["spec"]["template"]["spec"]))
        if value not in read or component(workload) in rotation.told:
            continue
        label = None if component(workload) == "postgresql" else secrets_label(read, by_name)
        metadata: Object = {"labels": {LABEL: label}}
        if label is None:  # which the charts do not know of it
            metadata = {"annotations": {"maestro/restarted": time.strftime("%Y-%m-%dT%H:%M:%S")}}
        patch = {"spec": {"template": {"metadata": metadata}}}
        yield workload["kind"].lower(), workload["metadata"]["name"], patch


def reads(spec: Object) -> Iterator[tuple[str, str]]:
    """(Secret, key) of all that the containers of a pod read into their environment."""
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        for entry in container.get("env", ()):
            if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
                yield reference["name"], reference["key"]


def secrets_label(read: set[tuple[str, str]], secrets_by_name: Mapping[str, Object]) -> str | None:
    """As common.secretsLabel of the charts computes it."""
    stamps = []
    for name, key in read:
        if name not in secrets_by_name:
            continue
        secret = secrets_by_name[name]
        stamp = secret["metadata"].get("annotations", {}).get(ROTATED + key, "")
        if not is_generated(secret):
            stamp = hashlib.sha256(secret.get("data", {}).get(key, "").encode()).hexdigest()[:8]
        if stamp:
            stamps.append(f"{name}/{key}={stamp}")
    return "s" + hashlib.sha256(",".join(sorted(stamps)).encode()).hexdigest()[:12] if stamps else None


def _say(text: str) -> None:
    print(f"[rotate] {text}", flush=True)


def main() -> int:
    try:
        rotate(os.environ.get("SECRET", ""))
    except (NotInstalled, TimeoutError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
