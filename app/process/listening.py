"""A port to listen on, taken before anything else is started."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


class CannotServe(Exception):
    """Says in one sentence what to do about it."""


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket.

    Args:
        port: 0 for any that is free.

    Raises:
        CannotServe: the port is in use, or the address is not one of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise CannotServe(
                f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port, or stop what uses it."
            ) from error
        listener.set_inheritable(True)
        yield listener
