# Every target is explained by `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILE := $(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11

.PHONY: help
help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 12

.PHONY: setup
setup: $(STAMP) ## make .venv with the locked dependencies and Selvedge itself

$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: set PYTHON=/path/to/it")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: up
up: setup ## the same deployment, operator included, left running; prints how to use it (NODE=1: on a node, as root)
	@$(BIN)/python -m sandbox.demo --keep .sandbox $(if $(NODE),--node)

.PHONY: down
down: setup ## end what `make up` started
	@$(BIN)/python -m sandbox down

.PHONY: demo
demo: setup ## Fashion Wallet from `kubectl apply` to Ready on real servers, then tear down (NODE=1: in pods, as root)
	@$(BIN)/python -m sandbox.demo $(if $(NODE),--node)

# Three processes on two cores: many tests wait for an interval or a Lease. A group (pytest.mark.xdist_group) stays together.
.PHONY: test
test: setup ## all tests on real servers, Postgres 15 and 18
	@$(BIN)/python -m sandbox build
	$(BIN)/pytest -n 3 --dist loadgroup

# Each part is a run of its own, with servers of its own: what ends one of them hides nothing of the others.
# One after the other, each on two processes: tests that wait for an operator's deadlines need the cores.
LONG := test-long-unit test-long-sandbox test-long-engines test-long-cluster test-long-node

.PHONY: test-long
test-long: setup ## everything, the long ones too, on Postgres 15 to 18; all parts, even if one fails
	@$(MAKE) --no-print-directory --keep-going --jobs=1 $(LONG)

.PHONY: $(LONG)
test-long-unit: setup
	$(BIN)/pytest tests/unit tests/test_*.py --long -n 2
test-long-sandbox: setup
	@$(BIN)/python -m sandbox build --all
	$(BIN)/pytest tests/sandbox --long -n 2 --durations=10
test-long-engines: setup
	@$(BIN)/python -m sandbox build --all
	$(BIN)/pytest tests/engines --long -n 2 --dist loadgroup --durations=20
test-long-cluster: setup
	@$(BIN)/python -m sandbox build --all
	$(BIN)/pytest tests/cluster --long -n 2 --dist loadgroup --durations=20
test-long-node: setup
	@$(BIN)/python -m sandbox build --all
	$(BIN)/pytest tests/node --long --durations=10

.PHONY: check
check: setup ## format, lint, types, import rules, generated files; all of them, even if one fails
	@$(MAKE) --no-print-directory --keep-going check-format check-lint check-types check-imports check-generated

.PHONY: check-format check-lint check-types check-imports check-generated
check-format:
	$(BIN)/ruff format --check .
check-lint:
	$(BIN)/ruff check .
check-types:
	$(BIN)/mypy -p selvedge -p sandbox
check-imports:
	$(BIN)/lint-imports --no-cache
check-generated:
	$(BIN)/python -m selvedge crds --check
	$(BIN)/python -m sandbox.chart_reference --check
	$(BIN)/python -m sandbox.sbom --check

.PHONY: crds
crds: setup ## generate crds/, the reference and the chart's copies from the models
	$(BIN)/python -m selvedge crds --output crds --docs docs/reference --chart charts/selvedge/templates/crds
	$(BIN)/python -m sandbox.chart_reference

.PHONY: bench
bench: setup ## measure the budgets against bare tools; results go to bench/results/
	$(BIN)/python -m bench

.PHONY: image
image: setup ## build the image by docker or buildah: TARGET=operator or tools, BASE=IMAGE (BASE=mmdebstrap: no registry)
	@$(BIN)/python -m sandbox.make_image --target $(or $(TARGET),operator) $(if $(BASE),--base $(BASE)) \
	  $(if $(POSTGRES_CLIENT),--postgres-client $(POSTGRES_CLIENT)) $(if $(MONGODB_TOOLS),--mongodb-tools $(MONGODB_TOOLS))

.PHONY: sbom
sbom: setup ## make requirements/sbom.cdx.json, the image's Python libraries, from the lock
	$(BIN)/python -m sandbox.sbom

.PHONY: kind-up kind-down
kind-up: ## with Docker: a kind cluster with the image, two database servers, the chart and Fashion Wallet
	@deploy/kind/up.sh
kind-down: ## remove that cluster
	kind delete cluster --name selvedge

.PHONY: lock
lock: setup ## resolve the dependencies of pyproject.toml anew, with hashes
	$(COMPILE) --extra lint pyproject.toml -o requirements/runtime.txt > /dev/null
	$(COMPILE) --extra dev pyproject.toml -o requirements/dev.txt > /dev/null
	$(COMPILE) requirements/build.in -o requirements/build.txt > /dev/null
	$(BIN)/python -m sandbox.sbom

.PHONY: clean
clean: ## end the sandbox; remove .venv and everything generated that is not committed (the cache stays)
	@if test -x $(BIN)/python; then $(BIN)/python -m sandbox down; fi
	rm -rf $(VENV) .sandbox .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
