"""Jobs in a real PostgreSQL and their way through a real Redis."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest
from redis import Redis as Client
from rq import Queue

from mlops.config import DatabaseSettings, RedisSettings
from mlops.sensor_trainer.store import jobs as of_jobs
from mlops.sensor_trainer.store.database import open_pool
from mlops.sensor_trainer.store.errors import AccessDenied, Unavailable
from mlops.sensor_trainer.store.heartbeat import Heartbeat
from mlops.sensor_trainer.store.jobs import AnotherRuns, Cancelled, Jobs, KeyReused, Superseded
from mlops.sensor_trainer.store.queue import JobQueue, hand_over
from tests.conftest import eventually
from tests.servers import PASSWORD, PostgreSQL, Redis
from tests.unit.sensor_servers import emptied, migrated_database

MODEL = "sensor-clusters"


@pytest.fixture(scope="module")
def server(run_folder):
    with PostgreSQL(run_folder) as server:
        yield server


@pytest.fixture(scope="module")
def redis(run_folder):
    with Redis(run_folder) as server:
        yield server


@pytest.fixture(scope="module")
def database(server):
    return migrated_database(server.url)


@pytest.fixture
def config(database):
    return DatabaseSettings(emptied(database))


@pytest.fixture
def jobs(config):
    with open_pool(config) as pool:
        yield Jobs(pool)


@pytest.fixture
def queue(config, redis):
    made = JobQueue(redis.settings("queue"))
    redis.client.flushall()
    return made


@pytest.fixture
def lease_over(monkeypatch):
    """A block in which a lease's time has passed, for whoever asks, and a wait for another attempt as well."""

    @contextmanager
    def lease_over():
        with monkeypatch.context() as patch:
            patch.setattr(of_jobs, "LEASE", 0.0)
            yield

    return lease_over


@pytest.fixture
def expire(config, monkeypatch):
    """Makes it as if the worker of a job had said nothing for an hour, and the server had been there all the time."""
    monkeypatch.setattr(of_jobs, "LEASE", 10.0)
    up = "select extract(epoch from now() - pg_postmaster_start_time()) > 10"

    def expire(job):
        with psycopg.connect(config.url, autocommit=True) as connection:
            eventually(lambda: connection.execute(up).fetchone()[0])
            back = "update sensors.training_jobs set heartbeat = now() - interval '1 hour' where id = %s"
            connection.execute(back, (job.id,))

    return expire


def claimed(jobs, key="a"):
    job, _ = jobs.submit(MODEL, key, {})
    attempt = jobs.claim(job.id)
    assert attempt is not None
    return attempt


def test_a_job_runs_from_its_submission_to_its_result(jobs):
    job, is_new = jobs.submit(MODEL, "key", {"minimum_new_readings": 3})
    assert is_new
    assert (job.state, job.progress, job.attempt, job.started, job.result) == ("queued", 0, 0, None, None)
    attempt = jobs.claim(job.id)
    assert (attempt.job.state, attempt.job.attempt) == ("running", 1)
    attempt.report("fitting", 0.5)
    assert (jobs.get(job.id).step, jobs.get(job.id).progress) == ("fitting", 0.5)
    with attempt.finishing() as ending:
        ending.succeed({"newest_reading": 17, "metrics": {"auc": 0.5, "f1": float("nan")}})
    done = jobs.get(job.id)
    assert (done.state, done.progress, done.error) == ("succeeded", 1, None)
    assert done.result == {"newest_reading": 17, "metrics": {"auc": 0.5, "f1": None}}
    assert done.created < done.started < done.finished
    assert jobs.newest_trained_reading(MODEL) == 17
    assert jobs.newest_trained_reading("another") is None
    assert jobs.counts() == {"succeeded": 1}
    assert jobs.claim(job.id) is None


def test_new_readings_are_counted_from_the_last_model_on_whatever_else_has_ended_since(jobs):
    for key, newest in (("a", 17), ("b", 5)):
        with claimed(jobs, key).finishing() as ending:
            ending.succeed({"newest_reading": newest})
    with claimed(jobs, "c").finishing() as ending:
        ending.skip("too few", {"newest_reading": 99})
    claimed(jobs, "d").fail("no")
    assert jobs.newest_trained_reading(MODEL) == 5


def test_a_cause_however_long_is_kept_in_its_beginning_and_its_end(jobs):
    attempt = claimed(jobs)
    attempt.fail(f"first {'x' * 100_000} last")
    error = jobs.get(attempt.job.id).error
    assert error.startswith("first ") and error.endswith(" last")
    assert len(error) <= 4_000


