# Everything a fresh Debian 12 or 13 machine needs is installed by these targets: python3, apt and
# make are enough to begin with. `make help` lists them.

VENV ?= .venv
CORE_VENV = $(VENV)-core
PYTHON ?= python3
PIP = $(VENV)/bin/pip --disable-pip-version-check -q
PLUGINS = $(sort $(wildcard plugins/*/pyproject.toml))
SOURCES = core/src $(sort $(wildcard plugins/*/src))

RUN_PACKAGES = python3-venv libnftables1 libseccomp2 nftables iproute2 procps busybox-static
TEST_PACKAGES = $(RUN_PACKAGES) iptables iputils-ping runc netcat-openbsd e2fsprogs xfsprogs util-linux git curl docker-registry skopeo rsyslog

# Where it is set every start of a command or daemon would compile its modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test test-core test-e2e test-rest lint test-faults test-vm bench clean

help:
	@echo "make install   $(VENV)/bin/pyengine with core and all plugins, editable"
	@echo "make demo      start an engine, run a container, look at it, clean up"
	@echo "make test      linters, types and tests (root; under 15 minutes)"
	@echo "make test-core core's own tests, where core alone is installed"
	@echo "make test-faults kill -9 at every step of what changes anything (root)"
	@echo "make test-vm   tests that need another kernel, in a virtual machine"
	@echo "make bench     side by side with a real dockerd"

install: $(VENV)/.installed

$(VENV)/.installed: core/pyproject.toml $(PLUGINS) pyproject.toml tools/requirements-dev.txt
	@tools/system-packages $(RUN_PACKAGES)
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing pyengine into $(VENV)"
	@$(PIP) install -r tools/requirements-dev.txt
	@$(PIP) install -e core $(patsubst %/pyproject.toml,-e %,$(PLUGINS))
	@touch $@

demo: install
	@$(VENV)/bin/python tools/demo.py

lint: install
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy $(SOURCES)
	@$(VENV)/bin/lint-imports --no-cache

# Two at a time: from end to end in one lane, everything else in the other.
test: install
	@tools/system-packages $(TEST_PACKAGES)
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-e2e lint test-core test-rest

test-e2e: install
	@$(VENV)/bin/python -m pytest -q -o cache_dir=.pytest_cache/e2e tests/e2e

test-rest: install
	@$(VENV)/bin/python -m pytest -q -m "not vm and not faults" -o cache_dir=.pytest_cache/rest \
		--ignore tests/e2e plugins bench tests

# Core's own tests, where core alone is installed, as a wheel.
test-core:
	@tools/system-packages $(TEST_PACKAGES)
	@test -x $(CORE_VENV)/bin/python || $(PYTHON) -m venv $(CORE_VENV)
	@echo "installing core alone into $(CORE_VENV)"
	@$(CORE_VENV)/bin/pip --disable-pip-version-check -q install ./core \
		"pytest>=8" "pytest-asyncio>=0.24" "pytest-timeout>=2.3" "trustme>=1"
	@$(CORE_VENV)/bin/python -m pytest -q -o cache_dir=.pytest_cache/core core/tests

test-faults: install
	@tools/system-packages $(TEST_PACKAGES)
	@$(VENV)/bin/python -m pytest -q -m faults tests/faults

test-vm: install
	@tools/system-packages $(TEST_PACKAGES) $(shell cat tests/vm/requirements.apt)
	@$(VENV)/bin/python -m pytest -q -m vm tests/vm

bench: install
	@tools/system-packages $(TEST_PACKAGES) mmdebstrap
	@$(VENV)/bin/python -m bench

clean:
	rm -rf $(VENV) $(CORE_VENV) dist build .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
