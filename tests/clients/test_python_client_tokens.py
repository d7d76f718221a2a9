"""The Python client on tokens that end, and on threads of anonymous users."""

from uuid import uuid4

import pytest

from everthread_client import AuthenticationError, Everthread, NotFoundError
from tests.service import Service


def test_all_tokens_of_a_user_are_revoked_and_no_other(service: Service) -> None:
    user, other = f"user-{uuid4().hex}", f"user-{uuid4().hex}"
    with Everthread(service.url, service.key) as client:
        tokens = [client.user_tokens.create(user=each)["token"] for each in (user, user, other)]
        assert client.user_tokens.revoke(user)["user"] == user
        for token in tokens[:2]:
            with Everthread(service.url, token) as browser, pytest.raises(AuthenticationError):
                list(browser.threads.list())
        with Everthread(service.url, tokens[2]) as browser:
            assert list(browser.threads.list()) == []


def test_the_threads_of_an_anonymous_user_are_claimed_at_sign_in(service: Service) -> None:
    user = f"user-{uuid4().hex}"
    with Everthread(service.url, service.key) as client:
        anonymous = client.user_tokens.create(anonymous=True)["token"]
        signed_in = client.user_tokens.create(user=user)["token"]
    with Everthread(service.url, anonymous) as before, Everthread(service.url, signed_in) as after:
        thread = before.threads.create()["id"]
        with pytest.raises(NotFoundError):
            after.threads.retrieve(thread)
        assert after.threads.claim(anonymous)["threads"] == [thread]
        assert after.threads.retrieve(thread)["user"] == user