def test_an_unknown_job_is_none(jobs):
    assert jobs.get(uuid4()) is None
    assert jobs.request_cancel(uuid4()) is None
    assert jobs.claim(uuid4()) is None


def test_the_same_key_is_the_same_job_whatever_became_of_it(jobs):
    job, _ = jobs.submit(MODEL, "key", {"n": 1})
    assert jobs.submit(MODEL, "key", {"n": 1}) == (job, False)
    with jobs.claim(job.id).finishing() as ending:
        ending.skip("2 new readings", {"new_readings": 2})
    again, is_new = jobs.submit(MODEL, "key", {"n": 1})
    assert (again.id, again.state, again.error, is_new) == (job.id, "skipped", "2 new readings", False)
    with pytest.raises(KeyReused) as reused:
        jobs.submit(MODEL, "key", {"n": 2})
    assert reused.value.job.id == job.id


def test_a_model_has_one_job_at_a_time(jobs):
    job, _ = jobs.submit(MODEL, "a", {})
    for _ in range(2):
        with pytest.raises(AnotherRuns) as other:
            jobs.submit(MODEL, "b", {})
        assert other.value.job.id == job.id
        attempt = jobs.claim(job.id) or attempt  # noqa: F821 - then it runs
    assert jobs.submit("another model", "c", {})[1]
    attempt.fail("no")
    assert jobs.submit(MODEL, "b", {})[1]


def test_of_many_that_ask_at_once_one_makes_a_job(jobs):
    def submit(number):
        try:
            return jobs.submit(MODEL, f"key-{number % 4}", {})
        except AnotherRuns as other:
            return other.job, None

    with ThreadPoolExecutor(16) as threads:
        told = list(threads.map(submit, range(32)))
    assert len({job.id for job, _ in told}) == 1
    assert [is_new for _, is_new in told].count(True) == 1


def test_of_two_workers_one_gets_the_job(jobs):
    job, _ = jobs.submit(MODEL, "key", {})
    with ThreadPoolExecutor(8) as threads:
        attempts = list(threads.map(lambda _: jobs.claim(job.id), range(16)))
    assert [attempt.job.attempt for attempt in attempts if attempt] == [1]


def test_a_job_without_a_heartbeat_goes_to_another_worker_and_the_first_can_change_nothing(jobs, expire):
    first = claimed(jobs)
    assert jobs.claim(first.job.id) is None
    assert jobs.to_hand_over() == []
    expire(first.job)
    assert jobs.to_hand_over() == [first.job.id]
    waiting = jobs.get(first.job.id)
    assert waiting.state == "queued"
    assert "attempt 1 of 5 ended without a word" in waiting.error
    second = jobs.claim(first.job.id)
    assert (second.job.attempt, second.job.error, second.job.started) == (2, None, first.job.started)
    for late in (
        lambda: first.report("late", 0.9),
        lambda: first.fail("late"),
        lambda: first.give_back("late"),
        lambda: first.finishing().__enter__(),
    ):
        with pytest.raises(Superseded):
            late()
    with second.finishing() as ending:
        ending.succeed({"newest_reading": 1})
    for attempt in (first, second):
        with pytest.raises(Superseded):
            attempt.fail("late")
    assert jobs.get(first.job.id).state == "succeeded"


def test_a_report_renews_the_lease(jobs, expire):
    attempt = claimed(jobs)
    expire(attempt.job)
    attempt.report("fitting", 0.5)
    assert jobs.to_hand_over() == []


def test_a_server_that_has_just_started_gives_workers_time_to_be_heard(server, jobs, config):
    attempt = claimed(jobs)
    server.restart()
    with psycopg.connect(config.url) as connection:
        connection.execute("update sensors.training_jobs set heartbeat = now() - interval '1 hour'")
    assert jobs.to_hand_over() == []
    attempt.report("fitting", 0.5)
    assert jobs.get(attempt.job.id).step == "fitting"


def test_after_five_deaths_the_job_fails_with_the_cause(jobs, lease_over):
    job, _ = jobs.submit(MODEL, "key", {})
    for number in range(1, 6):
        with lease_over():
            assert jobs.to_hand_over() == [job.id]
        attempt = jobs.claim(job.id)
        assert attempt.job.attempt == number
        attempt.report("fitting", 0.4)
    with lease_over():
        assert jobs.to_hand_over() == []
    failed = jobs.get(job.id)
    assert failed.state == "failed"
    assert failed.error.startswith('attempt 5 of 5 ended without a word after the step "fitting"')
    assert "memory" in failed.error
    assert failed.finished is not None
    assert jobs.claim(job.id) is None


