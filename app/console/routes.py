"""/console: conversations, chains, proof and cost, in a browser."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from app.console.api import Door
from app.console.pages import (
    audit,
    chain,
    failures,
    now,
    panel,
    purges,
    replay,
    settings,
    shares,
    thread,
    threads,
    tree,
    usage,
    users,
)
from app.console.session import PATH
from app.console.static_files import COMPRESSED, mounts
from app.console.view import oidc_callback_page, oidc_page, page, sign_in_page, sign_out_page

THREAD = "/threads/{thread_id}"
TURN = f"{THREAD}/turns/{{turn_id}}"


def routes(app: ASGIApp) -> list[Route | Mount]:
    """All of it. Args: app: that has the public API."""
    pages = {
        "/threads": threads.page, "/threads/rows": threads.rows,
        THREAD: thread.page, f"{THREAD}/about": thread.about, f"{THREAD}/earlier": thread.earlier,
        TURN: thread.turn, f"{THREAD}/tree": tree.page,
        f"{THREAD}/chain": chain.page, f"{TURN}/calls": panel.calls, f"{TURN}/panel": panel.fragment,
        f"{TURN}/details": panel.details,
        f"{THREAD}/shares": shares.listed, f"{THREAD}/replay": replay.page, f"{THREAD}/trail": audit.of_thread,
        "/audit": audit.page, "/audit/rows": audit.rows, "/usage": usage.page, "/usage/{group}": usage.table,
        "/usage/{group}/top": usage.top, "/failures": failures.page,
        "/now": now.page, "/now/part": now.part,
        "/settings": settings.page, "/users": users.page, "/users/purge": users.preview,
        "/purges": purges.page, "/purges/{purge_id}": purges.progress, "/purges/{purge_id}/state": purges.state,
    }  # fmt: skip
    made = [
        Route(PATH + path, page(handler), methods=["GET"], middleware=[COMPRESSED]) for path, handler in pages.items()
    ]
    return [
        Route(PATH, _begin, methods=["GET"]),
        Route(f"{PATH}/sign-in", sign_in_page, methods=["GET", "POST"]),
        Route(f"{PATH}/sign-in/oidc", oidc_page, methods=["GET"]),
        Route(f"{PATH}/sign-in/oidc/callback", oidc_callback_page, methods=["GET"]),
        Route(f"{PATH}/sign-out", sign_out_page, methods=["POST"]),
        Route(f"{PATH}/verify", page(audit.verified), methods=["POST"]),
        *made,
        *mounts(),
        Mount(f"{PATH}/api", Door(app)),
    ]


async def _begin(request: Request) -> Response:
    return RedirectResponse(f"{PATH}/threads", status_code=303)
