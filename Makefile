# Trivet: `make demo` and `make test` set up everything they need. `make help` lists all targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
PEERS := benchmarks/.peers
PEER := $(PEERS)/litellm
JOBS ?= 10000
MINUTES ?= 10
# words that docs/glossary.md has replaced by the field's; "in flight" and "single flight" are the field's own, `countdown=` is Celery's
OLD_WORDS := \b(stencil|holdings|worksite|purse|sparing|holdup|countdown(?![="])|rival|unwell|take_up|lay_down|verdict|(?<!in )(?<!single )flight|landing|suspect|stuck|following|likeness|walking|forgetting|trouble|doubtful|standing)s?\b
# where it is set, every process compiles anew all that it imports: seconds of CPU for each start
unexport PYTHONDONTWRITEBYTECODE
# trust what the machine trusts, as pip does
export UV_SYSTEM_CERTS := true

.PHONY: help install demo test faults servers chaos bill celery-long chaos-short streams-long bench-gateway fuzz check docs reference bench bench-scale bench-pace bench-bulk bench-cache bench-simulator bench-limits bench-poison bench-dead-proxy bench-failover up requirements clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

install: $(READY) ## make .venv with Trivet and all it needs, pinned

# uv installs in seconds what pip takes a minute for; where it cannot be had, pip does
$(READY): pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Trivet needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	@if $(BIN)/python -m pip install -q --disable-pip-version-check uv 2>/dev/null \
	    && $(BIN)/uv pip install -q --python $(BIN)/python -r requirements.txt -e . --no-deps; then :; \
	else $(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt -e .; fi
	@touch $@

demo: $(READY) ## the main job, with an outage in the middle, on this machine alone
	@$(BIN)/trivet demo $(DEMO)

test: $(READY) ## the suite, on SQLite and PostgreSQL
	@$(BIN)/python -m pytest -q -n 2 --dist loadgroup --ignore tests/faults --ignore tests/chaos --ignore tests/servers $(TEST)

faults: $(READY) ## every fault of a provider through the whole system, on SQLite and PostgreSQL, in 5 minutes
	@$(BIN)/python -m pytest -q -n 2 --dist loadgroup tests/faults $(TEST)

servers: $(READY) ## real servers as Debian ships them: RabbitMQ, Redis with TLS, Sentinel, PgBouncer; in 4 minutes
	@$(BIN)/python -m pytest -q -n 2 --dist loadgroup tests/servers $(TEST)

chaos: $(READY) ## 2,000 jobs a round, a process killed every 5 s, audited; MINUTES=10, or ROUNDS=20 on each database
	@$(BIN)/python -m tests.chaos.rounds $(if $(ROUNDS),--rounds $(ROUNDS),--minutes $(MINUTES)) $(CHAOS)

bill: $(READY) ## 5,000 jobs with faults, hedges, cache and kills: the ledger against the providers' bill, on each database
	@$(BIN)/python -m tests.chaos.rounds --rounds 1 --jobs 5000 --faults $(BILL)

celery-long: $(READY) ## generate in a Celery application: 500 chains under kills every 5 s, five chords of 1,000, audited
	@$(BIN)/python -m tests.celery_shop.rounds $(CELERY)

chaos-short: $(READY) ## kill -9, SIGSTOP, flushes, restarts, clock jumps, doubled messages, on SQLite and PostgreSQL, in 15 minutes
	@$(BIN)/python -m pytest -q -n 0 tests/chaos $(TEST)

streams-long: $(READY) ## 1,000 streams through the gateway with Bedrock and Vertex down in turn; parts killed under 200
	@GATEWAY_STREAMS=1000 $(BIN)/python -m pytest -q -n 0 tests/chaos/test_gateway_streams.py $(TEST)

bench-gateway: $(READY) ## CPU of a request through the gateway, and memory of 2,000 that wait, in 3 minutes
	@$(BIN)/python benchmarks/bench_gateway.py $(GATEWAY)

fuzz: $(READY) ## the readers of providers' answers against spoiled ones, in 10 minutes; FUZZ=60 for a minute
	@$(BIN)/python -m tests.fuzz --seconds $(or $(FUZZ),600)

check: $(READY) ## ruff, the import contracts, the words, and mypy --strict over all code for Python 3.11 and 3.13
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo --no-cache
	@! git grep -nPi '$(OLD_WORDS)' -- '*.py' '*.lua' '*.toml' '*.html' '*.yml' ':!tests/unit/error_bodies.py' || { echo "docs/glossary.md has the words in use."; exit 1; }
	@! git grep -nPi '^#.*($(OLD_WORDS))' -- '*.md' || { echo "docs/glossary.md has the words in use."; exit 1; }
	@$(BIN)/mypy --python-version 3.11
	@$(BIN)/mypy --python-version 3.13

docs: $(DOCS_READY) ## build the documentation into site/, without warnings
	@$(BIN)/python docs/generate_reference.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

reference: $(READY) ## write the reference pages that are made from the code
	@$(BIN)/python docs/generate_reference.py

# what builds the documentation is not part of `make install`
$(DOCS_READY): $(READY) docs/requirements.txt
	@echo "installing what builds the documentation into $(VENV)"
	@if test -x $(BIN)/uv; then $(BIN)/uv pip install -q --python $(BIN)/python -r docs/requirements.txt; \
	else $(BIN)/python -m pip install -q --disable-pip-version-check -r docs/requirements.txt; fi
	@touch $@

bench: $(READY) $(PEER)/.ready $(PEERS)/celery/.ready $(PEERS)/taskiq/.ready ## what a job costs, against the bare SDK and others, in 20 minutes; BENCH=--quick in 3
	@$(BIN)/python benchmarks/bench_cost.py $(BENCH)

bench-scale: $(READY) ## the same with up to 1,000,000 jobs waiting, and a simulated fleet; SCALE=--quick for less
	@$(BIN)/python benchmarks/bench_scale.py $(SCALE)

bench-pace: $(READY) ## claims and memory while 1,000 jobs a second end and 100,000 wait, in 6 minutes
	@$(BIN)/python benchmarks/bench_pace.py $(PACE)

bench-bulk: $(READY) ## memory and pace of trivet bulk and batch export, 10,000 jobs and up to JOBS; BULK=--postgres
	@$(BIN)/python benchmarks/bench_bulk.py $(if $(filter-out file,$(origin JOBS)),--jobs $(JOBS)) $(BULK)

bench-cache: $(READY) ## 10,000 requests of which 30 % repeat: as many calls as different ones, in 4 minutes
	@$(BIN)/python benchmarks/bench_cache.py $(CACHE)

bench-simulator: $(READY) ## how many requests a second the simulator serves
	@$(BIN)/python benchmarks/bench_simulator.py

bench-limits: $(READY) ## 10,000 jobs under three routes' limits, in 8 minutes; JOBS=2000 for less
	@$(BIN)/python benchmarks/bench_limits.py --jobs $(JOBS) $(LIMITS)

bench-routing: $(READY) ## the same mixed work by cost and by priority in one run, in 3 minutes; ROUTING="--jobs 1200"
	@$(BIN)/python benchmarks/bench_routing.py $(ROUTING)

bench-poison: $(READY) ## 600 documents of which every route refuses two, against 600 good ones, in 2 minutes
	@$(BIN)/python benchmarks/bench_poison.py $(POISON)

bench-dead-proxy: $(READY) ## 1,500 jobs, two good workers, by turns with a third that goes out through a dead proxy, in 4 minutes
	@$(BIN)/python benchmarks/bench_dead_proxy.py $(DEAD_PROXY)

bench-failover: $(READY) $(PEER)/.ready ## Trivet and a LiteLLM Router through the same outages, in 10 minutes
	@$(BIN)/python benchmarks/bench_failover.py $(FAILOVER)

# LiteLLM in an environment of its own; where uv cannot be had, pip takes the newest it finds
$(PEER)/.ready: $(READY) benchmarks/peers/litellm.txt benchmarks/peers/overrides.txt
	@test -x $(PEER)/bin/python || $(PYTHON) -m venv $(PEER)
	@echo "installing LiteLLM into $(PEER)"
	@if test -x $(BIN)/uv; then $(BIN)/uv pip install -q --python $(PEER)/bin/python \
	    -r benchmarks/peers/litellm.txt --override benchmarks/peers/overrides.txt; \
	else $(PEER)/bin/python -m pip install -q --disable-pip-version-check litellm google-auth cryptography; fi
	@touch $@

# what bench compares with, each in an environment of its own
$(PEERS)/celery/.ready $(PEERS)/taskiq/.ready: $(PEERS)/%/.ready: $(READY) benchmarks/peers/%.txt
	@test -x $(PEERS)/$*/bin/python || $(PYTHON) -m venv $(PEERS)/$*
	@echo "installing $* into $(PEERS)/$*"
	@if test -x $(BIN)/uv; then $(BIN)/uv pip install -q --python $(PEERS)/$*/bin/python -r benchmarks/peers/$*.txt; \
	else $(PEERS)/$*/bin/python -m pip install -q --disable-pip-version-check -r benchmarks/peers/$*.txt; fi
	@touch $@

up: $(READY) ## a running Trivet over the simulator, with Flower, until Ctrl-C
	@$(BIN)/trivet up --simulate --flower

requirements: $(READY) ## pin the newest versions that fit pyproject.toml
	@$(BIN)/uv pip compile -q pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
	    --no-emit-index-url --no-emit-find-links --no-header --no-annotate -o requirements.txt
	@$(BIN)/uv pip compile -q --group docs --constraint requirements.txt --universal --python-version 3.11 --upgrade \
	    --no-emit-index-url --no-emit-find-links --no-header --no-annotate -o docs/requirements.txt

clean: ## remove what was installed and made
	rm -rf $(VENV) benchmarks/.peers benchmarks/results .trivet site .pytest_cache .mypy_cache .ruff_cache .hypothesis