def test_a_sixth_attempt_is_never_begun(jobs, config, expire):
    attempt = claimed(jobs)
    with psycopg.connect(config.url) as connection:
        connection.execute("update sensors.training_jobs set attempt = 5")
    expire(attempt.job)
    assert jobs.claim(attempt.job.id) is None
    assert jobs.to_hand_over() == []
    assert jobs.get(attempt.job.id).state == "failed"


def test_what_may_pass_is_tried_again_after_a_pause_and_not_for_ever(jobs, lease_over):
    job, _ = jobs.submit(MODEL, "key", {})
    for number in range(1, 6):
        attempt = jobs.claim(job.id)
        attempt.give_back("MLflow is away")
        if number < 5:
            assert (jobs.get(job.id).state, jobs.get(job.id).error) == ("queued", "MLflow is away")
            assert jobs.to_hand_over() == []
            with lease_over():
                assert jobs.to_hand_over() == [job.id]
    assert jobs.get(job.id).state == "failed"
    assert jobs.get(job.id).error == "MLflow is away (attempt 5 of 5)"


def test_a_job_that_waits_is_cancelled_at_once(jobs):
    job, _ = jobs.submit(MODEL, "key", {})
    cancelled = jobs.request_cancel(job.id)
    assert cancelled.state == "cancelled"
    assert cancelled.finished is not None
    assert jobs.claim(job.id) is None
    assert jobs.to_hand_over() == []
    assert jobs.submit(MODEL, "another", {})[1]


def test_a_job_that_runs_is_cancelled_at_its_next_report(jobs):
    attempt = claimed(jobs)
    assert jobs.request_cancel(attempt.job.id).state == "running"
    with pytest.raises(AnotherRuns):
        jobs.submit(MODEL, "another", {})
    with pytest.raises(Cancelled):
        attempt.report("fitting", 0.5)
    assert jobs.get(attempt.job.id).state == "cancelled"


def test_a_job_that_was_cancelled_publishes_nothing(jobs):
    attempt = claimed(jobs)
    jobs.request_cancel(attempt.job.id)
    with pytest.raises(Cancelled), attempt.finishing():
        pytest.fail("the block has run")
    assert jobs.get(attempt.job.id).state == "cancelled"


def test_a_job_that_lost_its_worker_is_cancelled_by_the_sweep(jobs, expire):
    attempt = claimed(jobs)
    jobs.request_cancel(attempt.job.id)
    expire(attempt.job)
    assert jobs.claim(attempt.job.id) is None, "nobody begins what is cancelled"
    assert jobs.to_hand_over() == []
    assert jobs.get(attempt.job.id).state == "cancelled"


def test_it_is_too_late_to_cancel_what_is_being_published(jobs, expire):
    attempt = claimed(jobs)
    with attempt.finishing() as ending:
        assert jobs.request_cancel(attempt.job.id).state == "running"
        expired = threading.Thread(target=expire, args=(attempt.job,))  # waits for the end of the block
        expired.start()
        assert jobs.to_hand_over() == []  # and to sweep waits for nothing
        assert jobs.claim(attempt.job.id) is None
        ending.succeed({"newest_reading": 1})
    expired.join()
    assert jobs.get(attempt.job.id).state == "succeeded"
    assert jobs.request_cancel(attempt.job.id).state == "succeeded"


def test_a_failure_while_publishing_leaves_the_job_running(jobs):
    attempt = claimed(jobs)
    with pytest.raises(ZeroDivisionError), attempt.finishing() as ending:
        ending.succeed({"share": 1 / 0})
    assert jobs.get(attempt.job.id).state == "running"
    with attempt.finishing() as ending:
        ending.succeed({})
    assert jobs.get(attempt.job.id).state == "succeeded"


def test_a_connection_lost_while_publishing_lets_it_be_tried_again(jobs, server):
    attempt = claimed(jobs)
    with pytest.raises(Unavailable), attempt.finishing() as ending:  # noqa: PT012 - it is raised at the end of the block
        server.restart()
        ending.succeed({})
    assert jobs.get(attempt.job.id).state == "running"
    with attempt.finishing() as ending:
        ending.succeed({})
    assert jobs.get(attempt.job.id).state == "succeeded"


def test_a_report_without_postgresql_is_passed_over(jobs, server):
    attempt = claimed(jobs)
    server.kill()
    attempt.report("fitting", 0.5)
    server.start()
    attempt.report("comparing", 0.7)
    assert jobs.get(attempt.job.id).step == "comparing"


