"""Requests as data: each function describes one request, and the two clients send them."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import update_wrapper
from typing import Any, Generic, TypeVar, Unpack, cast
from urllib.parse import quote
from uuid import uuid4

import httpx2

from everthread_client import types
from everthread_client.errors import APIError, InvalidAnswerError, api_error

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
"""A `Retry-After` in seconds. The service sends no dates."""


class ByName(str):
    """A thread's name, to be passed where a thread's id is expected."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request whose answer is a T."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    """True if sending it twice has the effect of sending it once."""
    as_text: bool = False

    def result(self, answer: httpx2.Response) -> T:
        """Return the content of an answer that was read.

        Raises:
            APIError: the service refused the request.
            InvalidAnswerError: the answer is not JSON.
        """
        if not answer.is_success:
            raise refusal(answer)
        if self.as_text:
            return cast(T, answer.text)
        return cast(T, _json(answer))


def documented(method: F, build: Callable[..., Any]) -> F:
    """Give a method the name, docstring and parameters of the function that describes its request."""
    update_wrapper(method, build, assigned=("__name__", "__doc__"))
    parameters = inspect.signature(build).parameters.values()
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    vars(method)["__signature__"] = inspect.Signature([own, *parameters])
    return method


def refusal(answer: httpx2.Response) -> APIError:
    """Return the error of an answer that was read."""
    try:
        content = answer.json()
    except ValueError:
        content = None
    wait = answer.headers.get("retry-after", "")
    return api_error(
        answer.status_code,
        content.get("error") if isinstance(content, dict) else None,
        request_id=answer.headers.get("x-request-id"),
        retry_after=float(wait) if SECONDS.fullmatch(wait) else None,
    )


