"""Header fields of a request, as a dictionary that is made once per request."""

from starlette.types import Scope

_FIELDS = "everthread.fields"


def fields_of(scope: Scope) -> dict[bytes, bytes]:
    """Return the header fields by their lower-case names. Of fields with the same name, the first counts."""
    headers = scope["headers"]
    found: tuple[object, dict[bytes, bytes]] | None = scope.get(_FIELDS)
    if found is None or found[0] is not headers:  # A copy of a scope may have other headers.
        found = scope[_FIELDS] = (headers, dict(reversed(headers)))
    return found[1]


def field_of(scope: Scope, name: bytes) -> str | None:
    """Return the value of a header field; None if the request has no such field."""
    value = fields_of(scope).get(name)
    return None if value is None else value.decode("latin-1")
