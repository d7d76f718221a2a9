"""Metrics of /metrics."""

from functools import cache
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.multiprocess import mark_process_dead

Metric = TypeVar("Metric", Counter, Histogram)

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

TURNS = Counter("everthread_turns", "Turns closed.", ["continuation", "status"])
REFUSED_REQUESTS = Counter(
    "everthread_refused_requests", "Requests that were answered with an error, by its meaning.", ["status", "meaning"]
)
PROVIDER_CALLS = Counter(
    "everthread_provider_calls", "Calls to the provider, by what came of them.", ["outcome", "model", "account"]
)
PROVIDER_SECONDS = Histogram(
    "everthread_provider_seconds",
    "Time of a provider call, to its end.",
    ["stream", "model", "account"],
    buckets=SECONDS,
)
FIRST_TOKEN_SECONDS = Histogram(
    "everthread_first_token_seconds",
    "Time from the request to the first streamed token.",
    ["model", "account"],
    buckets=SECONDS,
)
TOKENS = Counter(
    "everthread_tokens",
    "Tokens that the provider has counted; those of `cached` are among `input`, those of `reasoning` among `output`.",
    ["kind", "model", "account"],
)
RUNNING_TURNS = Gauge("everthread_running_turns", "Turns in progress.", multiprocess_mode="livesum")
LIVE_ID_LOOKUPS = Counter("everthread_live_id_lookups", "Lookups of live ids in Redis.", ["result"])
REBUILT_ITEMS = Histogram(
    "everthread_rebuilt_items", "Items of a rebuilt history.", buckets=(1, 3, 10, 30, 100, 300, 1000, 3000, 10000)
)
DROPPED_ITEMS = Counter("everthread_dropped_items", "Items left out of rebuilt histories to fit the model's window.")
REDUCED_HISTORIES = Counter(
    "everthread_reduced_histories",
    "Rebuilt histories that the provider refused and that were sent again with less, by the step.",
    ["step"],
)
MOVES = Counter(
    "everthread_failovers",
    "Turns that went on at another provider account, by why the one before did not answer.",
    ["why"],
)
MOVED_TOKENS = Counter(
    "everthread_failover_tokens", "Tokens of histories that were sent again because a turn went to another account."
)
IMPLAUSIBLE_DATES = Counter(
    "everthread_implausible_dates",
    "Answers whose created_at is further from this host's clock than a plausible skew, by direction.",
    ["direction"],
)
COMPACTIONS = Counter("everthread_compactions", "Compactions, by what came of them.", ["outcome"])
REJECTED_ANSWERS = Counter(
    "everthread_rejected_answers",
    "Summaries and titles of models that cannot be used, by the reason.",
    ["use", "reason"],
)
WEBHOOKS = Counter("everthread_webhooks", "Attempts to deliver to webhooks, by what came of them.", ["outcome"])
WITNESS_REQUESTS = Counter(
    "everthread_witness_requests", "Checkpoints sent to witnesses, by outcome.", ["witness", "outcome"]
)
WITNESS_COSIGNED = Gauge(
    "everthread_witness_cosigned_timestamp_seconds",
    "Time of a witness's last cosignature.",
    ["witness"],
    multiprocess_mode="max",
)
WITNESS_WAITING = Gauge(
    "everthread_witness_waiting_seconds",
    "Age of the oldest checkpoint that a witness has neither cosigned nor passed.",
    ["witness"],
    multiprocess_mode="livemax",
)
REDIS_ERRORS = Counter("everthread_redis_errors", "Redis commands that failed.")

COUNTERS = (
    TURNS,
    REFUSED_REQUESTS,
    PROVIDER_CALLS,
    TOKENS,
    LIVE_ID_LOOKUPS,
    DROPPED_ITEMS,
    REDUCED_HISTORIES,
    MOVES,
    MOVED_TOKENS,
    IMPLAUSIBLE_DATES,
    COMPACTIONS,
    REJECTED_ANSWERS,
    WEBHOOKS,
    WITNESS_REQUESTS,
    REDIS_ERRORS,
)

OTHER = "other"
MOST_MODELS = 100

_answered: set[str] = set()


@cache
def of(metric: Metric, *labels: str) -> Metric:
    """A metric with its labels, looked up once: there are few of each."""
    return metric.labels(*labels)


def forget_process(pid: int) -> None:
    """Remove the gauges of a worker that has died."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def model(name: str, *, answers: bool = False) -> str:
    """A model as metrics name it. Clients write its name: only one that has answered has a series of its own.

    Args:
        answers: it has answered just now.
    """
    if name in _answered:
        return name
    if answers and len(_answered) < MOST_MODELS:
        _answered.add(name)
        return name
    return OTHER
