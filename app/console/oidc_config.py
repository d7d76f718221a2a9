"""Settings of the sign-in with OpenID Connect, checked when the service starts."""

from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from pydantic import SecretStr

from app.http.egress import url_fault
from app.projects.keys import SCOPES, Scope
from app.projects.people import Access
from app.settings import Settings

CALLBACK = "/console/sign-in/oidc/callback"

FORM = "GROUP=PROJECT:SCOPE,SCOPE; GROUP=PROJECT:SCOPE, as in support=shop:read,write; staff=default:read,audit"

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class BadOidc(Exception):
    """A setting is wrong or missing; its text says which one and what to do."""


@dataclass(frozen=True, slots=True)
class OidcConfig:
    issuer: str
    """Without a slash at its end."""
    client_id: str
    client_secret: SecretStr
    redirect_url: str
    scope: str
    """Scopes of the authorization request, separated by spaces."""
    groups_claim: str
    groups: tuple[tuple[str, str, frozenset[Scope]], ...]
    """Group, project, and the scopes that the group has there."""

    def access(self, groups: frozenset[str]) -> Access:
        """Return what groups give together."""
        found: dict[str, frozenset[Scope]] = {}
        for group, project, scopes in self.groups:
            if group in groups:
                found[project] = found.get(project, frozenset()) | scopes
        return found


def oidc_config(settings: Settings) -> OidcConfig | None:
    """Return the settings of the sign-in; None if no issuer is set.

    Raises:
        BadOidc: they cannot be used.
    """
    needed = {
        "EVERTHREAD_OIDC_ISSUER": settings.oidc_issuer,
        "EVERTHREAD_OIDC_CLIENT_ID": settings.oidc_client_id,
        "EVERTHREAD_OIDC_CLIENT_SECRET": settings.oidc_client_secret,
        "EVERTHREAD_OIDC_REDIRECT_URL": settings.oidc_redirect_url,
        "EVERTHREAD_OIDC_GROUPS": settings.oidc_groups,
    }
    missing = [name for name, value in needed.items() if value is None]
    if len(missing) == len(needed):
        if settings.console and not settings.console_keys:
            raise BadOidc(
                "EVERTHREAD_CONSOLE_KEYS is false, and EVERTHREAD_OIDC_ISSUER is not set: nobody could sign in to the "
                "console. Set the EVERTHREAD_OIDC_… settings, or turn the console off with EVERTHREAD_CONSOLE=false"
            )
        return None
    issuer, client_id, secret = settings.oidc_issuer, settings.oidc_client_id, settings.oidc_client_secret
    redirect_url, groups = settings.oidc_redirect_url, settings.oidc_groups
    if issuer is None or client_id is None or secret is None or redirect_url is None or groups is None:
        raise BadOidc(f"Sign-in with OpenID Connect also needs {' and '.join(missing)} (docs/console.md)")
    if (fault := endpoint_fault(issuer)) is not None:
        raise BadOidc(f"EVERTHREAD_OIDC_ISSUER {fault}. Copy the 'issuer' of the provider's discovery document")
    fault = endpoint_fault(redirect_url)
    if fault is not None or urlsplit(redirect_url).path != CALLBACK or urlsplit(redirect_url).query:
        raise BadOidc(
            f"EVERTHREAD_OIDC_REDIRECT_URL {fault or f'must end with {CALLBACK}'}. Set it to "
            f"https://HOST{CALLBACK}, with the host at which people open the console, and register the same URL at "
            "the identity provider"
        )
    if "openid" not in settings.oidc_scope.split():
        raise BadOidc("EVERTHREAD_OIDC_SCOPE must contain 'openid'")
    return OidcConfig(
        issuer.rstrip("/"),
        client_id,
        secret,
        redirect_url,
        settings.oidc_scope,
        settings.oidc_groups_claim,
        tuple(_access(each.strip()) for each in groups.split(";") if each.strip()),
    )


def endpoint_fault(url: str) -> str | None:
    """Return what is wrong with a URL that secrets are sent to, as the end of a sentence; None if nothing is.

    Only hosts of this machine may go without TLS.
    """
    local = "://" in url and urlsplit(url).hostname in LOCAL_HOSTS
    return url_fault(url, private=True) or (
        None if local or url.startswith("https://") else "must begin with https://, except on localhost"
    )


def _access(entry: str) -> tuple[str, str, frozenset[Scope]]:
    """Parse one entry of EVERTHREAD_OIDC_GROUPS. Groups may contain '=', such as names of LDAP."""
    group, _, given = entry.rpartition("=")
    project, _, scopes = given.rpartition(":")
    named = [scope.strip() for scope in scopes.split(",")]
    unknown = [scope for scope in named if scope not in SCOPES]
    if not group.strip() or not project.strip() or unknown:
        wrong = (
            f"has the unknown scope {unknown[0]!r}" if group and project else "is not of the form GROUP=PROJECT:SCOPES"
        )
        raise BadOidc(
            f"EVERTHREAD_OIDC_GROUPS: the entry {entry[:80]!r} {wrong}. Scopes are {', '.join(SCOPES)}; the form is "
            f"{FORM}"
        )
    return group.strip(), project.strip(), cast("frozenset[Scope]", frozenset(named))
