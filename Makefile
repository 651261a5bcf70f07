# make demo   train, evaluate and apply a small network on embedded synthetic faces
# make test   run the tests
# make doctor what this machine has, what will be used, what to fix
# The first two create .venv themselves and need Python 3.10 or newer; nothing else is installed or changed.
PYTHON ?= python3
VENV   ?= .venv
DEMO   ?= demo_out
PY     := $(VENV)/bin/python
NPU_PATH_TESTS := $(addprefix test/unit/engine/test_,precision.py apex.py device.py distributed.py) \
	test/unit/models/ops/test_sync_batch_norm.py

.PHONY: demo test coverage deep lint doctor clean
.NOTPARALLEL:

demo: $(VENV)/.base
	$(PY) newtrain.py --config options/demo.yaml --checkpoints_dir $(DEMO)
	$(PY) evaluate.py --name demo --checkpoints_dir $(DEMO) --results_dir $(DEMO) --strip 6
	@echo "The image strip (input, restored, target) is $(DEMO)/demo_synthetic/strip.png"

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n auto --dist worksteal
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n auto --dist worksteal test/npu

# How much of the NPU code the tests run on a machine without an NPU.
coverage: export COVERAGE_FILE := $(CURDIR)/.coverage
coverage: $(VENV)/.dev
	$(PY) -m coverage erase
	OMP_NUM_THREADS=1 $(PY) -m coverage run -m pytest -q -n auto --dist worksteal \
		-m "deep or not deep" $(NPU_PATH_TESTS)
	OMP_NUM_THREADS=1 $(PY) -m coverage run -m pytest -q -n auto --dist worksteal test/npu
	$(PY) -m coverage combine -q
	for file in device prefetch precision casting optimizer_step apex distributed; do \
		$(PY) -m coverage report -m --fail-under=95 --include=engine/$$file.py || exit 1; done

# Without those that `make coverage` runs. The last command installs torch-npu into .venv-npu; where
# that is impossible it says so.
deep: $(VENV)/.export
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n auto --dist worksteal -m deep \
		$(addprefix --ignore=,$(NPU_PATH_TESTS))
	FACEZOO_ALLOW_NO_WHEEL=1 PYTHON=$(PY) bash test/npu/wheel/run.sh

# Works without .venv, too, and then says why .venv could not be made.
doctor:
	@$(if $(wildcard $(PY)),$(PY),$(PYTHON)) -m tools.doctor

lint: $(VENV)/.dev
	$(PY) -m ruff check .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "python -m venv failed; on Debian and Ubuntu install python3-venv" >&2; exit 1; }

$(VENV)/.base: requirements.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-serve.txt requirements.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.base

$(VENV)/.export: requirements-export.txt $(VENV)/.dev
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-export.txt
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .ruff_cache
