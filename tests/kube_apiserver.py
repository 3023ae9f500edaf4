"""A real Kubernetes API server on an etcd of its own, both out of the local node's binary.

Roles, admission, validation, uids, versions and graces are its own. There is no controller, scheduler or kubelet behind
it: an object stays as it is until a test plays their part. An API that is away, slow or broken is
tests/dags/fake_kubernetes.py.
"""

from __future__ import annotations

import base64
import json
import shlex
import ssl
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from kubernetes.client import ApiClient
from kubernetes.config import new_client_from_config_dict

from infrastructure.local.config import BIN
from tests.processes import eventually, free_ports
from tests.servers import Server, shared

Object = dict[str, Any]

# The kinds that say who may do what.
GRANTING = ("ServiceAccount", "Role", "RoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")

_ADMIN = "admin"  # the token of one who may do everything
_NODE = "node"  # where pods are said to run
_SERVICE_ACCOUNTS = "system:serviceaccount"
# Each request of a service account is written down before it is answered, with whether it was allowed.
_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": [f"{_SERVICE_ACCOUNTS}s"]}, {"level": "None"}],
}


@dataclass(frozen=True)
class KubeApiserver:
    """folder: what it keeps on disk; address, etcd: where the two servers listen."""

    folder: str
    address: str
    etcd: str

    @classmethod
    def shared(cls, run: Path) -> KubeApiserver:
        """The one of all processes of a run."""
        return cls(**json.loads(shared(run, ApiserverOnEtcd)))

    def is_ready(self) -> bool:
        try:
            context = ssl.create_default_context(cafile=self.certificate)
            with urllib.request.urlopen(f"{self.address}/readyz", timeout=2, context=context):
                return True
        except OSError:
            return False

    @property
    def certificate(self) -> Path:
        """The server's own, which it signs itself."""
        return Path(self.folder, "apiserver.crt")

    def kubeconfig(self, token: str = _ADMIN) -> Object:
        authority = base64.b64encode(self.certificate.read_bytes()).decode()
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [
                {"name": "test", "cluster": {"server": self.address, "certificate-authority-data": authority}}
            ],
            "users": [{"name": "test", "user": {"token": token}}],
        }

    def namespace(self, pod_security: str = "restricted") -> Namespace:
        """A new namespace, which takes no pod but those of this level of Pod Security."""
        namespace = Namespace(self, f"test-{uuid.uuid4().hex[:12]}")
        labels = {"pod-security.kubernetes.io/enforce": pod_security}
        body = {"metadata": {"name": namespace.namespace, "labels": labels}}
        call(namespace.admin, "POST", "/api/v1/namespaces", body)
        # The work of a controller.
        namespace.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})
        return namespace

    def compact(self) -> None:
        """Has etcd forget all versions but the newest one, as the API server has it do every five minutes."""
        newest = self._ask_etcd("range", key=base64.b64encode(b"/").decode())["header"]["revision"]
        self._ask_etcd("compaction", revision=newest)

    def _ask_etcd(self, what: str, **body: str) -> Object:
        with urllib.request.urlopen(f"{self.etcd}/v3/kv/{what}", json.dumps(body).encode()) as answer:
            said: Object = json.load(answer)
            return said


