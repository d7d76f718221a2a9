"""All settings of the service, read from environment variables, with their meaning and default."""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

Region = Literal[
    "singapore", "beijing", "virginia", "tokyo", "frankfurt", "hongkong",
    "qwencloud", "qwencloud-singapore", "qwencloud-token-plan",
]  # fmt: skip

# The current paths of the Responses API (reference pages, September 2026). The older
# /api/v2/apps/protocols/compatible-mode/v1 still answers, but is out of maintenance.
PATH_OF_THE_API = "/compatible-mode/v1"
REGION_HOSTS: dict[Region, str] = {
    "singapore": "dashscope-intl.aliyuncs.com",
    "beijing": "dashscope.aliyuncs.com",
    "virginia": "dashscope-us.aliyuncs.com",
    "hongkong": "cn-hongkong.dashscope.aliyuncs.com",
    "qwencloud": "maas.qwencloudapi.com",
    "qwencloud-singapore": "ap-southeast-1.maas.qwencloudapi.com",
    "qwencloud-token-plan": "token-plan.maas.qwencloudapi.com",
}
"""The hosts that serve every account of a region. Tokyo and Frankfurt have none: there, each workspace has its own.
QwenCloud is the provider's second brand, with the same API."""

REGION_CODES: dict[Region, str] = {
    "singapore": "ap-southeast-1",
    "beijing": "cn-beijing",
    "virginia": "us-east-1",
    "tokyo": "ap-northeast-1",
    "frankfurt": "eu-central-1",
    "hongkong": "cn-hongkong",
}
"""As the hosts of workspaces name them: `{WorkspaceId}.{region}.maas.aliyuncs.com`. QwenCloud has no workspaces."""


def region_base_url(region: Region, workspace: str | None) -> str | None:
    """Return the base URL of a region, or of a workspace in it; None if the region requires a workspace."""
    if workspace is not None:
        return f"https://{workspace}.{REGION_CODES[region]}.maas.aliyuncs.com{PATH_OF_THE_API}"
    host = REGION_HOSTS.get(region)
    return None if host is None else f"https://{host}{PATH_OF_THE_API}"


SEVEN_DAYS = 7 * 24 * 3600


SHORTEST_KEY = 20

_ENDPOINT = re.compile(r"https?://[^@/?#\s]+(/[^@?#\s]*)?")


def _hard_to_guess(key: SecretStr | None) -> SecretStr | None:
    said = "" if key is None else key.get_secret_value()
    if key is not None and not (
        len(said) >= SHORTEST_KEY and said.isascii() and said.isprintable() and " " not in said
    ):
        raise ValueError(f"a key is {SHORTEST_KEY} letters, digits or signs at least, without spaces; "
                         "'et_' and the output of 'openssl rand -hex 24' make a good one")  # fmt: skip
    return key


def _networks(given: str | None) -> str | None:
    for each in (given or "").split(","):
        try:
            ip_network(each.strip() or "::1", strict=False)
        except ValueError:
            raise ValueError(f"{each.strip()[:80]!r} is no address and no network, as 10.0.0.0/8 is one") from None
    return given


def _endpoint(given: str | None) -> str | None:
    if given is not None and not _ENDPOINT.fullmatch(given):
        raise ValueError("it must be an http:// or https:// URL without a user, a password or a query; "
                         "the key goes into DASHSCOPE_API_KEY")  # fmt: skip
    return given


def environment() -> dict[str, str]:
    """Return the process's variables: for checks of their names, and for child processes."""
    return dict(os.environ)


def export(**variables: str) -> None:
    """Set variables that processes started from here, or libraries imported later, read."""
    os.environ.update(variables)


