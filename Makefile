# Every target makes what it needs in .venv first. Start with: make help

PYTHON ?= python3
# pip's words for torch, which only the tests and trainings use. The plain index serves a CUDA build of several GB; for the
# small CPU build add PyTorch's own index: make test TORCH='torch==2.13.0 --index-url <the CPU index from pytorch.org>'
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=
FUZZ_CASES ?= 10000
SOAK_MINUTES ?= 60
MUTANTS ?=
ADVISORIES ?=
# Lines and branches of the core that the whole suite must run; a part of it (PYTEST_ARGS) runs without measuring.
COVERAGE := $(if $(strip $(PYTEST_ARGS)),,--cov --cov-fail-under=95)

VENV_PYTHON := .venv/bin/python
LINTED := structpose_ros test benchmarks tools launch setup.py

export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
export OMP_WAIT_POLICY ?= PASSIVE
# The ROS 2 wheels set these for their own environment; another environment's must not leak in.
ifdef _ROS_WHEELS_BOOTSTRAP_COMPLETE
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE LD_LIBRARY_PATH
endif

.DEFAULT_GOAL := help
.PHONY: help demo test mutation audit faults bench soak demo-model docs venv venv-test lint format lock clean distclean check-python

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "PYTHON=$(PYTHON) chooses the Python (3.10 or newer); with ROS 2 sourced, its packages are used."

demo: venv ## play the demo room as a ROS 2 camera into the node; report in out/demo
	@FASTRTPS_DEFAULT_PROFILES_FILE=$${FASTRTPS_DEFAULT_PROFILES_FILE:-$(CURDIR)/config/fastdds_shm.xml} \
		$(VENV_PYTHON) -m structpose_ros.demo --out out/demo

# One thread each: two tests at a time keep two cores busy.
# A worker that crashes ends the run: with loadgroup, pytest-xdist would wait for ever for its tests.
test: lint ## lint, type check and the whole test suite
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n 2 --dist loadgroup --max-worker-restart=0 $(COVERAGE) $(PYTEST_ARGS)

faults: venv-test ## the long run of the fault tests: FUZZ_CASES=10000 frames that no camera should send
	@FUZZ_CASES=$(FUZZ_CASES) $(VENV_PYTHON) -m pytest test/faults -rA $(PYTEST_ARGS)

mutation: check-python ## change the geometry a thousand times: do its tests notice? An hour; MUTANTS='*gate*' is a part
	@$(PYTHON) tools/set_up.py mutation --torch "$(TORCH)"
	@.venv/bin/mutmut run $(MUTANTS)
	@.venv/bin/mutmut results

audit: venv-test ## compare .venv with its lists: versions, files, licences; ADVISORIES=FILE: OSV's export of PyPI
	@$(VENV_PYTHON) tools/audit.py $(if $(ADVISORIES),--advisories $(ADVISORIES))

bench: venv-test ## the benchmarks; figures in out/bench
	@FASTRTPS_DEFAULT_PROFILES_FILE=$${FASTRTPS_DEFAULT_PROFILES_FILE:-$(CURDIR)/config/fastdds_shm.xml} \
		$(VENV_PYTHON) -m benchmarks.run --out out/bench

soak: venv-test ## the node for SOAK_MINUTES=60 at 30 Hz, with faults; memory, threads, handles, poses in out/soak
	@$(VENV_PYTHON) -m benchmarks.soak --out out/soak --minutes $(SOAK_MINUTES)

DEMO_MODEL := out/demo_model

demo-model: venv-test ## make models/demo_room.onnx (some ten minutes on two cores) and measure it
	@$(VENV_PYTHON) -m structpose_ros.cli render-demo $(DEMO_MODEL)/room
	@$(VENV_PYTHON) -m structpose_ros.cli train config/training/landmarks.yaml --data $(DEMO_MODEL)/room --out $(DEMO_MODEL)/run
	@$(VENV_PYTHON) -m structpose_ros.cli export $(DEMO_MODEL)/run --out models/demo_room.onnx --int8
	@$(VENV_PYTHON) -m structpose_ros.cli evaluate models/demo_room.onnx --data $(DEMO_MODEL)/room --out $(DEMO_MODEL)/test

venv: check-python ## make .venv for the demo
	@$(PYTHON) tools/set_up.py demo

venv-test: check-python ## make .venv for tests, benchmarks and trainings (torch and the tools)
	@$(PYTHON) tools/set_up.py test --torch "$(TORCH)"

docs: venv-test ## write docs/parameters.md and config/relocalize.yaml from the declarations
	@$(VENV_PYTHON) tools/parameter_docs.py

lint: venv-test ## ruff and mypy
	@$(VENV_PYTHON) -m ruff check $(wildcard $(LINTED))
	@$(VENV_PYTHON) -m ruff format --check $(wildcard $(LINTED))
	@$(VENV_PYTHON) -m mypy structpose_ros tools

format: venv-test ## let ruff rewrite the code
	@$(VENV_PYTHON) -m ruff check --fix $(wildcard $(LINTED))
	@$(VENV_PYTHON) -m ruff format $(wildcard $(LINTED))

lock: ## pin the requirement lists anew, with hashes (needs uv)
	@tools/lock

clean: ## remove outputs and caches, keep .venv
	@rm -rf out build install log mutants *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv
	@rm -rf .venv

check-python:
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON): install Python 3.10 or newer, or name it: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $$($(PYTHON) --version 2>&1) is too old: structpose_ros needs 3.10 or newer, e.g. make PYTHON=python3.12" >&2; exit 1; }
