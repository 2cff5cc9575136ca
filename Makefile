# `make` lists what there is. Every target sets itself up first; see scripts/setup.
.DEFAULT_GOAL := help
SHELL := /bin/sh
# Images of Python often set it; every process would then compile each library it imports anew.
unexport PYTHONDONTWRITEBYTECODE
PYTHON := .venv/bin/python
SOURCES := $(wildcard dagger/*/src) $(wildcard dagger/python-sdk/*.py) service/src
LOCKED := . $(patsubst %/pyproject.toml,%,$(wildcard dagger/*/pyproject.toml dagger/*/*/pyproject.toml service/pyproject.toml scripts/*/pyproject.toml))
EXAMPLES := $(wildcard examples/*/dagger.json dagger/*/examples/python/dagger.json)
SEMGREP := --config scripts/semgrep/rules.yml --metrics off --disable-version-check
CODE := dagger service examples tests scripts bench lab

.PHONY: help run test test-full crash-soak fuzz check security lint contract test-llm test-superlinked test-engine release bench-engine bench-answers bench-followups bench-prompts bench-service bench-overload bench-ingest scaling bench-quality quality-gate bench-speed clean \
	setup-run setup setup-llm setup-bench

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 16

run: export RAG_HOME := $(or $(RAG_HOME),$(CURDIR)/.rag)
run: setup-run ## index docs/ and README.md, answer a sample question, serve page and API (RUNNER=resident: through Dagger)
	@.venv/bin/rag demo docs README.md
	@.venv/bin/rag serve --collection docs $(if $(RUNNER),--runner $(RUNNER)) $(if $(PORT),--port $(PORT))

test: setup ## run all tests (those that need an engine, a model or data skip with the reason)
	@scripts/go-tools
	@$(PYTHON) -m pytest -n auto --dist loadgroup

test-full: setup ## the full lane: more random cases, and the tests that take minutes
	@scripts/go-tools
	@failed=0; \
	$(PYTHON) -m pytest -n auto --dist loadgroup --lane full -m "not alone" || failed=1; \
	$(PYTHON) -m pytest --lane full -m alone || failed=1; \
	exit $$failed

crash-soak: setup ## kill an ingest 10,000 times and check the store (KILLS=, SEED=, MINUTES=, WRITERS= side by side)
	@$(PYTHON) tests/faults/$(if $(WRITERS),writers_lane.py --writers $(WRITERS),crash_lane.py) --kills $(or $(KILLS),10000) --minutes $(or $(MINUTES),600) \
		$(if $(SEED),--seed $(SEED))

fuzz: setup ## fuzz the queries sent to a Dagger engine, ten minutes (SECONDS=)
	@scripts/uv run --no-sync --with atheris==3.0.0 python tests/faults/fuzz_graphql.py \
		-max_total_time=$(or $(SECONDS),600)

check: setup ## ruff, format, mypy --strict, contract, locks; edits nothing
	@$(PYTHON) -m ruff check $(CODE)
	@$(PYTHON) -m ruff format --check $(CODE)
	@$(PYTHON) -m mypy $(SOURCES)
	@$(PYTHON) scripts/contract.py --check
	@$(PYTHON) scripts/configuration.py --check
	@$(PYTHON) scripts/reference.py --check
	@scripts/lock-check $(LOCKED) $(EXAMPLES:%/dagger.json=%)

security: setup ## bandit, and semgrep with the rules in scripts/semgrep
	@$(PYTHON) -m bandit -q -c pyproject.toml -r $(SOURCES)
	@scripts/uv sync --quiet --locked --project scripts/semgrep
	@scripts/semgrep/.venv/bin/semgrep scan $(SEMGREP) --quiet --test scripts/semgrep/rules.py
	@scripts/semgrep/.venv/bin/semgrep scan $(SEMGREP) --quiet --error dagger service examples
	@echo "security: bandit and semgrep found nothing"

lint: setup ## fix what ruff can fix
	@$(PYTHON) -m ruff check --fix $(CODE)
	@$(PYTHON) -m ruff format $(CODE)

contract: setup ## write contract/ from the models, docs/configuration.md from the settings, contract/reference/
	@$(PYTHON) scripts/contract.py
	@$(PYTHON) scripts/configuration.py
	@$(PYTHON) scripts/reference.py


test-llm: setup-llm ## run the tests that need the local language model
	@$(PYTHON) -m pytest -m llm

test-superlinked: setup ## run the Superlinked server's tests in its own environment, which `make test` then uses
	@scripts/uv sync --quiet --locked --project dagger/retrieve/superlinked
	@cd dagger/retrieve/superlinked && .venv/bin/python -m pytest

test-engine: setup ## run the tests that need a Dagger engine, one after the other
	@$(PYTHON) -m pytest tests/engine

release: setup ## check a release and tag it, one tag per module; CHECK=1: dry run
	@$(PYTHON) scripts/release.py $(if $(CHECK),--dry-run)

bench-quality: setup-bench ## retrieval and answer quality on public data sets
	@$(PYTHON) bench/quality.py

bench-answers: setup-bench ## extractive answers and abstention on sets that no fit has seen
	@$(PYTHON) bench/answers.py

bench-followups: setup-bench ## what follow-up questions find, beside the same questions in full
	@$(PYTHON) bench/followups.py

bench-prompts: setup-bench setup-llm ## a language model's answers, refusals and citations, by prompt (ARGS="--questions 12": fewer)
	@$(PYTHON) bench/prompts.py $(ARGS)

quality-gate: setup-bench ## fail when retrieval quality on a subset is below bench/quality_floor.json
	@$(PYTHON) bench/quality.py --subset --gate bench/quality_floor.json --without-data skip

bench-speed: setup-bench ## latency, throughput, memory, beside other tools
	@$(PYTHON) bench/speed.py

bench-service: setup-bench ## overhead of HTTP, throughput by runner and clients, beside Hayhooks
	@$(PYTHON) bench/http_service.py

bench-overload: setup-bench ## ten times the peak load: goodput, refusals, recovery, tenants
	@$(PYTHON) bench/overload.py

bench-ingest: setup-bench ## another tenant's requests while 100 MB are added (ARGS="--mb 5": less)
	@$(PYTHON) bench/ingest.py $(ARGS)

scaling: setup-bench ## simulate cost and number of replicas (MEASURE=1: new samples; WRITE=1: into docs/scaling.md)
	@$(PYTHON) lab/scaling.py $(if $(MEASURE),--measure) $(if $(WRITE),--write)

bench-engine: setup ## latency of a question in each form on a Dagger engine
	@$(PYTHON) bench/engine.py

clean: ## remove the environment, caches and the sample store
	rm -rf .venv dagger/retrieve/superlinked/.venv scripts/semgrep/.venv .tools .rag .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

setup-run:
	@scripts/setup --no-default-groups

setup:
	@scripts/setup

setup-llm:
	@scripts/setup --group llm

setup-bench:
	@scripts/setup --group bench
