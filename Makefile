# Maestro's make targets. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Where to run: local (a one-node Kubernetes on this machine), minikube, or current (whatever kubectl points at).
CLUSTER ?= $(if $(shell command -v minikube),minikube,local)
RELEASE ?= maestro
NAMESPACE ?= maestro
# Where images are pushed to and pulled from; CLUSTER=current needs one, for example REGISTRY=registry.example.com/maestro
REGISTRY ?= $(if $(filter current,$(CLUSTER)),,localhost/maestro)
DATASET ?= shuttle
# gpu: PyTorch's image with the index's wheel, which knows CUDA and is several GB larger.
TORCH ?= cpu
DAGS ?= dags
# What is installed: demo, for one small node; prod, with a second of each pod that can have one.
PROFILE ?= demo
values_demo := charts/maestro/values-minikube.yaml
values_prod := charts/maestro/values-prod.yaml $(if $(filter local,$(CLUSTER)),charts/maestro/values-prod-local.yaml)
VALUES ?= $(or $(values_$(PROFILE)),$(error PROFILE=$(PROFILE) is not known: use demo or prod))

# Everything below is Python's; a fresh Debian need not have it.
ifeq ($(shell command -v python3),)
$(info $(shell infrastructure/packages python3))
endif

BUILD := .build
VENV := .venv
PYTHON := $(VENV)/bin/python
# What outlives a checkout.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/maestro
K6_VERSION := v1.8.1
# Wheels that go before those of an index, of the first of these folders that is there. PyPI's of PyTorch is the one for
# GPUs: put that for CPUs into it where you have it.
WHEELHOUSE ?= $(firstword $(wildcard $(CACHE)/wheelhouse ../shared/wheels))
wheelhouse := $(if $(wildcard $(WHEELHOUSE:%=%/*.whl)),$(WHEELHOUSE))
wheels := $(wheelhouse:%=--wheelhouse %) --torch $(TORCH)

cluster_local := python3 infrastructure/local
cluster_minikube := infrastructure/minikube/cluster
cluster_current := infrastructure/current/cluster
cluster := $(cluster_$(CLUSTER))
ifeq ($(cluster),)
$(error CLUSTER=$(CLUSTER) is not known: use local, minikube or current)
endif

engine_local := --engine buildah --node "$(cluster_local)"
engine_minikube := --engine minikube
engine_current := --engine docker --push
# As tests build them that need an image of their own.
export BUILD_IMAGES = --registry $(REGISTRY) $(engine_$(CLUSTER)) $(wheels)

comma := ,
# The local node's address, which make can read without a process. No proxy knows the way there.
NODE_ADDRESS := $(patsubst NODE_ADDRESS="%",%,$(filter NODE_ADDRESS="%",$(subst ADDRESS = ,ADDRESS=,$(file <infrastructure/local/config.py))))
# Some programs read the one name, some the other.
exceptions := $(or $(no_proxy),$(NO_PROXY))
unproxied := 127.0.0.1,localhost,$(NODE_ADDRESS)$(if $(exceptions),$(comma)$(exceptions))

export PATH := $(CURDIR)/$(BUILD)/bin:$(PATH)
export PYTHONPATH := $(CURDIR)
# The clusters started from here have a kubeconfig of their own, so that no target acts on another one.
export KUBECONFIG := $(if $(filter current,$(CLUSTER)),$(KUBECONFIG),$(shell $(cluster) kubeconfig))
export NO_PROXY := $(unproxied)
export no_proxy := $(unproxied)
export CLUSTER RELEASE NAMESPACE DATASET PROFILE VALUES SECRET MODEL VERSION WHY

##@ Start here
.PHONY: demo
demo: install data ## The main job: cluster, images, platform, data, then one run of each DAG
	@echo '[demo] a run of each DAG (usually 3 min)'
	$(PYTHON) -m infrastructure.demo

.PHONY: ui
ui: $(VENV)/ready ## Forward the pages of all services to this machine until Ctrl-C
	$(PYTHON) -m infrastructure.ui

.PHONY: dashboard
dashboard: $(VENV)/ready ## Draw the dashboards from the release's Prometheus, on one page that needs no Grafana
	$(PYTHON) -m infrastructure.dashboard

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-zA-Z0-9%_-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nSettings: CLUSTER=%s PROFILE=%s NAMESPACE=%s RELEASE=%s REGISTRY=%s DATASET=%s\n' '$(CLUSTER)' '$(PROFILE)' '$(NAMESPACE)' '$(RELEASE)' '$(REGISTRY)' '$(DATASET)'

##@ Cluster
.PHONY: cluster-up cluster-down cluster-delete cluster-status kubeconfig keda
cluster-up: ## Create or start the cluster; does nothing when it runs
	$(cluster) up
	@mkdir -p $(BUILD)/bin
	@if [ '$(CLUSTER)' = local ]; then for tool in kubectl helm; do ln -sf "$$($(cluster_local) bin)/$$tool" $(BUILD)/bin/$$tool; done; fi

cluster-down: ## Stop the cluster and keep its data
	$(cluster) down

cluster-delete: ## Stop the cluster and remove its data
	$(cluster) delete

cluster-status: ## Tell how the cluster is
	$(cluster) status

kubeconfig: ## Print the path of the cluster's kubeconfig
	@$(cluster) kubeconfig

keda: cluster-up ## Have KEDA scale workers on the local node; it is built where it is not yet
	$(if $(filter local,$(CLUSTER)),,$(error CLUSTER=$(CLUSTER) has a KEDA of its own: install it as https://keda.sh/docs/latest/deploy says))
	$(cluster_local) keda

##@ Images
registry = $(or $(REGISTRY),$(error REGISTRY is empty: name where images are pushed to and pulled from, as in REGISTRY=registry.example.com/maestro))

.PHONY: images ready images-built
images: ready cluster-up ## Build all images that changed, and bring them to the cluster
	python3 images/build.py --registry $(registry) $(engine_$(CLUSTER)) $(wheels)

# All that takes minutes on a new machine, side by side: Kubernetes, the images and Python's packages.
ready:
	@$(MAKE) --no-print-directory --jobs 3 $(if $(filter local,$(CLUSTER)),$(BUILD)/bin/helm images-built) $(VENV)/ready

images-built:
	$(cluster_local) packages
	python3 images/build.py --registry $(registry) --engine buildah $(wheels)

image-%: cluster-up ## Build one image and what it stands on, as in image-task
	python3 images/build.py $* --registry $(registry) $(engine_$(CLUSTER)) $(wheels)

##@ Platform
.PHONY: install uninstall data models promote rollback export dags restore check check-connections rotate
install: images $(VENV)/ready $(if $(filter prod,$(PROFILE)),$(if $(filter local,$(CLUSTER)),keda)) ## Install the platform into the cluster, or upgrade it
	@echo '[install] the platform (usually 1 min)'
	$(PYTHON) -m infrastructure.install $(VALUES) $(BUILD)/images.yaml

uninstall: ## Remove the platform with the pods of its tasks; volumes and their secrets stay
	helm uninstall $(RELEASE) --namespace $(NAMESPACE) --wait

data: install ## Put the data sets into the object store
	@echo '[data] data sets and their features (usually 40 s)'
	$(PYTHON) -m infrastructure.data

models: $(VENV)/ready ## List the registered models with their versions and aliases
	$(PYTHON) -m infrastructure.models list

promote: $(VENV)/ready ## Put a version into production: MODEL=... VERSION=..., and WHY=... for the ledger
	$(PYTHON) -m infrastructure.models promote

rollback: $(VENV)/ready ## Put the version before into production again: MODEL=..., and WHY=... for the ledger
	$(PYTHON) -m infrastructure.models rollback

export: $(VENV)/ready ## Write a version's files into the data bucket: MODEL=... VERSION=...
	$(PYTHON) -m infrastructure.models export

dags: $(VENV)/ready ## Put the files of DAGS over those of the running release; DAGS= brings those of its image back
	$(PYTHON) -m infrastructure.dags $(DAGS)

restore: ## Install with PostgreSQL from its backups, where its volume holds no cluster: FROM=<stanza>, and AT="2026-11-28 09:30:00+00"
	@test -n '$(FROM)' || { echo 'FROM is empty: name the backups, as in FROM=maestro-maestro (<namespace>-<release>)' >&2; exit 1; }
	@mkdir -p $(BUILD)
	@printf 'postgresql: {restore: {from: "%s", at: "%s"}}\n' '$(FROM)' '$(AT)' >$(BUILD)/restore.yaml
	$(MAKE) --no-print-directory install VALUES='$(VALUES) $(BUILD)/restore.yaml'

check: ## Check every service of the installed platform
	helm test $(RELEASE) --namespace $(NAMESPACE) || { kubectl --namespace $(NAMESPACE) logs --selector app.kubernetes.io/part-of=maestro --field-selector status.phase=Failed --prefix; exit 1; }

check-connections: ## Use each connection and variable of Airflow for real, and say what to do where one fails
	kubectl --namespace $(NAMESPACE) exec deployment/$(RELEASE)-airflow-scheduler -c scheduler -- python -m mlops.airflow.administration.check connections

rotate: $(VENV)/ready ## Another password in place of one: SECRET=redis; without a name it lists what there is
	$(PYTHON) -m infrastructure.rotate

##@ Development
.PHONY: lint test e2e e2e-full e2e-changed chaos security security-short bench constraints values advisories
lint test e2e e2e-full e2e-changed chaos security security-short bench: $(VENV)/test-tools

lint: $(BUILD)/bin/helm ## Format, lint, types, layers, Dockerfiles, shell, charts and links
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy --cache-dir $(CACHE)/mypy
	for folder in charts docs images infrastructure/local; do MYPYPATH=$$folder $(VENV)/bin/mypy --cache-dir $(CACHE)/mypy $$folder/*.py; done
	$(VENV)/bin/lint-imports
	$(VENV)/bin/hadolint images/*/Dockerfile infrastructure/local/node/Dockerfile infrastructure/local/addons/keda/Dockerfile
	shellcheck .ci/run infrastructure/packages infrastructure/*/cluster images/postgresql/postgresql-start images/postgresql/postgresql-restore images/postgresql/pgbackrest images/postgresql/pooler-start images/redis/redis-start images/redis/redis-cli images/builder/*-*
	$(PYTHON) charts/values.py --check
	$(PYTHON) charts/dashboards.py --check
	$(PYTHON) docs/links.py
	promtool check rules charts/monitoring/files/rules/*.yaml
	for chart in charts/*/; do helm lint --quiet "$$chart"; done

test: $(BUILD)/bin/helm $(BUILD)/bin/minio ## Unit, DAG, contract and chart tests
	$(VENV)/bin/pytest --timeout-method thread --numprocesses 3 --max-worker-restart 2 --dist loadfile tests/unit tests/dags tests/contract tests/charts

e2e: data ## Tests on the running cluster: first those that do not disturb each other, side by side, then the others
	$(VENV)/bin/pytest -v tests/e2e --timeout 1200 -m 'not full and not alone' --numprocesses 4
	$(VENV)/bin/pytest -v tests/e2e --timeout 1200 -m 'alone and not full'
	$(if $(filter prod,$(PROFILE)),$(PYTHON) -m tests.chaos $(SEED:%=--seed %))

e2e-full: data ## What is too long for that, in groups with a time budget each; GROUP=operator for one of them
	$(PYTHON) -m tests.full $(GROUP)

e2e-changed: data ## The groups of e2e-full whose inputs changed since they were last green, one at least
	$(PYTHON) -m tests.full --changed

chaos: data ## Every fault, one after the other, while work goes on: SEED=... for an earlier order, FAULT=... for that one alone
	$(PYTHON) -m tests.chaos $(SEED:%=--seed %) $(FAULT:%=--fault %)

security: data ## Attack the running platform: a table of what is open, known secrets looked for everywhere, bad inputs
	$(VENV)/bin/pytest -v tests/e2e/test_security_*.py --timeout 1200

security-short: data ## Of that the table of what is open, and some bad inputs
	$(VENV)/bin/pytest -v tests/e2e/test_security_*.py --timeout 600 -m 'not full and not alone'

bench: images $(BUILD)/bin/k6 $(BUILD)/bin/minio ## Measure an installation, the data path beside the plain way, load on the sensor trainer: an hour
	$(PYTHON) -m tests.bench
	$(PYTHON) -m tests.bench.data_path --json $(BUILD)/bench-data-path.json
	$(PYTHON) -m tests.bench.materialize --json $(BUILD)/bench-materialize.json
	$(PYTHON) -m tests.bench.drift --json $(BUILD)/bench-drift.json
	$(PYTHON) -m tests.bench.features
	$(PYTHON) -m tests.bench.comparisons
	$(PYTHON) -m tests.bench.network
	$(PYTHON) -m tests.bench.inference --json $(BUILD)/bench-inference.json
	$(PYTHON) -m tests.bench.serving --json $(BUILD)/bench-serving.json
	$(PYTHON) -m tests.bench.sensors --json $(BUILD)/bench-sensors.json

# The object store of the tests: what the image has.
$(BUILD)/bin/minio: $(wildcard images/minio/go.* images/minio/*.go)
	mkdir -p $(BUILD)/bin
	@echo '[minio] the object store of the tests (usually 4 min from nothing)'
	CGO_ENABLED=0 $(cluster_local) go build -C images/minio -trimpath -buildvcs=false -o $(CURDIR)/$@ .

$(BUILD)/bin/k6:
	GOBIN=$(CURDIR)/$(BUILD)/bin CGO_ENABLED=0 $(cluster_local) go install go.k6.io/k6@$(K6_VERSION)

advisories: $(VENV)/ready ## Look up what is pinned, and Debian's packages in built images, in the OSV database OSV_DATABASE
	$(PYTHON) -m infrastructure.advisories

values: $(VENV)/ready ## Make the schemas of the charts' values and docs/values.md from the comments in values.yaml
	$(PYTHON) charts/values.py

constraints: $(VENV)/bin/uv ## Compile constraints.txt anew
	python=$$(sed -n 's/^requires-python = ">=\([0-9.]*\),.*/\1/p' pyproject.toml); \
	$(VENV)/bin/uv pip compile pyproject.toml --all-extras --python-version "$$python" --upgrade --no-header --no-emit-index-url -q -o constraints.txt

$(VENV)/bin/uv:
	infrastructure/packages python3-venv
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -q uv==$$(sed -n 's/^ARG UV_VERSION=//p' images/builder/Dockerfile)

# Everything of constraints.txt: the tests import what the images hold.
$(VENV)/ready: $(VENV)/bin/uv constraints.txt infrastructure/packages
	infrastructure/packages git
	@echo '[python] packages (usually 1 min)'
	VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install -q --compile-bytecode $(wheelhouse:%=--find-links %) -r constraints.txt
	touch $@

# The programs that tests and measurements run on this machine; nothing that is installed needs them.
$(VENV)/test-tools: $(VENV)/ready
	infrastructure/packages shellcheck postgresql-15 pgbackrest pgbouncer redis-server prometheus prometheus-alertmanager \
	  prometheus-postgres-exporter prometheus-pushgateway prometheus-redis-exporter
	touch $@

$(BUILD)/bin/helm:
	python3 infrastructure/local build
	mkdir -p $(BUILD)/bin
	for tool in kubectl helm; do ln -sf "$$($(cluster_local) bin)/$$tool" $(BUILD)/bin/$$tool; done