@dataclass(frozen=True)
class Namespace:
    """A namespace, and what a scheduler and a kubelet do to the pods in it."""

    server: KubeApiserver
    namespace: str

    @cached_property
    def admin(self) -> ApiClient:
        return new_client_from_config_dict(self.server.kubeconfig())

    def path(self, resource: str, group: str = "v1") -> str:
        """resource: as in `pods/NAME/status`; group: as in `apps/v1`."""
        return f"/{'api' if group == 'v1' else 'apis'}/{group}/namespaces/{self.namespace}/{resource}"

    def create(self, entry: Object, **query: str) -> Object:
        """Creates an object of any kind. Raises ApiException where the server refuses it."""
        group = entry["apiVersion"]
        resource, namespaced = self._resources(group)[entry["kind"]]
        path = self.path(resource, group) if namespaced else f"/apis/{group}/{resource}"
        return call(self.admin, "POST", path, entry, **query)

    def grant(self, objects: list[Object]) -> None:
        """Creates the service accounts among the objects, and what they are allowed."""
        for entry in objects:
            if entry["kind"] in GRANTING:
                self.create(entry, fieldValidation="Strict")

    def granted(self, role: str) -> set[tuple[str, str]]:
        """(verb, resource) of all that a Role allows."""
        rules = call(self.admin, "GET", self.path(f"roles/{role}", "rbac.authorization.k8s.io/v1"))["rules"]
        return {(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}

    def _resources(self, group: str) -> dict[str, tuple[str, bool]]:
        """The plural names of a group's kinds, and whether they lie in a namespace."""
        listed = call(self.admin, "GET", f"/{'api' if group == 'v1' else 'apis'}/{group}")["resources"]
        return {entry["kind"]: (entry["name"], entry["namespaced"]) for entry in listed if "/" not in entry["name"]}

    def kubeconfig(self, service_account: str) -> Object:
        """A kubeconfig with a token such as the kubelet gives to the pods of a service account."""
        path = self.path(f"serviceaccounts/{service_account}/token")
        return self.server.kubeconfig(call(self.admin, "POST", path, {"spec": {}})["status"]["token"])

    def client(self, service_account: str) -> ApiClient:
        """A client with the rights of a service account."""
        return new_client_from_config_dict(self.kubeconfig(service_account))

    def requests(self, service_account: str) -> set[tuple[str, str]]:
        """(verb, resource) of all that was asked for here by a service account and allowed: ("get", "pods/log")."""
        user, found = f"{_SERVICE_ACCOUNTS}:{self.namespace}:{service_account}", set()
        whole, _, _ = (Path(self.server.folder) / "audit.log").read_text().rpartition("\n")
        for event in map(json.loads, whole.splitlines()):
            allowed = event["annotations"]["authorization.k8s.io/decision"] == "allow"
            if event["user"]["username"] == user and allowed:
                subject = event["objectRef"]
                found.add((event["verb"], "/".join(filter(None, map(subject.get, ("resource", "subresource"))))))
        return found

    @property
    def pods(self) -> dict[str, Object]:
        return {pod["metadata"]["name"]: pod for pod in call(self.admin, "GET", self.path("pods"))["items"]}

    def status(self, name: str, **fields: Any) -> None:
        call(self.admin, "PATCH", self.path(f"pods/{name}/status"), {"status": fields})

    def container(self, name: str, container: str = "base", **state: Any) -> None:
        """Sets the state of a container: container(name, running={...})."""
        known = {"name": container, "image": "", "imageID": "", "ready": False, "restartCount": 0}
        self.status(name, containerStatuses=[{**known, "state": state}])

    def run(self, name: str) -> None:
        """The scheduler gives the pod to a node, which starts its container."""
        body = {"metadata": {"name": name}, "target": {"kind": "Node", "name": _NODE}}
        call(self.admin, "POST", self.path(f"pods/{name}/binding"), body)
        self.container(name, running={"startedAt": _timestamp()})
        self.status(name, phase="Running")

    def exit(self, name: str, code: int = 0, message: str = "", finished: float | None = None) -> None:
        """The container ends, at Unix time `finished`. The phase lags behind, as in a real cluster."""
        reason = "Completed" if code == 0 else "Error"
        ended = {"exitCode": code, "reason": reason, "message": message}
        self.container(
            name, terminated={**ended, "startedAt": _timestamp(finished), "finishedAt": _timestamp(finished)}
        )

    def terminate(self, name: str, grace: int = 30) -> None:
        """Somebody deletes the pod: where it runs, it is told to end and stays until its containers have ended."""
        call(self.admin, "DELETE", self.path(f"pods/{name}"), {"gracePeriodSeconds": grace})

    def remove(self, name: str) -> None:
        """The kubelet confirms the end of a pod that was deleted; or somebody forces it out."""
        self.terminate(name, 0)

    def wait_for(self, condition: Callable[[], bool], timeout: float = 60.0) -> None:
        eventually(condition, timeout)


def call(client: ApiClient, method: str, path: str, body: Object | None = None, **query: str) -> Object:
    """The answer to one request as JSON. Raises ApiException where it is refused."""
    media = "application/merge-patch+json" if method == "PATCH" else "application/json"
    answer: Object = client.call_api(
        path,
        method,
        query_params=list(query.items()),
        header_params={"Content-Type": media, "Accept": "application/json"},
        body=body,
        response_types_map=dict.fromkeys((200, 201, 202), "object"),
        auth_settings=["BearerToken"],
        _return_http_data_only=True,
    )
    return answer


class ApiserverOnEtcd(Server):
    """Both servers, as one. Its address is the fields of KubeApiserver as JSON."""

    def prepared(self) -> tuple[list[str], str]:
        folder = self.folder
        for program in ("etcd", "kube-apiserver"):
            (folder / program).symlink_to(BIN / "node")
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        (folder / "service-accounts.key").write_bytes(pem)
        (folder / "tokens.csv").write_text(f'{_ADMIN},admin,admin,"system:masters"\n')
        (folder / "audit.yaml").write_text(json.dumps(_AUDIT))
        clients, peers, port = free_ports(3)
        etcd, address = f"http://127.0.0.1:{clients}", f"https://127.0.0.1:{port}"
        store = [
            *(str(folder / "etcd"), "--data-dir", str(folder / "etcd-data"), "--unsafe-no-fsync"),
            *("--listen-client-urls", etcd, "--advertise-client-urls", etcd),
            *("--listen-peer-urls", f"http://127.0.0.1:{peers}"),
        ]
        api = [
            *(str(folder / "kube-apiserver"), f"--etcd-servers={etcd}", f"--cert-dir={folder}"),
            *("--bind-address=127.0.0.1", f"--secure-port={port}", "--service-cluster-ip-range=10.96.0.0/16"),
            *("--authorization-mode=RBAC", f"--token-auth-file={folder}/tokens.csv"),
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder}/service-accounts.key",
            f"--service-account-signing-key-file={folder}/service-accounts.key",
            *(f"--audit-policy-file={folder}/audit.yaml", f"--audit-log-path={folder}/audit.log"),
            # Versions of pods are etcd's, so that compacting it makes them expire. A cache holds the last minutes' too.
            "--watch-cache-sizes=pods#0",
        ]
        both = f"{shlex.join(store)} & exec {shlex.join(api)}"  # of one process group, which is ended as a whole
        return ["sh", "-c", both], json.dumps({"folder": str(folder), "address": address, "etcd": etcd})

    def is_ready(self) -> bool:
        return KubeApiserver(**json.loads(self.url)).is_ready()


def _timestamp(seconds: float | None = None) -> str:
    """RFC 3339 in whole seconds, as the API writes times."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
