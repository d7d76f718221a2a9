# Needs Python 3.11+, pip and make. The first call installs the locked packages into .venv; later ones start at once.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv

# Compiled modules are kept, also where the environment says otherwise: else each process of the tests compiles its own.
unexport PYTHONDONTWRITEBYTECODE

serve: .venv/ready
	@exec $(BIN)/everthread serve $(ARGS)

# All of them in parallel, in four processes at least, because tests wait more than they compute; a few that fail are run once
# more alone. Some of them (ARGS), or all on servers that are given, one after the other.
AT_ONCE := $(if $(ARGS)$(TEST_DATABASE_URL)$(TEST_REDIS_URL),,-n $(shell n=$$(nproc 2>/dev/null || echo 4); echo $$((n > 4 ? n : 4))) --dist loadfile --no-loadscope-reorder)
test: .venv/ready-dev
	@$(BIN)/pytest $(AT_ONCE) $(ARGS)$(if $(AT_ONCE), || .ci/once_more $$?)

# What each of the processes would compile for itself: the modules, and the tests as pytest rewrites them.
compiled: .venv/ready-dev
	@$(BIN)/python -m compileall -q app migrations
	@$(BIN)/pytest -q --collect-only > /dev/null

# For the loop of edit and try: tests of units and of turns, on a service in pytest's own process and a database that is kept.
# Without the tests of turns that wait for a retry or a time-out.
QUICK := $(addprefix tests/test_,continuation.py event_streams.py forks.py items.py layout.py rebuild.py \
	threads.py turns.py) \
	-k "not (pages_neither_skip or refusal_of_the_provider or passing_fault or breaks_off or without_a_first_event)"
quick: .venv/ready-dev
	@$(BIN)/pytest --quick $(or $(ARGS),$(QUICK))

# The long way: the tests marked long too, an hour of faults, and nothing skipped. With TEST_CITUS_NODES and
# TEST_DATABASE_URL, on a cluster.
FAULT_MINUTES ?= 60
test-all: .venv/ready-dev
	@CI=true $(BIN)/pytest --long --random-turns 10000 --fault-minutes $(FAULT_MINUTES) $(ARGS)

# The clients that people have, each installed and tried.
clients: .venv/ready-dev
	@$(BIN)/pytest --clients tests/clients tests/test_real_clients.py $(ARGS)

# Takes the screenshots of docs/console.md again. Needs Chromium.
screenshots: .venv/ready-dev
	@$(BIN)/python -m tests.screenshots

# Builds the sprite of the console's icons again, after a change of the names in tests/icons.txt. Needs npm.
icons: .venv/ready-dev
	@$(BIN)/python -m tests.icons

# Builds docs/ as a site in build/site. A broken link, a broken anchor or a page that loads from another host is an error.
docs: .venv/ready-docs
	@$(BIN)/python docs/.site/pages.py
	@$(BIN)/zensical build --strict --config-file build/zensical.toml
	@! grep -rlE --include='*.html' '<(script|link|img|iframe)[^>]*(src|href)="?(https?:)?//' build/site
	@echo "To read and search the pages: $(PYTHON) -m http.server --directory build/site"

check: lint types

lint: .venv/ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/ready-dev
	$(BIN)/mypy

# Adds the hash of a new migration. One that is in the file does not change any more.
migrations-lock:
	@cd migrations/versions && for f in *.py *.sql; do \
		[ ! -e "$$f" ] || grep -q "  $$f$$" ../hashes.lock || sha256sum "$$f" >> ../hashes.lock; done

PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check $(PIP_FLAGS)

.venv/ready: requirements.lock requirements-build.lock pyproject.toml
	@echo "Installing Everthread into .venv. The first time takes about a minute."
	@$(PYTHON) -m venv --clear .venv
	@$(PIP_INSTALL) --require-hashes -r requirements.lock -r requirements-build.lock
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/ready-dev: .venv/ready requirements-dev.lock
	@echo "Installing the tools of development. The first time takes about a minute."
	@$(PIP_INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

.venv/ready-docs: .venv/ready requirements-docs.lock
	@$(PIP_INSTALL) --require-hashes -r requirements-docs.lock
	@touch $@

# requirements.lock is what the service runs on, requirements-build.lock what installs it; requirements-dev.lock has both and the
# tools of development, requirements-docs.lock what builds the site. The others are programs and clients that tests run in
# environments of their own.
lock: .venv/ready-dev
	$(UV) pip compile -q --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml -o requirements.lock
	$(UV) pip compile -q --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock
	$(UV) pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --group build -c requirements-dev.lock -o requirements-build.lock
	$(UV) pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --group docs -c requirements-dev.lock -o requirements-docs.lock
	$(UV) pip compile -q --universal --generate-hashes --no-header --python-version 3.11 tests/clients/generated/requirements.in -o tests/clients/generated/requirements.lock
	for each in openai2 openai3; do $(UV) pip compile -q --universal --generate-hashes --no-header --python-version 3.11 tests/clients/others/$$each.in -o tests/clients/others/$$each.lock; done

.PHONY: serve compiled quick test test-all clients screenshots icons docs check lint types migrations-lock lock
