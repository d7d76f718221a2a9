"""Projects, keys, accounts, limits, retention and webhooks, for keys with the scope admin."""

from starlette.responses import Response

from app.console.view import View

LIMITS = {
    "requests_per_minute": "Requests per minute", "tokens_per_minute": "Tokens per minute",
    "turns_at_once": "Concurrent turns", "tokens_per_month": "Tokens per month", "cost_per_month": "Cost per month",
    "threads": "Most threads", "stored_bytes": "Bytes stored", "body_bytes": "Bytes of a request",
    "input_items": "Items of an input",
}  # fmt: skip


async def page(view: View) -> Response:
    if not view.may("admin"):
        return view.page(
            "refused.html", status=403, message=view.t("This key does not have the scope '{scope}'.", scope="admin")
        )
    projects = (await view.api.get("/admin/projects", limit=100))["data"]
    own = await view.api.get("/project")
    chosen = view.asked("project") or own["id"]
    place = f"/admin/projects/{chosen}"
    project = await view.api.get(place)
    is_own = chosen == own["id"]
    return view.page(
        "settings.html",
        projects=projects,
        project=project,
        keys=(await view.api.get(f"{place}/keys"))["data"],
        accounts=(await view.api.get(f"{place}/accounts"))["data"],
        retention=own if is_own else None,
        webhooks=(await view.api.get("/webhooks"))["data"] if is_own else None,
        limits=LIMITS,
        operates=view.grant.operates,
    )
