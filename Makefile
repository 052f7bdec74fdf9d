# UMIM. `make help` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
# Where `make demo` runs: embedded (a real Kubernetes started here) or current (the cluster of KUBECONFIG).
CLUSTER ?= embedded
export CLUSTER
# Registry to push images to, for CLUSTER=current; empty: load into kind or k3d.
REGISTRY ?=
export REGISTRY
# TELEMETRY=1 adds an OpenTelemetry Collector, a Prometheus and a Jaeger to the demo.
TELEMETRY ?=
export TELEMETRY

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-26s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: python ## Set everything up and run one round over three hospitals; prints the result.
	@python3 -m hack.venv demo
	@$(BIN)/python -m hack.demo run

.PHONY: demo-clean
demo-clean: python ## Remove the demo from the cluster.
	@python3 -m hack.venv demo
	@$(BIN)/python -m hack.demo clean

.PHONY: test
test: python ## Set everything up and run all checks and tests.
	@python3 -m hack.check

.PHONY: lint
lint: python ## Run ruff, mypy and import-linter, and build the documentation.
	@python3 -m hack.check lint

.PHONY: test-unit
test-unit: python ## Run the tests that need no cluster.
	@python3 -m hack.check unit

.PHONY: test-cluster
test-cluster: python ## Run integration and end-to-end tests on the embedded cluster.
	@python3 -m hack.check cluster

.PHONY: test-kueue
test-kueue: python ## Run the tests of queues on the embedded cluster, with a real Kueue built from source.
	@python3 -m hack.check kueue

CASE ?=
.PHONY: chaos
chaos: python ## Let faults happen on the embedded cluster and write docs/reliability; CASE=name for one, AGAIN=1 from anew.
	@python3 -m hack.venv dev
	@$(BIN)/python -m tests.e2e.chaos $(CASE) $(if $(AGAIN),--again)

.PHONY: test-gpu
test-gpu: python ## Run the tests that need an NVIDIA GPU; they fail where torch sees none.
	@python3 -m hack.venv dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/gpu --durations=0 -o tmp_path_retention_policy=failed

.PHONY: docs
docs: python ## Build the documentation as a site: build/site.
	@python3 -m hack.venv dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: docs-serve
docs-serve: python ## Show the documentation on http://127.0.0.1:8000, built anew at each change.
	@python3 -m hack.venv dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

.PHONY: generate
generate: python ## Write what is generated: CRDs, reference, rendered manifests.
	@python3 -m hack.venv dev
	@$(BIN)/python -m umim.api.crd manifests/crds
	@$(BIN)/python -m hack.reference
	@$(BIN)/python -m hack.dashboards
	@$(BIN)/python -m hack.render

.PHONY: format
format: python ## Format the code.
	@python3 -m hack.venv dev
	@$(BIN)/ruff check --fix --quiet . && $(BIN)/ruff format --quiet .

PROFILE ?= quick
DATA ?=
.PHONY: benchmark-learning
benchmark-learning: python ## Run the learning benchmark; PROFILE=quick|full, DATA=folder with the packs.
	@python3 -m hack.venv dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.learning --profile $(PROFILE) $(if $(DATA),--data $(DATA)) \
		--out $(if $(filter full,$(PROFILE)),docs/benchmarks,build/benchmarks)

.PHONY: benchmark-training
benchmark-training: python ## Time the training loop against a plain loop of timm and torch, on the GPU where there is one.
	@python3 -m hack.venv dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.training_throughput

JOBS ?= 1
.PHONY: benchmark-encodings
benchmark-encodings: python ## Measure what the encodings of updates cost and save; JOBS=6 runs them beside each other.
	@python3 -m hack.venv dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.encodings --jobs $(JOBS) $(if $(DATA),--data $(DATA))

.PHONY: benchmark-aggregation
benchmark-aggregation: python ## Time the aggregation against flwr, nvflare and openfl; QUICK=1 for a small trial.
	@python3 -m hack.venv dev
	@$(BIN)/python -m tests.benchmarks.aggregation $(if $(QUICK),--quick,--out docs/benchmarks)

.PHONY: benchmark-aggregation-pod
benchmark-aggregation-pod: python ## Merge 64 updates of ViT-B in a Pod of 1 GiB on the embedded cluster; ENCODING=bf16 halves the disk.
	@python3 -m hack.venv dev
	@$(BIN)/python -m tests.benchmarks.aggregation_pod --encoding $(or $(ENCODING),full) --out docs/benchmarks

.PHONY: benchmark-byzantine
benchmark-byzantine: python ## Show what lying sites do to each rule of the aggregation.
	@python3 -m hack.venv dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.byzantine

.PHONY: benchmark-operator
benchmark-operator: python ## Load the operator: 100 rounds of 8 hospitals, one of 1000, on a real API server; QUICK=1 for a tenth.
	@python3 -m hack.venv dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.operator $(if $(QUICK),--quick,--out docs/benchmarks)

.PHONY: images
images: python ## Build the container images and load them into the embedded cluster.
	@python3 -m hack.images build
	@python3 -m hack.images load

.PHONY: cluster-up
cluster-up: python ## Start the embedded Kubernetes.
	@python3 -m hack.cluster up

.PHONY: cluster-down
cluster-down: python ## Stop the embedded Kubernetes; its state stays.
	@python3 -m hack.cluster down

.PHONY: cluster-purge
cluster-purge: python ## Stop the embedded Kubernetes and delete its state.
	@python3 -m hack.cluster down --purge

.PHONY: cluster-status
cluster-status: python ## Show what of the embedded Kubernetes runs.
	@python3 -m hack.cluster status

.PHONY: cluster-kubeconfig
cluster-kubeconfig: python ## Print the path of the kubeconfig (use make -s).
	@python3 -m hack.cluster kubeconfig

.PHONY: clean
clean: ## Remove the virtual environment, the images' build storage and caches of tools.
	@python3 -m hack.images clean
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build

.PHONY: python
python: # Make sure that there is a python3 to go on with.
	@hack/bootstrap.sh
