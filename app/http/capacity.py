"""Capacity of a process: its limit of open files, shared out to clients and turns. Requests beyond it are refused."""

import resource

KEPT_FREE = 64
"""Files for what is neither a client nor a turn: the log, modules, a moment's more."""

BESIDE_POOL = 16
"""Connections of a worker that are neither a client's nor of Postgres's pool: Redis, the listener, the event loop's."""

MOST_TURNS = 20_000
MOST_CONNECTIONS = 40_000


def raise_open_files() -> int:
    """Raise the limit of open files to the hardest that the system allows. Returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return open_files()


def open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_TURNS + MOST_CONNECTIONS + KEPT_FREE if soft == resource.RLIM_INFINITY else soft


def most_turns(pool_size: int) -> int:
    """Return how many turns may run at once: each has a connection to the provider.

    Args:
        pool_size: how many connections to Postgres the process may have.
    """
    return max(1, min(MOST_TURNS, _shared(pool_size) * 2 // 5))


def most_connections(pool_size: int) -> int:
    """Return how many clients may be connected at once."""
    return max(1, min(MOST_CONNECTIONS, _shared(pool_size) - most_turns(pool_size)))


def _shared(pool_size: int) -> int:
    """The files that are left to clients and turns."""
    return open_files() - KEPT_FREE - BESIDE_POOL - pool_size
