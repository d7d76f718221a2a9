"""Everything real on one machine, and a hand that breaks it: workers, servers and the provider."""

import random
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import redis

from tests.breakable import Servers
from tests.databases import query
from tests.service import Emulator, Service

FAULTS: list[dict[str, Any]] = [
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 429, "retry_after": 0.2},
    {"kind": "rate_limit_200"},
    {"kind": "cut", "after_events": 5},
    {"kind": "malformed", "after_events": 5},
    {"kind": "stall", "seconds": 5, "after_events": 5},
    {"kind": "failed", "after_events": 3},
    {"kind": "slow", "seconds": 0.3, "seconds_per_event": 0.02},
]

LOCK = "SELECT FROM threads ORDER BY random() LIMIT 1 FOR UPDATE"

CONFLICTS = """
CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF random() < 0.02 THEN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END IF;
    IF random() < 0.02 THEN RAISE EXCEPTION 'conflict' USING ERRCODE = '40P01'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER conflict BEFORE INSERT OR UPDATE ON turns FOR EACH ROW EXECUTE FUNCTION conflict()
"""
"""Some statements that write a turn fail as victims of a deadlock, or as not serializable."""


class World:
    """Two servers, a provider and several workers. `break_something` is the hand."""

    def __init__(self, directory: Path, seed: int, workers: int = 3) -> None:
        self.random = random.Random(seed)
        self.broken: dict[str, int] = {}
        self.servers = Servers(directory)
        self.emulator = Emulator()
        self.workers = [self._start_worker() for _ in range(workers)]
        query(self.servers.database_url, CONFLICTS)

    def _start_worker(self) -> Service:
        return Service(
            env={
                "DATABASE_URL": self.servers.database_url,
                "REDIS_URL": self.servers.redis_url,
                "DASHSCOPE_API_KEY": "sk-faults",
                "DASHSCOPE_BASE_URL": self.emulator.base_url,
                "EVERTHREAD_LEASE_SECONDS": "2",
                "EVERTHREAD_PROVIDER_STALL_SECONDS": "1.5",
                "EVERTHREAD_DATABASE_TIMEOUT_SECONDS": "3",
                "EVERTHREAD_DRAIN_SECONDS": "4",
                "EVERTHREAD_LOG_LEVEL": "error",
            }
        )

    def break_something(self) -> str:
        """One misfortune, chosen by the seed. Returns its name."""
        what = self.random.choice(
            ["kill a worker", "kill a worker", "stop a worker", "kill Redis", "flush Redis", "restart Postgres"]
            + ["provider fault"] * 4
            + ["forget", "lock a thread"] * 2
        )
        match what:
            case "kill a worker" | "stop a worker":
                place = self.random.randrange(len(self.workers))
                number = signal.SIGKILL if what.startswith("kill") else signal.SIGTERM
                self.workers[place].process.stop(number)
                self.workers[place] = self._start_worker()
            case "kill Redis":
                self.servers.stop_redis()
                time.sleep(self.random.uniform(0, 0.5))
                self.servers.start_redis()
            case "flush Redis":
                redis.Redis.from_url(self.servers.redis_url).flushall()
            case "restart Postgres":
                self.servers.restart_postgres(self.random.choice(["fast", "immediate"]))
            case "provider fault":
                fault = self.random.choice(FAULTS)
                self.emulator.control("faults", [{**fault, "times": self.random.randint(1, 4)}])
            case "forget":
                self.emulator.forget()
            case "lock a thread":
                self._lock_a_thread(self.random.uniform(0.3, 4))
        self.broken[what] = self.broken.get(what, 0) + 1
        return what

    def _lock_a_thread(self, seconds: float) -> None:
        """Hold the row of a thread in an open transaction, while other things break."""

        def hold() -> None:
            with suppress(asyncpg.PostgresError, OSError):  # Postgres is restarted meanwhile.
                query(self.servers.database_url, "BEGIN", LOCK, f"SELECT pg_sleep({seconds})", "COMMIT")

        threading.Thread(target=hold, daemon=True).start()

    def close(self) -> None:
        for worker in self.workers:
            worker.process.stop(signal.SIGKILL)
        self.emulator.stop()
        self.servers.close()
