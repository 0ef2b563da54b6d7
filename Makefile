# From a fresh clone, each of these does all the set-up that it needs.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = true

.PHONY: demo test lint types setup bench-core bench-distil bench-prune bench-tune bench-runtime bench-search docs clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch==2.13.0
	$(PIP) install --quiet --constraint constraints.txt --editable '.[train,demo,dev]'
	touch $@

demo: setup
	$(VENV)/bin/smidgen demo

test: setup
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m 'not alone' -n auto --maxprocesses 4 --dist worksteal
	$(VENV)/bin/python -m pytest -m alone

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: setup
	$(VENV)/bin/mypy

# The figures of benchmarks/core.json, about an hour on two cores.
bench-core: setup
	$(VENV)/bin/python benchmarks/core.py student:0,1,2 runtime training:0,1 install
	$(VENV)/bin/python benchmarks/evidence.py

# A page for each method, from its docstring.
docs: setup
	$(VENV)/bin/smidgen methods --pages docs/methods

# The figures of benchmarks/distil.json: a base-size teacher and its students, hours on two cores.
bench-distil: setup
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench]'
	$(VENV)/bin/python benchmarks/distil.py
	$(VENV)/bin/python benchmarks/evidence.py

# The figures of benchmarks/prune.json: hours on two cores; what is there already is not made again.
bench-prune: setup
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench]'
	$(VENV)/bin/python benchmarks/prune.py
	$(VENV)/bin/python benchmarks/evidence.py

# The figures of benchmarks/tune.json: hours on two cores, more than half of them the base-size model's (a GPU takes minutes); what is
# there already is not made again.
bench-tune: setup
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench]'
	$(VENV)/bin/python benchmarks/tune.py
	$(VENV)/bin/python benchmarks/evidence.py

# The figures of benchmarks/runtime.json: what is there already is not made again. OpenVINO and NNCF are among the rivals.
bench-runtime: setup
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench,openvino]'
	$(VENV)/bin/python benchmarks/runtime.py
	$(VENV)/bin/python benchmarks/evidence.py

# The figures of benchmarks/search.json: hours on two cores; what is there already is not made again.
bench-search: setup
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench]'
	$(VENV)/bin/python benchmarks/search.py
	$(VENV)/bin/python benchmarks/evidence.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