class Settings(BaseSettings):
    """The service's settings. `EVERTHREAD_` goes before each name that has no alias."""

    model_config = SettingsConfigDict(
        env_prefix="EVERTHREAD_", env_ignore_empty=True, populate_by_name=True, extra="ignore"
    )

    database_url: str | None = Field(None, validation_alias="DATABASE_URL")
    """Postgres, as postgresql://user:password@host/database, or any other of libpq's forms (see app/db/connecting.py).
    Without it: the embedded server."""
    redis_url: str | None = Field(None, validation_alias="REDIS_URL")
    """Redis: one server, sentinels or a cluster (see app/cache/connect.py). Without it: the embedded server."""

    dashscope_api_key: SecretStr | None = Field(None, validation_alias="DASHSCOPE_API_KEY")
    """The provider account. Without it and without a base URL: the emulator."""
    dashscope_base_url: Annotated[str | None, AfterValidator(_endpoint)] = Field(
        None, validation_alias="DASHSCOPE_BASE_URL"
    )
    """Any endpoint that speaks the Responses API; wins over the region."""
    dashscope_region: Region = Field("singapore", validation_alias="DASHSCOPE_REGION")
    """Region of the key. Other regions refuse it."""
    dashscope_workspace: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$")] = Field(
        None, validation_alias="DASHSCOPE_WORKSPACE"
    )
    """The workspace's id: its own host is used then. Tokyo and Frankfurt take one."""
    default_model: str = "qwen3.5-plus"
    """The model of turns that name none."""

    bootstrap_key: Annotated[SecretStr | None, AfterValidator(_hard_to_guess)] = None
    """The first API key: 20 characters or more, without spaces. Without it one is made and printed once."""
    data_dir: Path = Path("everthread-data")
    """Directory of the embedded servers' data."""

    database_pooler: bool = False
    """True if a pooler stands before Postgres that gives each transaction another connection (PgBouncer's
    pool_mode transaction). Without prepared statements, a turn costs some more."""
    database_pool_size: Annotated[int, Field(ge=1, le=500)] = 10
    """Connections to Postgres per worker."""
    database_timeout_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Time limit of a statement, and of the wait for a free connection."""
    database_read_url: str | None = None
    """Replica of the database, in DATABASE_URL's forms, for search, usage and the export and verification of the audit
    trail. Without it, and while it is unavailable: the database itself."""
    database_read_lag_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Largest lag of the replica. While it lags further behind, it is not used."""
    redis_timeout_seconds: Annotated[float, Field(gt=0)] = 0.5
    """Time limit of a Redis command. The turn then continues without it."""

    response_id_ttl_seconds: Annotated[int, Field(gt=0)] = SEVEN_DAYS
    """Life of a response id at the provider (DashScope: 7 days)."""
    response_id_margin_seconds: Annotated[int, Field(ge=0)] = 600
    """An id this close to its end is no longer chained on: the call must still arrive in time."""

    provider_gather_milliseconds: Annotated[int, Field(ge=0, le=1000)] = 16
    """A stream whose deltas arrive fast is read in intervals of this length: events cost less CPU together. The default
    is one frame of a screen; the first delta is never delayed. 0: every read at once."""
    provider_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Attempts per turn at a provider that throttles, fails or cannot be reached."""
    provider_connect_timeout_seconds: Annotated[float, Field(gt=0)] = 10.0
    provider_timeout_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Time limit of a plain call. A stream may take as long as events keep arriving."""
    provider_stall_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Longest silence of a stream, also before its first event."""

    provider_max_input_bytes: Annotated[int, Field(ge=1024)] = 10 * 1000 * 1000
    """The largest request body that is sent to the provider. Images of the history become words, oldest first, where a
    rebuilt one would be larger; new input that is larger by itself is a 400."""

    stream_heartbeat_seconds: Annotated[float, Field(ge=0, le=3600)] = 15.0
    """After how much silence an event stream has a comment, so that proxies do not close its connection. The first one
    sends the status 200: a failure after it is told in the stream. 0: never."""

    max_answer_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    """The largest answer of the provider. A longer one is cut off, and its turn is incomplete."""

    context_window_tokens: Annotated[int | None, Field(ge=64)] = None
    """The context window of every model. Without it: what is known of the model."""
    models_file: Path | None = None
    """File of models that overrides app/provider/models.toml, in the same format."""

    compaction_share: Annotated[float, Field(ge=0, le=1)] = 0.7
    """From which share of what the model reads a conversation's beginning is made into a summary, between turns. 0:
    never by itself."""
    compaction_model: Annotated[str | None, Field(min_length=1)] = None
    """The model that makes it. Without it: the conversation's own."""
    compaction_instructions: Annotated[str | None, Field(min_length=1)] = None
    """Instructions for that model. Without them: those of app/memory/transcript.py."""
    session_cache: Literal["off", "on", "auto"] = "off"
    """Session cache of the provider, which keeps a chain's context for five minutes: writing costs a quarter more,
    reading a tenth. auto: used where the pace of a conversation makes it pay."""

    structured_retries: Annotated[int, Field(ge=0, le=3)] = 1
    """Number of retries for an answer that does not fit the requested format. Streams are never retried."""

    charges_seconds: Annotated[float, Field(gt=0)] = 1.0
    """Interval at which each worker writes the charges of calls without a stored turn. A killed worker loses those
    that it has not written."""

    statistics_seconds: Annotated[float, Field(gt=0)] = 15.0
    """Interval at which each worker writes its counts of turns for `/v1/usage/hours`."""

    lease_seconds: Annotated[float, Field(gt=0)] = 30.0
    """A worker that has not renewed its turns' leases for this long is taken for dead."""
    wait_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Longest wait of a turn for its thread with if_busy=wait."""
    waiters_per_thread: Annotated[int, Field(ge=1)] = 32
    """Largest number of requests that wait for one thread."""
    max_turns: Annotated[int | None, Field(ge=1)] = None
    """Largest number of running turns per worker; more are refused with 503. Without it: as many as the limit of open
    files allows."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Number of processes that share a project's limits while Redis is unavailable. 'everthread serve' sets it."""
    project_share: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Share of them that one project may use."""
    idempotency_key_seconds: Annotated[float, Field(gt=0)] = 24 * 3600.0
    """Time for which an Idempotency-Key refers to the turn that it was first sent with."""
    event_log_seconds: Annotated[int, Field(gt=0)] = 3600
    """Time after its end for which a stream can be resumed."""
    event_log_flush_seconds: Annotated[float, Field(gt=0)] = 0.1
    """Interval at which collected events are sent to Redis together."""

    audit_key: SecretStr | None = None
    """The private key that checkpoints of the audit trail are signed with: 64 hex digits, Ed25519.
    Without it: the one in the data directory, made there once."""
    audit_witnesses: str | None = None
    """Witnesses that cosign the checkpoints, as lines of a tlog-policy file: witness NAME VKEY URL.
    See docs/proofs.md."""
    audit_checkpoint_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Interval at which new audit records are signed."""
    audit_origin: Annotated[
        str | None, Field(max_length=200, pattern=r"^[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[A-Za-z0-9._~-]+)*$")
    ] = None
    """Begins the name of each project's log in signed checkpoints, as example.com/audit; the project's id follows. A
    project keeps the name that it was first signed with. Without it: everthread.local/ and 16 hex digits of the first
    signing key's SHA-256."""

    master_key: SecretStr | None = None
    """Key that encrypts each project's own key: 64 hex digits. Without it, and without the two settings below: the one
    in the data directory, created once."""
    master_key_file: Path | None = None
    """A file that holds it."""
    master_key_command: str | None = None
    """A command that prints it: a key management service's, for instance."""
    former_master_keys: SecretStr | None = None
    """Previous master keys, separated by commas. They open what they have sealed, until `everthread master-key
    rotate`."""

    encrypt_projects: bool = False
    """True to encrypt the contents of every new project at rest, including the first one."""

    console: bool = True
    """True to serve the console at /console."""
    console_keys: bool = True
    """True to accept API keys at the console's sign-in. False: people sign in with OpenID Connect only."""
    oidc_issuer: str | None = None
    """Identity provider for sign-in to the console, as https://login.example.com: see docs/console.md. Without it:
    people sign in with API keys."""
    oidc_client_id: Annotated[str | None, Field(min_length=1, max_length=512)] = None
    """The console's client id at the identity provider."""
    oidc_client_secret: SecretStr | None = None
    """The secret of that client."""
    oidc_redirect_url: str | None = None
    """URL of the console's callback, as registered at the identity provider:
    https://HOST/console/sign-in/oidc/callback."""
    oidc_groups: str | None = None
    """Access of each group, as support=shop:read,write; staff=default:read,write,audit,admin."""
    oidc_groups_claim: Annotated[str, Field(min_length=1)] = "groups"
    """The claim of the ID token that lists a person's groups."""
    oidc_scope: str = "openid profile email"
    """Scopes of the authorization request, separated by spaces. Some identity providers need 'groups' too."""

    accounts_inside: bool = False
    """True if projects' provider accounts may lead to private addresses, go without TLS, and use the environment's
    proxy. The base URL of the environment, and accounts of the operating project, always may."""

    identity_providers_inside: bool = False
    """True if the key sets of projects' identity providers may lie at private addresses, and be fetched without TLS.
    Those of the operating project always may."""

    fork_copies_turns: Annotated[int, Field(ge=0)] = 16
    """A fork of a history that is no longer than this has a copy of it, in another bucket; a longer one is shared."""

    citus_routing: bool = False
    """True to send a turn's statements directly to the node of a Citus cluster that holds its bucket."""

    settling_seconds: Annotated[float | None, Field(ge=0)] = None
    """Age that a row must have to appear in an ascending list, so that no row is inserted before it later. Without it:
    older than every open transaction; 2 s in a Citus cluster, where no node sees all transactions."""

    backup_retention_days: Annotated[int, Field(ge=0, le=36_500)] | None = None
    """Days for which backups are kept, stated in erasure certificates. None: unknown."""
    cleaning_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Interval at which each worker looks for content to purge, and for copies to delete at the provider."""

    drain_seconds: Annotated[float, Field(ge=0)] = 30.0
    """After SIGTERM, how long running turns may take to finish."""

    trusted_proxies: Annotated[str | None, AfterValidator(_networks)] = None
    """Proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted: addresses and networks, separated by commas.
    Without it: none."""
    connections_per_address: Annotated[int | None, Field(ge=1)] = None
    """Largest number of connections to a worker from one address. Trusted proxies have no such limit. Without it: half
    of all connections."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
    """The largest request body. Images travel inside it, as data URLs."""
    head_seconds: Annotated[float, Field(gt=0)] = 20.0
    """Time limit of a request's head."""
    body_pause_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Longest pause within a request's body. The whole body may take ten times as long."""
    max_json_depth: Annotated[int, Field(ge=8, le=500)] = 64
    """The deepest nesting of a request body."""
    max_json_values: Annotated[int, Field(ge=1000, le=2_000_000)] = 200_000
    """The most JSON values (strings, numbers, arrays, objects) in a request body. A large text is one value."""
    socket_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """Longest life of a WebSocket: an hour, as in Open Responses."""

    titles: bool = False
    """True to generate a title for each thread after its first turn, with a call of its own."""
    title_model: str | None = None
    """Model that generates titles; by default the turn's own."""
    webhooks_inside: bool = False
    """True if webhooks may use private addresses, and no TLS."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _ids_live(self) -> "Settings":
        if self.response_id_margin_seconds >= self.response_id_ttl_seconds:
            raise PydanticCustomError(
                "margin",
                "EVERTHREAD_RESPONSE_ID_MARGIN_SECONDS must be less than EVERTHREAD_RESPONSE_ID_TTL_SECONDS, "
                "or no id is ever chained on",
            )
        return self

    @model_validator(mode="after")
    def _leads_somewhere(self) -> "Settings":
        if self.dashscope_workspace is not None and self.dashscope_region not in REGION_CODES:
            raise PydanticCustomError("workspace", "DASHSCOPE_WORKSPACE is set, and this DASHSCOPE_REGION has none")
        if self.dashscope_base_url is None and not region_base_url(self.dashscope_region, self.dashscope_workspace):
            raise PydanticCustomError(
                "workspace",
                "DASHSCOPE_WORKSPACE is needed: in this DASHSCOPE_REGION each workspace has a host of its own",
            )
        return self

    @property
    def provider_base_url(self) -> str:
        """The endpoint that turns are sent to, with no slash at its end."""
        found = self.dashscope_base_url or region_base_url(self.dashscope_region, self.dashscope_workspace)
        assert found is not None  # `_leads_somewhere` has seen to it.
        return found.rstrip("/")


PLACEHOLDERS = ("change-me", "changeme", "…", "0" * 64)
"""Placeholders for secrets in the deployment files and the documentation."""

SECRETS = {
    "DATABASE_URL": "the address of your Postgres",
    "EVERTHREAD_DATABASE_READ_URL": "the address of a replica of your Postgres",
    "PGPASSWORD": "the password of DATABASE_URL's user",
    "REDIS_URL": "the address of your Redis",
    "DASHSCOPE_API_KEY": "a key of your DashScope account",
    "EVERTHREAD_BOOTSTRAP_KEY": "'et_' and the output of 'openssl rand -hex 24'",
    "EVERTHREAD_AUDIT_KEY": "the output of 'openssl rand -hex 32', the same on every host",
    "EVERTHREAD_MASTER_KEY": "the output of another 'openssl rand -hex 32', the same on every host",
    "EVERTHREAD_FORMER_MASTER_KEYS": "the master keys before the current one, or nothing",
    "EVERTHREAD_OIDC_CLIENT_SECRET": "the client secret that your identity provider shows",
}
"""Variables with a secret, and what belongs in them."""


def placeholder_left(environment: Mapping[str, str]) -> str | None:
    """Return a sentence about the first secret that is still a placeholder; None if there is none."""
    for name, instead in SECRETS.items():
        value = environment.get(name, "").lower()
        if any(placeholder in value for placeholder in PLACEHOLDERS):
            return f"{name} is still the placeholder of a deployment file. Set it to {instead}."
    return None


class Connected(Settings):
    """The settings of a service whose servers are known: those that were given, or the embedded ones."""

    database_url: str = Field(validation_alias="DATABASE_URL")
    redis_url: str = Field(validation_alias="REDIS_URL")


class OTelSettings(BaseSettings):
    """OpenTelemetry's standard variables that turn the export on or off. Its SDK reads the others (OTEL_SERVICE_NAME,
    OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER, …)."""

    model_config = SettingsConfigDict(env_prefix="OTEL_", env_ignore_empty=True, extra="ignore")

    sdk_disabled: bool = False
    exporter_otlp_endpoint: str | None = None
    """The collector, as http://host:4318."""
    exporter_otlp_traces_endpoint: str | None = None
    exporter_otlp_metrics_endpoint: str | None = None
    exporter_otlp_protocol: Literal["http/protobuf"] = "http/protobuf"
    exporter_otlp_traces_protocol: Literal["http/protobuf"] = "http/protobuf"
    exporter_otlp_metrics_protocol: Literal["http/protobuf"] = "http/protobuf"
    traces_exporter: Literal["otlp", "none"] | None = None
    metrics_exporter: Literal["otlp", "none"] | None = None

    @property
    def traces(self) -> bool:
        """True if traces are exported."""
        return self._wanted(self.traces_exporter, self.exporter_otlp_traces_endpoint)

    @property
    def metrics(self) -> bool:
        """True if metrics are exported."""
        return self._wanted(self.metrics_exporter, self.exporter_otlp_metrics_endpoint)

    def _wanted(self, exporter: str | None, endpoint: str | None) -> bool:
        named = exporter == "otlp" or endpoint is not None or self.exporter_otlp_endpoint is not None
        return named and exporter != "none" and not self.sdk_disabled


class EmulatorSettings(BaseSettings):
    """The emulator's settings: `EVERTHREAD_EMULATOR_…`."""

    model_config = SettingsConfigDict(env_prefix="EVERTHREAD_EMULATOR_", extra="ignore")

    window_tokens: Annotated[int | None, Field(ge=64)] = None
    """The context window of every model, in the emulator's own tokens. Without it: each family's. Input beyond 80% is
    silently cut."""
    response_ttl_seconds: Annotated[int, Field(gt=0)] = SEVEN_DAYS
    instructions_are_the_system_message: bool = False
    """True if `instructions` count as the one system message. The provider has not been seen to refuse both."""
    max_input_bytes: Annotated[int, Field(ge=1024)] = 10 * 1000 * 1000
    """The largest request body. A larger one is refused with 413."""
    delta_milliseconds: Annotated[float, Field(ge=0)] = 0.0
    """A pause before each streamed delta, to watch a stream by eye."""