def _json(answer: httpx2.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise InvalidAnswerError(f"The answer of {answer.request.url} is not JSON.") from error


def following(call: "Call[types.Page[T]]", page: types.Page[T]) -> "Call[types.Page[T]] | None":
    """Return the request for the page after a page, or None after the last one."""
    if not page["has_more"]:
        return None
    # A list that is read backwards is continued before its first entry.
    backwards = call.params.keys() & {"before", "turns"}
    cursor = page["first_id"] if backwards else page["last_id"]
    return None if cursor is None else replace(call, params={**call.params, "before" if backwards else "after": cursor})


def _create(path: str, body: Mapping[str, Any]) -> Call[Any]:
    """Return a POST that creates an object each time it arrives."""
    return Call("POST", path, body=body, repeatable=False)


def at(thread: str, rest: str = "") -> str:
    place = f"by-name/{quote(thread, safe='')}" if isinstance(thread, ByName) else quote(thread, safe="")
    return f"/threads/{place}{rest}"


def _turn(thread: str, turn: str, rest: str = "") -> str:
    return at(thread, f"/turns/{quote(turn, safe='')}{rest}")


# Threads


def create_thread(**fields: Unpack[types.ThreadCreate]) -> Call[types.Thread]:
    """Create a thread, if wanted with the messages of a conversation to continue."""
    return _create("/threads", fields)


def get_or_create_thread(name: str, **fields: Unpack[types.ThreadFields]) -> Call[types.Thread]:
    """Return the thread with this name, or create it. Concurrent requests get the same thread."""
    return Call("PUT", at(ByName(name)), body=fields)


def retrieve_thread(thread: str) -> Call[types.Thread]:
    """Return a thread."""
    return Call("GET", at(thread))


def update_thread(thread: str, **fields: Unpack[types.ThreadUpdate]) -> Call[types.Thread]:
    """Change a thread's fields. `head_id` selects a branch."""
    return Call("PATCH", at(thread), body=fields)


def delete_thread(thread: str) -> Call[types.Deleted]:
    """Delete a thread and everything in it."""
    return Call("DELETE", at(thread))


def _filters(filters: Mapping[str, Any]) -> dict[str, Any]:
    params = {name: value for name, value in filters.items() if name != "metadata"}
    return params | {f"metadata[{key}]": value for key, value in filters.get("metadata", {}).items()}


def list_threads(**filters: Unpack[types.ThreadList]) -> Call[types.Page[types.Thread]]:
    """List threads."""
    return Call("GET", "/threads", _filters(filters))


def count_threads(**filters: Unpack[types.ThreadFilters]) -> Call[types.ThreadCount]:
    """Count threads, up to 10,000."""
    return Call("GET", "/threads/count", _filters(filters))


def bulk(action: str, ids: list[str]) -> Call[types.Page[types.BulkResult]]:
    """Archive, unarchive or delete up to 100 threads."""
    return Call("POST", "/threads/bulk", body={"action": action, "ids": ids})


def claim_threads(token: str) -> Call[types.Claim]:
    """Take over the threads of an anonymous user, whose token proves it, for the user of the client's own token."""
    return _create("/threads/claim", {"token": token})


def fork(thread: str, **fields: Unpack[types.ThreadFork]) -> Call[types.Thread]:
    """Create a thread with the history up to `turn_id` (default: the head)."""
    return _create(at(thread, "/fork"), fields)


def branches(thread: str, **paging: Unpack[types.Paging]) -> Call[types.Page[types.Branch]]:
    """List the ends of all branches."""
    return Call("GET", at(thread, "/branches"), paging)


def messages(
    thread: str, *, turns: int | None = None, until: str | None = None, **paging: Unpack[types.Paging]
) -> Call[types.Page[types.Item]]:
    """List the items of the conversation. `turns=20` begins with those of the last 20 turns."""
    also = {name: value for name, value in (("turns", turns), ("until", until)) if value is not None}
    return Call("GET", at(thread, "/messages"), {**paging, **also})


def markdown(thread: str, **paging: Unpack[types.Paging]) -> Call[str]:
    """Return the conversation as Markdown."""
    return Call("GET", at(thread, "/messages"), {**paging, "format": "markdown"}, as_text=True)


def compact(thread: str, **fields: Unpack[types.CompactCreate]) -> Call[types.Compaction]:
    """Summarize the beginning of the conversation now."""
    return _create(at(thread, "/compact"), fields)


def compactions(thread: str, **paging: Unpack[types.Paging]) -> Call[types.Page[types.Compaction]]:
    """List the summaries of a thread."""
    return Call("GET", at(thread, "/compactions"), paging)


# Items. OpenAI's routes serve them under a thread's id.


def _items(thread: str, rest: str = "") -> str:
    return f"/conversations/{quote(thread, safe='')}/items{rest}"


def list_items(
    thread: str, *, limit: int = 100, order: types.Order = "asc", after: str | None = None
) -> Call[types.Page[types.Item]]:
    """List the items of a thread, each with its id. The thread is named by its id."""
    also = {} if after is None else {"after": after}
    return Call("GET", _items(thread), {"limit": limit, "order": order, **also})


def retrieve_item(thread: str, item: str) -> Call[types.Item]:
    """Return an item."""
    return Call("GET", _items(thread, f"/{quote(item, safe='')}"))


def add_items(thread: str, items: list[types.Item]) -> Call[types.Page[types.Item]]:
    """Add items, which the next turn continues from. All of them are stored, or none."""
    return _create(_items(thread), {"items": items})


def delete_item(thread: str, item: str) -> Call[types.JSON]:
    """Delete an item. The next turn continues without it."""
    return Call("DELETE", _items(thread, f"/{quote(item, safe='')}"))


# Turns


def create_turn(
    thread: str, *, idempotency_key: str | None = None, **fields: Unpack[types.TurnCreate]
) -> Call[types.Turn]:
    """Create a turn and wait for its end. A request that is sent again joins the same turn."""
    key = uuid4().hex if idempotency_key is None else idempotency_key
    body = {**fields, **fields.get("extra_body", {})}
    body.pop("extra_body", None)
    return Call("POST", at(thread, "/turns"), body=body, headers={"Idempotency-Key": key})


def turn_events(thread: str, turn: str, starting_after: int) -> Call[Any]:
    return Call("GET", _turn(thread, turn, "/events"), {"starting_after": starting_after})


def retrieve_turn(thread: str, turn: str) -> Call[types.Turn]:
    """Return a turn with its input and output."""
    return Call("GET", _turn(thread, turn))


def list_turns(thread: str, **paging: Unpack[types.Paging]) -> Call[types.Page[types.Turn]]:
    """List the turns of a thread, the newest first."""
    return Call("GET", at(thread, "/turns"), paging)


def cancel_turn(thread: str, turn: str) -> Call[types.Turn]:
    """Stop a turn. Its output so far is kept."""
    return Call("POST", _turn(thread, turn, "/cancel"))


def create_feedback(thread: str, turn: str, **fields: Unpack[types.FeedbackCreate]) -> Call[types.Feedback]:
    """Add feedback to a turn: a score from -1 to 1, a label, a comment."""
    return _create(_turn(thread, turn, "/feedback"), fields)


def feedback_of_turn(thread: str, turn: str, **paging: Unpack[types.Paging]) -> Call[types.Page[types.Feedback]]:
    """List the feedback of a turn."""
    return Call("GET", _turn(thread, turn, "/feedback"), paging)


def list_feedback(*, label: str | None = None, **paging: Unpack[types.Paging]) -> Call[types.Page[types.Feedback]]:
    """List the feedback of the project."""
    return Call("GET", "/feedback", {**paging, **({} if label is None else {"label": label})})


def delete_feedback(feedback: str) -> Call[types.Deleted]:
    """Delete feedback."""
    return Call("DELETE", f"/feedback/{quote(feedback, safe='')}")


# Links, search, models, tokens


def create_share(thread: str, **fields: Unpack[types.ShareCreate]) -> Call[types.ShareLink]:
    """Create a read-only link to the conversation up to now. Only this answer has its `path`."""
    return _create(at(thread, "/shares"), fields)


def list_shares(thread: str, **paging: Unpack[types.Paging]) -> Call[types.Page[types.Share]]:
    """List the links of a thread."""
    return Call("GET", at(thread, "/shares"), paging)


def delete_share(share: str) -> Call[types.Deleted]:
    """End a link."""
    return Call("DELETE", f"/shares/{quote(share, safe='')}")


def shared(token: str, *, after: int | None = None) -> Call[types.SharedThread]:
    """Return a page of a shared conversation. `token` is the last part of a link's `path`."""
    return Call("GET", f"/shared/{quote(token, safe='')}", {} if after is None else {"after": after})


def search(query: str, **filters: Unpack[types.SearchFilters]) -> Call[types.Page[types.Hit]]:
    """Search titles and messages, ranked: words, "a phrase", -without."""
    return Call("GET", "/search", {"q": query, **filters})


def list_models() -> Call[types.Page[types.Model]]:
    """List the known models."""
    return Call("GET", "/models")


def retrieve_model(model: str) -> Call[types.Model]:
    """Return a model."""
    return Call("GET", f"/models/{quote(model, safe='')}")


def create_user_token(**fields: Unpack[types.UserTokenCreate]) -> Call[types.UserToken]:
    """Create a token for one end user, so that a browser can call Everthread directly."""
    # Repeatable: a second token ends by itself.
    return Call("POST", "/user_tokens", body=fields)


def revoke_user_tokens(user: str) -> Call[types.Revocation]:
    """End all tokens of one end user that were issued until now."""
    return Call("POST", "/user_tokens/revoke", body={"user": user})


def stream_ticket(path: str) -> Call[types.StreamTicket]:
    """Create a ticket that opens the stream at `path` once, without a header."""
    return Call("POST", "/stream_tickets", body={"path": path})


def request(
    method: str,
    path: str,
    *,
    params: Mapping[str, Any] | None = None,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Call[Any]:
    """Send any request, for routes without a method of their own. `path` is relative to `/v1`."""
    return Call(method, path, params or {}, body, headers or {}, repeatable=method.upper() != "POST")
