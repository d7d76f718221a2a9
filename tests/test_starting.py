"""A worker whose start fails halfway leaves nothing open: no connection, no task."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from app.main import build
from app.settings import Connected

OPEN = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.mark.parametrize("fault", ["master key", "data directory"])
def test_a_start_that_fails_halfway_leaves_nothing_open(fresh_env: dict[str, str], tmp_path: Path, fault: str) -> None:
    blocked = tmp_path / "a file"
    blocked.touch()
    faults = {"master key": {"master_key": "no digits"}, "data directory": {"master_key": "44" * 32}}
    settings = Connected(
        database_url=fresh_env["DATABASE_URL"],
        redis_url=fresh_env["REDIS_URL"],
        data_dir=blocked,
        **faults[fault],  # type: ignore[arg-type]
    )

    async def start() -> None:
        watching = await asyncpg.connect(fresh_env["DATABASE_URL"])
        before = asyncio.all_tasks()
        app = build(settings)
        with pytest.raises((ValueError, OSError)):
            async with app.router.lifespan_context(app):
                pytest.fail("It has started.")
        async with asyncio.timeout(5):
            while await watching.fetchval(OPEN):  # noqa: ASYNC110 - a closed connection ends a moment later
                await asyncio.sleep(0.02)
        assert asyncio.all_tasks() - before == set()
        await watching.close()

    asyncio.run(start())
