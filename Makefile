# Needs Python 3.11+, pip and make. The first call makes .venv from the lock; later ones are instant.
PYTHON ?= python3
BIN := .venv/bin

serve: .venv/ready
	@exec $(BIN)/everthread serve $(ARGS)

# All of them at once on all processors; some (ARGS), or on servers that are given, one after the other.
AT_ONCE := $(if $(ARGS)$(TEST_DATABASE_URL)$(TEST_REDIS_URL),,-n auto --dist loadfile)
test: .venv/ready
	@$(BIN)/pytest $(AT_ONCE) $(ARGS)

# The long way: an hour of faults, and nothing skipped. With TEST_CITUS_NODES and TEST_DATABASE_URL, on a cluster.
FAULT_MINUTES ?= 60
test-all: .venv/ready
	@CI=true $(BIN)/pytest --fault-minutes $(FAULT_MINUTES) $(ARGS)

# The clients that people have, each installed and tried.
clients: .venv/ready
	@$(BIN)/pytest --clients tests/clients tests/test_real_clients.py $(ARGS)

# The pictures of docs/console.md, made anew. Needs Chromium.
screenshots: .venv/ready
	@$(BIN)/python -m tests.screenshots

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/ready: requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# requirements.lock is what the service runs on; requirements-dev.lock adds the tools of development. The others are
# programs and clients that tests run in environments of their own. Needs uv.
lock:
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml -o requirements.lock
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 tests/clients/generated/requirements.in -o tests/clients/generated/requirements.lock
	for each in openai2 openai3; do uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 tests/clients/others/$$each.in -o tests/clients/others/$$each.lock; done

.PHONY: serve test test-all clients screenshots check lock