def test_the_heartbeat_keeps_the_lease_over_a_restart_of_postgresql(jobs, config, server, lease_over):
    attempt = claimed(jobs)

    def beaten_at():
        with psycopg.connect(config.url) as connection:
            return connection.execute("select heartbeat from sensors.training_jobs").fetchone()[0]

    with Heartbeat(config, attempt, every=0.05):
        before = beaten_at()
        eventually(lambda: beaten_at() > before)
        server.restart()
        before = beaten_at()
        eventually(lambda: beaten_at() > before)
    last = beaten_at()
    with lease_over():
        assert jobs.to_hand_over() == [attempt.job.id]
    assert beaten_at() == last


def test_the_heartbeat_tells_the_work_that_another_attempt_has_taken_over(jobs, config, expire):
    first = claimed(jobs)
    expire(first.job)
    jobs.to_hand_over()
    assert jobs.claim(first.job.id) is not None
    with Heartbeat(config, first, every=0.01) as heartbeat:
        eventually(lambda: not heartbeat._thread.is_alive())
        with pytest.raises(Superseded):
            first.report("fitting", 0.5)


def test_a_job_is_handed_over_once_and_again_where_it_was_lost(jobs, queue, redis, lease_over):
    job, _ = jobs.submit(MODEL, "key", {})
    assert hand_over(jobs, queue) == 1
    assert hand_over(jobs, queue) == 0
    assert queue.waiting() == 1
    with lease_over():
        assert hand_over(jobs, queue) == 1
    assert queue.waiting() == 1  # it waited there all the time, and does not wait twice
    redis.client.flushall()
    with lease_over():
        assert hand_over(jobs, queue) == 1
    assert queue.waiting() == 1
    queue.stop(job.id)
    assert queue.waiting() == 0


def test_what_is_handed_over_survives_a_redis_that_is_killed(jobs, queue, redis):
    jobs.submit(MODEL, "key", {})
    hand_over(jobs, queue)
    # While a slow disk syncs, Redis answers before it has written; what it then loses the sweep hands over again.
    eventually(lambda: redis.client.info("persistence")["aof_buffer_length"] == 0)
    redis.kill()
    for ask in (queue.waiting, queue.ping, lambda: queue.enqueue(uuid4(), 0), lambda: queue.stop(uuid4())):
        with pytest.raises(Unavailable, match=r"global\.services\.redis") as away:
            ask()
        assert away.value.service == "redis"
    redis.start()
    eventually(lambda: _answers(queue))
    assert queue.waiting() == 1


def test_redis_is_asked_twice_at_most_and_for_two_seconds_each(queue):
    options = queue._client.get_connection_kwargs()
    assert (options["socket_connect_timeout"], options["socket_timeout"]) == (2, 2)
    assert options["retry"].get_retries() == 1


def test_a_cancelled_job_whose_attempt_fails_is_cancelled_and_leaves_the_way_free(jobs):
    attempt = claimed(jobs)
    jobs.request_cancel(attempt.job.id)
    attempt.give_back("MLflow is away")
    assert jobs.get(attempt.job.id).state == "cancelled"
    assert jobs.submit(MODEL, "another", {})[1]


def test_a_job_that_cannot_be_handed_over_waits_in_postgresql(jobs):
    job, _ = jobs.submit(MODEL, "key", {})
    with pytest.raises(Unavailable):
        hand_over(jobs, JobQueue(RedisSettings("127.0.0.1", "9", "queue", PASSWORD)))
    assert jobs.to_hand_over() == [job.id]


def test_a_wrong_password_of_redis_is_named(redis):
    wrong = RedisSettings("127.0.0.1", str(redis.port), "queue", "wrong")
    with pytest.raises(AccessDenied, match=r"global\.redis\.existingSecret"):
        JobQueue(wrong).ping()


def test_what_is_in_redis_runs_no_code_when_it_is_read(jobs, queue):
    job, _ = jobs.submit(MODEL, "key", {})
    hand_over(jobs, queue)
    (name,) = queue._queue.get_job_ids()
    stored = Queue("training", connection=queue._client, serializer=queue._queue.serializer).fetch_job(name)
    assert stored.args == [str(job.id)]
    import zlib

    raw = queue._client.hget(stored.key, "data")
    assert zlib.decompress(raw).startswith(b"[")


def test_the_database_of_the_online_store_is_left_alone(jobs, queue, redis):
    jobs.submit(MODEL, "key", {})
    hand_over(jobs, queue)
    assert Client(port=redis.port, password=PASSWORD, db=0).dbsize() == 0


def _answers(queue):
    try:
        queue.ping()
    except Unavailable:
        return False
    return True
