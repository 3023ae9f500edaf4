"""What can become of a pod, one task each. tests/e2e/test_operator.py places this file into the release."""

from datetime import timedelta

from airflow.sdk import DAG, Asset

from mlops.airflow.authoring.operator import PodTask

ONCE = {"retries": 0}
TWICE = {"retries": 1, "retry_delay": timedelta(seconds=5)}


def shell(task_id: str, script: str, **options: object) -> PodTask:
    return PodTask(task_id=task_id, arguments=["sh", "-c", script], **options)


with DAG(dag_id="operator_faults", schedule=None, is_paused_upon_creation=False, max_active_tasks=32, tags=["e2e"]):
    result = shell("result", """echo '{"rows": 3, "text": "a \\"b\\""}' > /dev/termination-log""")
    reads = shell("reads", 'test "$ROWS" = 3', env={"ROWS": result.result("rows")}, **ONCE)
    result >> reads
    # What the kubelet would put the environment in place of.
    PodTask(
        task_id="literal",
        arguments=[
            *("python", "-c", "import json, os, sys; print(json.dumps([*sys.argv[1:], os.environ['GIVEN']]))"),
            *("$(AWS_SECRET_ACCESS_KEY)", "$$(HOME)", "$$", "a$b$"),
        ],
        env={"GIVEN": "$(AWS_SECRET_ACCESS_KEY) $$"},
    )
    shell("long_log", "seq -f 'line %g' 20000; echo 'the last line' >&2")
    shell("last_words", 'echo begin; exec python -c \'print("x" * 200_000); print("end of it")\'')
    shell("exits_3", "echo 'no bucket' > /dev/termination-log; exit 3", **TWICE)
    shell("only_stderr", "echo 'a cause on stderr' >&2; exit 1", **ONCE)
    shell("not_json", "echo done > /dev/termination-log", **ONCE)
    shell("second_try", 'test "$MAESTRO_TRY_NUMBER" = 2', **TWICE)
    shell("skips", """echo '{"skipped": "too few rows"}' > /dev/termination-log; exit 99""")
    shell("refused", "echo 'column f3 is missing' > /dev/termination-log; exit 65", **TWICE)
    shell("times_out", "echo begin; sleep 600", execution_timeout=timedelta(seconds=20), **ONCE)
    PodTask(task_id="out_of_memory", arguments=["python", "-c", "b'x' * (64 << 30)"], **ONCE)
    PodTask(task_id="prints_its_environment", arguments=["env"], needs=["s3", "redis", "sensor-trainer"], **ONCE)
    shell("no_node", "true", size="gpu", start_timeout=timedelta(seconds=15), **ONCE)
    PodTask(task_id="no_program", arguments=["/no/such/program"], **ONCE)
    shell("outlet", """echo '{"a": 1}' > /dev/termination-log""", outlets=[Asset("operator_faults")])
    PodTask.partial(task_id="mapped", env={"A": "b"}).expand(
        arguments=[["sh", "-c", f"echo '{{\"n\": {n}}}' > /dev/termination-log"] for n in range(3)]
    )

with DAG(dag_id="operator_kills", schedule=None, is_paused_upon_creation=False, max_active_tasks=32, tags=["e2e"]):
    # The first try waits to be ended by the test, the second one ends by itself.
    FIRST_WAITS = 'if [ "$MAESTRO_TRY_NUMBER" = 1 ]; then echo waiting; sleep 900; fi'
    for name in ("deleted", "forced", "evicted", "cleared"):
        shell(name, FIRST_WAITS, **TWICE)
    # Ends with 0 when it is told to end, which is no success.
    shell("ends_well", f"trap 'exit 0' TERM; {FIRST_WAITS.replace('sleep 900', 'sleep 900 & wait')}", **TWICE)
    shell("marked", "sleep 900", **ONCE)

with DAG(dag_id="operator_crash", schedule=None, is_paused_upon_creation=False, max_active_tasks=32, tags=["e2e"]):
    for number in range(6):
        shell(f"task_{number}", f"""sleep {20 + 2 * number}; echo '{{"n": {number}}}' > /dev/termination-log""")
