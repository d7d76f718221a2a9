"""How much a process may have open, and how that is shared out: what is beyond it is refused, and the rest served."""

import resource

KEPT_FREE = 64
"""Files for what is neither a client nor a turn: the log, modules, a moment's more."""

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


def most_turns(files: int, stores: int) -> int:
    """How many turns may run at once: each has a connection to the provider.

    Args:
        files: how many files may be open.
        stores: how many of them are connections to Postgres and Redis.
    """
    return max(1, min(MOST_TURNS, (files - KEPT_FREE - stores) * 2 // 5))


def most_connections(files: int, stores: int) -> int:
    """How many clients may be connected at once."""
    return max(1, min(MOST_CONNECTIONS, files - KEPT_FREE - stores - most_turns(files, stores)))
