"""A conversation as it happened: played by the page's script from the events of the API's replay."""

from starlette.responses import Response

from app.console.view import View


async def page(view: View) -> Response:
    thread_id = view.request.path_params["thread_id"]
    thread = await view.api.get(f"/threads/{thread_id}")
    return view.page("replay.html", thread_id=thread_id, thread=thread, until=view.asked("until") or None)
