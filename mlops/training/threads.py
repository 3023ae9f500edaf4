"""How many threads the trees may use."""

from threadpoolctl import threadpool_limits

_ROWS_WORTH_THREADS = 200_000


def threads_for(rows: int) -> threadpool_limits:
    """A context in which scikit-learn's trees use one thread where there is too little work for more.

    OpenMP threads spin while they wait for each other at every level of every tree. On two cores that others used as
    well, two threads took 8 to 25 s for 39,000 rows of shuttle, and one took 0.6 s; on idle cores both took 0.5 s.
    """
    return threadpool_limits(1 if rows < _ROWS_WORTH_THREADS else None, user_api="openmp")
