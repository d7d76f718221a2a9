"""A project as a tenant of the service: its key, its accounts, what it asks for."""

from typing import Any
from uuid import uuid4

import httpx2

from tests.service import Service


class Tenant:
    """A project with accounts of its own."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.id = service.http.post("/admin/projects", json={"name": uuid4().hex}).json()["id"]
        place = f"/admin/projects/{self.id}"
        made = service.http.post(f"{place}/keys", json={"name": "app", "scopes": ["read", "write", "audit", "admin"]})
        self.key = made.json()["key"]
        self.http = httpx2.Client(
            base_url=f"{service.url}/v1", headers={"Authorization": f"Bearer {self.key}"}, timeout=60
        )

    def account(self, name: str, base_url: str, key: str, **fields: Any) -> dict[str, Any]:
        answer = self.http.post(
            f"/admin/projects/{self.id}/accounts", json={"name": name, "base_url": base_url, "api_key": key, **fields}
        )
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def state(self, account: dict[str, Any]) -> Any:
        return self.http.get(f"/admin/projects/{self.id}/accounts/{account['id']}").json()["state"]

    def thread(self) -> str:
        thread: str = self.http.post("/threads", json={}).json()["id"]
        return thread

    def turn(self, thread: str, text: str, **fields: Any) -> dict[str, Any]:
        answer = self.http.post(f"/threads/{thread}/turns", json={"input": text, **fields})
        assert answer.status_code == 200, answer.text
        turn: dict[str, Any] = answer.json()
        return turn

    def calls(self, thread: str, turn: str) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = self.http.get(f"/threads/{thread}/turns/{turn}/calls").json()["data"]
        return calls

    def settings(self, **settings: Any) -> None:
        """Change the project's settings and limits, as an operator does."""
        answer = self.service.http.patch(f"/admin/projects/{self.id}", json=settings)
        assert answer.status_code == 200, answer.text
