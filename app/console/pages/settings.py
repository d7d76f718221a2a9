"""Projects, keys, accounts, limits, retention and webhooks, for keys with the scope admin."""

from starlette.responses import Response

from app.console.view import View
from app.projects.settings import Limits


async def page(view: View) -> Response:
    if not view.may("admin"):
        return view.page(
            "refused.html", status=403, message=view.t("This key has not the scope '{scope}'.", scope="admin")
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
        limits=list(Limits.model_fields),
        operates=view.grant.operates,
    )
