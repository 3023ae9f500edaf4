"""The local node's life, without a node: what is decided, asked and written, by stand-ins; its supervisor for real."""

import importlib
import json
import os
import runpy
import subprocess
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT

LOCAL = ROOT / "infrastructure/local"


@pytest.fixture
def state(tmp_path, monkeypatch):
    """The folder that the node is kept in; the modules imported meanwhile know this one."""
    names = [path.stem for path in LOCAL.glob("*.py") if path.stem != "__main__"]

    def forget():
        for name in names:
            sys.modules.pop(name, None)

    forget()
    monkeypatch.setenv("MAESTRO_LOCAL_STATE", str(tmp_path))
    monkeypatch.syspath_prepend(str(LOCAL))
    (tmp_path / "log").mkdir()
    (tmp_path / "bin").mkdir()
    yield tmp_path
    forget()


@pytest.fixture
def node(state):
    return importlib.import_module("node")


@pytest.fixture
def running(node, state, monkeypatch):
    """A node that is taken to run, whose API has the answers given one after the other; the last one stays."""
    (state / "initialised").touch()
    monkeypatch.setattr(node, "_inner", lambda: 1)
    monkeypatch.setattr(node, "node_ready", lambda: True)

    def started_anew():
        raise node.Failure("started anew")

    monkeypatch.setattr(node, "preflight", started_anew)

    def answers(*given):
        left = list(given)
        monkeypatch.setattr(node, "api_ready", lambda: left.pop(0) if len(left) > 1 else left[0])

    return answers


def test_a_node_that_answers_late_is_waited_for_and_not_ended(node, running, capsys):
    running(False, False, True)
    node.up()
    assert "waiting for the running node to answer" in capsys.readouterr().out


def test_a_node_that_answers_at_once_is_not_waited_for(node, running, capsys):
    running(True)
    node.up()
    assert "waiting" not in capsys.readouterr().out


