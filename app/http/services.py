"""Registry of the services that routes use: one of each type."""

from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

T = TypeVar("T")


class Services(dict[type, Any]):
    def __init__(self, *services: object) -> None:
        super().__init__((type(service), service) for service in services)

    if TYPE_CHECKING:

        def __getitem__(self, kind: type[T]) -> T: ...


def services(request: HTTPConnection) -> Services:
    found: Services = request.scope["app"].services
    return found


def serving(kind: type[T]) -> Any:
    """The dependency of a route on a service."""

    async def find(request: Request) -> T:
        return services(request)[kind]

    return Depends(find)
