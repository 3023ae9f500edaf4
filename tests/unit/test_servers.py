"""The servers that the processes of a test run share."""

import fcntl
import multiprocessing
import threading

import pytest
import redis

from tests.servers import PASSWORD, Redis, begin, shared

fork = multiprocessing.get_context("fork")


def hold(run, held):
    lock = begin(run)
    held.set()
    threading.Event().wait(300)
    lock.close()


def test_a_shared_server_outlives_the_process_that_started_it_and_ends_with_the_run_that_is_killed(tmp_path):
    held = fork.Event()
    run = fork.Process(target=hold, args=(tmp_path, held))
    run.start()
    assert held.wait(240)
    first = fork.Process(target=shared, args=(tmp_path, Redis))
    first.start()
    first.join(60)
    client = redis.Redis(port=int(shared(tmp_path, Redis)), password=PASSWORD)
    assert client.ping()
    run.kill()
    with (tmp_path / "kept").open() as kept:
        fcntl.flock(kept, fcntl.LOCK_EX)
    with pytest.raises(redis.ConnectionError):
        client.ping()
    assert not list(tmp_path.glob("redis-*"))