def test_a_node_that_does_not_answer_in_time_is_started_anew(node, running, monkeypatch):
    running(False)
    monkeypatch.setattr(node, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(node.Failure, match="started anew"):
        node.up()


def test_a_node_whose_start_was_interrupted_is_started_anew_though_it_answers(node, running, state):
    running(True)
    (state / "half-started").touch()
    with pytest.raises(node.Failure, match="started anew"):
        node.up()


def test_a_node_that_ends_while_it_is_waited_for_is_started_anew_at_once(node, running, monkeypatch):
    running(False)
    alive, waited = [1, None], []
    monkeypatch.setattr(node, "_inner", lambda: alive.pop(0) if alive else None)
    monkeypatch.setattr(node, "holds_within", lambda holds, seconds: waited.append((holds(), seconds)))
    with pytest.raises(node.Failure, match="started anew"):
        node.up()
    assert waited == [(True, node.PATIENCE_SECONDS)]


@pytest.fixture
def cluster(state):
    """The traces of a whole cluster."""
    (state / "etcd/member").mkdir(parents=True)
    (state / "kubeconfig").touch()
    (state / "initialised").touch()
    return state


def test_a_removal_that_was_interrupted_leaves_no_cluster_to_be_started(node, cluster, monkeypatch):
    def interrupted(_path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(node.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            node._wipe()
    assert not (cluster / "initialised").exists()
    assert not (cluster / "kubeconfig").exists()
    node._wipe()
    assert not (cluster / "etcd").exists()


def test_what_cannot_be_removed_is_named(node, cluster, monkeypatch):
    def busy(_path):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(node.shutil, "rmtree", busy)
    with pytest.raises(node.Failure, match=r"containerd cannot be removed .*busy"):
        node._wipe()


@pytest.fixture
def proxies(monkeypatch):
    for name in ("http_proxy", "HTTPS_PROXY", "all_proxy", "No_Proxy"):
        monkeypatch.setenv(name, "proxy.test:9")


def test_kubectl_is_given_no_proxy(node, state, proxies, monkeypatch):
    monkeypatch.setenv("KEPT", "yes")
    (state / "bin/kubectl").write_text("#!/bin/sh\nexec env\n")
    (state / "bin/kubectl").chmod(0o755)
    seen = node.kubectl("version").stdout
    assert "KEPT=yes" in seen
    assert "proxy.test" not in seen


def test_the_node_is_given_no_proxy(node, state, proxies, monkeypatch):
    def started(command, env, **_options):
        (state / "command").write_text(json.dumps([command, env]))
        return SimpleNamespace(pid=os.getpid())

    monkeypatch.setattr(node.subprocess, "Popen", started)
    node._start()
    assert "proxy.test" not in (state / "command").read_text()
    assert "PYTHONUNBUFFERED" in (state / "command").read_text()


def pods(*phases):
    """kubectl's listing of the system's pods, started now, and one more for each phase."""
    started = {"running": {"startedAt": datetime.now(UTC).isoformat()}}
    ran = [
        {"metadata": {"name": f"{name}-x"}, "status": {"containerStatuses": [{"state": started, "ready": True}]}}
        for name in ("coredns", "metrics", "etcd")
    ]
    others = [{"metadata": {"name": "coredns-y"}, "status": {"phase": phase}} for phase in phases]
    return SimpleNamespace(returncode=0, stdout=json.dumps({"items": ran + others}))


@pytest.mark.parametrize(("phases", "expected"), [(("Failed", "Succeeded"), True), (("Pending",), False)])
def test_pods_of_the_system_that_have_ended_are_not_waited_for(node, monkeypatch, phases, expected):
    since = datetime.now(UTC)
    monkeypatch.setattr(node, "kubectl", lambda *_: pods(*phases))
    assert node._system_pods_run(since) is expected


def test_a_scaling_that_failed_is_tried_again(node, monkeypatch):
    codes = [0, 1, 0]
    monkeypatch.setattr(node, "kubectl", lambda *_: SimpleNamespace(returncode=codes.pop(0)))
    node._apply_addons()
    assert codes == []


def test_what_begins_a_connection_to_the_host_is_dropped_before_the_link_is_up(state, monkeypatch):
    for program in ("ip", "nsenter"):
        path = state / "bin" / program
        path.write_text(f'#!/bin/sh\necho "{program} $*" >> {state}/asked\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(state / "bin"))
    importlib.import_module("network").create()
    asked = (state / "asked").read_text().splitlines()
    rule = asked.index(
        "nsenter --net=/run/netns/maestro iptables -w -t mangle -A POSTROUTING -o eth0 "
        "-m conntrack --ctstate NEW -j DROP"
    )
    assert rule < asked.index("ip -n maestro link set eth0 up")
    assert not [line for line in asked if "iptables" in line and not line.startswith("nsenter --net=")]


def test_a_node_without_that_rule_is_not_made(state, monkeypatch):
    for program, code in (("ip", 0), ("nsenter", 1)):
        (state / "bin" / program).write_text(f"#!/bin/sh\necho no such table >&2\nexit {code}\n")
        (state / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(state / "bin"))
    network = importlib.import_module("network")
    with pytest.raises(network.Failure, match=r"iptables .*no such table"):
        network.create()


def python(program, state):
    """Starts a program that can import the node's modules."""
    environment = {**os.environ, "PYTHONPATH": str(LOCAL), "MAESTRO_LOCAL_STATE": str(state)}
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, text=True)


# In a process of its own: the supervisor reaps every child there is.
SUPERVISOR = """
import os, signal
import init
init.time.sleep = lambda _seconds: None
supervisor = init.Supervisor()
for name in ("one", "two", "three"):
    supervisor.start(name, "sleep", "300")
before = list(supervisor.running)
for pid in before:
    os.kill(pid, signal.SIGKILL)
for pid in before:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
supervisor.reap()
after = supervisor.running
print(*sorted(name for name, _process in after.values()), *set(before) & set(after))
for pid in after:
    os.kill(pid, signal.SIGKILL)
"""


def test_processes_of_the_node_that_end_together_all_come_back(state):
    output, _ = python(SUPERVISOR, state).communicate(timeout=240)
    assert output.splitlines()[-1].split() == ["one", "three", "two"]


def test_a_containerd_that_ends_at_its_start_is_told_with_its_log(state):
    init = importlib.import_module("init")
    ended = subprocess.Popen(["sh", "-c", "exit 3"])
    ended.wait()
    with pytest.raises(SystemExit, match=r"ended with 3.*containerd\.log"):
        init.wait_for_containerd(ended)


HOLD = """
import subprocess, sys
import steps
with steps.alone():
    child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    sys.stdin.readline()
"""
TAKE = "import steps\nwith steps.alone(): print('alone', flush=True)"


def test_of_two_runs_the_second_waits_and_what_the_first_started_does_not_keep_the_lock(state):
    environment = {**os.environ, "PYTHONPATH": str(LOCAL), "MAESTRO_LOCAL_STATE": str(state)}
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    )
    child = int(first.stdout.readline())
    try:
        second = python(TAKE, state)
        assert "another run is at work: waiting" in second.stdout.readline()
        first.communicate("\n", timeout=240)
        assert second.communicate(timeout=240)[0] == "alone\n"
        os.kill(child, 0)  # it runs still
    finally:
        os.kill(child, 9)


@pytest.mark.parametrize("command", ["up", "down", "delete", "status", "packages", "images", "blobs", "load"])
def test_a_command_that_needs_root_says_so_before_it_does_anything(state, monkeypatch, command):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["local", command, *(["x"] if command == "load" else [])])
    run = runpy.run_path(str(LOCAL / "__main__.py"), run_name="local")["run"]
    with pytest.raises(importlib.import_module("steps").Failure, match="sudo"):
        run()
    assert not (state / "lock").exists()


def test_go_is_run_with_the_words_given_and_ends_as_it_does(state, monkeypatch):
    (state / "bin/go").write_text(
        f'#!/bin/sh\n[ "$1" = version ] && echo go version go9.9 && exit\necho "$@" > {state}/asked\nexit 4\n'
    )
    (state / "bin/go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{state}/bin")
    monkeypatch.setattr(sys, "argv", ["local", "go", "install", "-v", "example.test/tool@v1"])
    assert runpy.run_path(str(LOCAL / "__main__.py"), run_name="local")["run"]() == 4
    assert (state / "asked").read_text() == "install -v example.test/tool@v1\n"


@pytest.fixture
def containerd(node, state, monkeypatch):
    """A node whose containerd has the images named in `whole`, takes what is imported, and removes names."""
    monkeypatch.setattr(node, "_inner", lambda: 1)
    monkeypatch.setenv("PATH", f"{state}/bin", prepend=os.pathsep)
    (state / "bin/nsenter").write_text('#!/bin/sh\nwhile [ "${1##*/}" != ctr ]; do shift; done\nexec "$@"\n')
    (state / "bin/ctr").write_text(
        f"""#!/bin/sh
case "$*" in
*" import -") cat >{state}/imported ;;
*" check "*) cat {state}/whole ;;
*" content "*) echo sha256:a && echo sha256:b ;;
*) printf '%s ' "$@" >>{state}/asked ;;
esac
"""
    )
    for program in ("nsenter", "ctr"):
        (state / "bin" / program).chmod(0o755)
    return state


@pytest.fixture
def archive(state, monkeypatch):
    (state / "archive").write_text("archive")
    with (state / "archive").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        yield


def test_an_archive_is_read_from_standard_input(node, containerd, archive):
    (containerd / "whole").write_text("task:1\nfeast:1\n")
    node.load(["feast:1", "task:1"])
    assert (containerd / "imported").read_text() == "archive"
    assert not (containerd / "asked").exists()
    assert node.blobs() == ["sha256:a", "sha256:b"]


def test_an_image_that_the_node_has_in_part_keeps_no_name(node, containerd, archive):
    (containerd / "whole").write_text("task:1\n")
    with pytest.raises(node.Failure, match=r"layers of feast:1 .*run the same command again"):
        node.load(["feast:1", "task:1"])
    assert (containerd / "asked").read_text() == "-n k8s.io images rm feast:1 "


def test_a_containerd_that_does_not_answer_is_told_in_its_own_words(node, containerd):
    (containerd / "bin/ctr").write_text("#!/bin/sh\necho no such socket >&2\nexit 1\n")
    with pytest.raises(node.Failure, match="no such socket"):
        node.images()


APT = """#!/bin/sh
mkdir {folder}/busy || exit 100
echo "$@" >>{folder}/asked
[ "$1" = update ] || touch {folder}/installed
rmdir {folder}/busy
"""


def test_of_two_runs_that_install_packages_the_second_waits_and_finds_nothing_missing(tmp_path, monkeypatch):
    for name, text in {
        "apt-get": APT.format(folder=tmp_path),
        "dpkg-query": f"#!/bin/sh\n[ -e {tmp_path}/installed ] && echo install ok installed\n",
        "id": "#!/bin/sh\necho 0\n",
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}", prepend=os.pathsep)
    runs = [subprocess.Popen([ROOT / "infrastructure/packages", "one", "two"]) for _ in range(4)]
    assert [run.wait(timeout=240) for run in runs] == [0, 0, 0, 0]
    assert (tmp_path / "asked").read_text() == "update -q\ninstall -qy --no-install-recommends one two\n"


def test_a_long_step_says_beforehand_how_long_it_usually_takes(state, capsys):
    steps = importlib.import_module("steps")
    with steps.step("building the node", usually="5 min"):
        assert capsys.readouterr().out == "[cluster] building the node (usually 5 min) ... "


GO = """#!/bin/sh
case "$*" in
version) echo go version go9.9 ;;
*"mod download"*)
  [ -e {state}/unknown ] && echo '{{"Error": "no such version"}}' && exit 1
  mkdir -p "$GOMODCACHE/keda/config"
  echo "{{\\"Dir\\": \\"$GOMODCACHE/keda\\"}}" ;;
build*)
  echo "$PWD $*" >>{state}/asked
  [ -e {state}/broken ] && echo 'undefined: x' && exit 1
  while [ "$1" != -o ]; do shift; done
  echo operator >"$2/operator" && echo adapter >"$2/adapter" ;;
esac
"""
# The last argument of a push is where the archive is to be.
BUILDAH = """#!/bin/sh
[ "$1" = push ] || exit 0
for last; do :; done
path=${last#docker-archive:}
echo image >"${path%%:*}"
"""
KUBECTL = '#!/bin/sh\n[ "$1" = kustomize ] && cp "$2/kustomization.yaml" "$4"\nexit 0\n'


@pytest.fixture
def keda(state, monkeypatch):
    """What builds KEDA and brings it to a node, with programs that do as Go, buildah and kubectl do."""
    for name, program in (("go", GO.format(state=state)), ("buildah", BUILDAH), ("kubectl", KUBECTL)):
        (state / "bin" / name).write_text(program)
        (state / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{state}/bin", prepend=os.pathsep)
    module = importlib.import_module("keda")
    monkeypatch.setattr(module.programs, "install_packages", lambda: None)
    monkeypatch.setattr(module.programs, "build_binaries", lambda: None)
    monkeypatch.setattr(module, "DISK", 0)
    return module


def test_keda_is_not_built_where_it_would_fill_the_disk(keda, state, monkeypatch):
    monkeypatch.setattr(keda, "DISK", 10**18)
    with pytest.raises(keda.Failure, match="make room, or do without KEDA"):
        keda.build()
    assert not (state / "asked").exists()


def test_keda_is_built_once_and_what_it_was_built_from_is_not_kept(keda, state):
    built = keda.build()
    assert {path.name for path in built.iterdir()} == {"image.tar", "keda.yaml"}
    assert "VERSION" not in (built / "keda.yaml").read_text()
    assert f"localhost/keda:{keda.KEDA_VERSION}" in (built / "keda.yaml").read_text()
    asked = (state / "asked").read_text()
    assert asked.endswith("./cmd/operator ./cmd/adapter\n")
    assert asked.split()[0].endswith("/source"), "in a copy of the module, whose replace directives then count"
    assert keda.build() == built
    assert (state / "asked").read_text() == asked


def test_keda_that_does_not_compile_leaves_neither_a_build_nor_its_gigabytes(keda, state):
    (state / "broken").touch()
    with pytest.raises(keda.Failure, match="undefined: x"):
        keda.build()
    assert not keda.folder().exists()
    assert list((keda.folder().parent / "partial-keda").iterdir()) == []
    (state / "broken").unlink()
    keda.build()
    assert keda.folder().exists()


def test_a_version_of_keda_that_cannot_be_had_is_told_in_the_words_of_go(keda, state):
    (state / "unknown").touch()
    with pytest.raises(keda.Failure, match=r"keda/v2@v\S+ cannot be had: no such version"):
        keda.build()


@pytest.mark.parametrize("present", [False, True])
def test_keda_is_applied_and_waited_for_and_an_image_that_is_there_is_not_imported(keda, present, monkeypatch):
    asked, imported = [], []

    def kubectl(*arguments):
        asked.append(arguments)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(keda.node, "kubectl", kubectl)
    monkeypatch.setattr(keda.node, "import_image", imported.append)
    monkeypatch.setattr(keda.node, "images", lambda: [keda.IMAGE] if present else [])
    keda.apply()
    assert imported == ([] if present else [keda.folder() / "image.tar"])
    assert asked[0][0] == "apply"
    assert asked[-1][:2] == ("wait", keda.METRICS)


def test_a_keda_that_does_not_come_up_is_told_in_the_words_of_kubectl(keda, monkeypatch):
    monkeypatch.setattr(keda.node, "images", lambda: [keda.IMAGE])
    refusal = SimpleNamespace(returncode=1, stderr="timed out")
    monkeypatch.setattr(keda.node, "kubectl", lambda *_: refusal)
    with pytest.raises(keda.Failure, match="timed out"):
        keda.apply()
