"""Registry of the services that routes use: one of each type."""

from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request
from starlette.requests import HTTPConnection

T = TypeVar("T")


class Services:
    def __init__(self, *services: object) -> None:
        self._by_type = {type(service): service for service in services}

    def __getitem__(self, kind: type[T]) -> T:
        found: Any = self._by_type[kind]
        return found  # type: ignore[no-any-return]


def provide(app: FastAPI, services: Services) -> None:
    app.state.services = services


def services(request: HTTPConnection) -> Services:
    found: Services = request.app.state.services
    return found


def serving(kind: type[T]) -> Any:
    """The dependency of a route on a service."""

    async def find(request: Request) -> T:
        return services(request)[kind]

    return Depends(find)
