# Everything a newcomer needs:  make bench  (the main job, start to report)   make test   make lint
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= results/demo
# Without a GPU the CPU build of torch is wanted: the plain wheel brings gigabytes of CUDA.  README.md, "Install".
TORCH  ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo torch || echo torch==2.13.0)
BIN    := $(VENV)/bin

.PHONY: bench test test-slow lint types format install system clean

bench: install
	$(BIN)/wristbench demo --out $(OUT)

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# Minutes more: chains regenerated from their rules, every expert, runs killed at random, a policy that learns a task.
test-slow: install
	$(BIN)/python -m pytest -m slow --timeout 1800

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: system $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "wristworld-bench needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=python3.11 …" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

# Mesa's EGL draws the pictures; without it PyBullet's slower TinyRenderer does.
system:
	@if ldconfig -p 2>/dev/null | grep -q libEGL.so.1 && \
	    { ls /usr/lib/*/dri/*swrast* /usr/lib/dri/*swrast* /usr/lib/*/libgallium* 2>/dev/null | grep -q . || \
	      command -v nvidia-smi >/dev/null 2>&1; }; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  echo "installing Mesa's EGL (libegl1 libgl1-mesa-dri libegl-mesa0)"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libegl1 libgl1-mesa-dri libegl-mesa0; } \
	    >/dev/null 2>&1 || echo "could not install libegl1 libgl1-mesa-dri libegl-mesa0: going on with PyBullet's TinyRenderer (slower)" >&2; \
	else \
	  echo "EGL is missing (Debian: libegl1 libgl1-mesa-dri libegl-mesa0): going on with PyBullet's TinyRenderer (slower)" >&2; \
	fi

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
