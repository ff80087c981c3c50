# make run    the trial: small models, vector engine and API on this machine
# make test   everything: lint, types, all tests (JOBS=3 at a time)
# make coverage  all tests once more, one after the other, and which lines none of them reaches
# make clients   LangChain and LlamaIndex, in an environment of their own, against a rag: model
# make chaos  ten minutes of load while backends fail at random (SEED=N repeats a run, SECONDS=N is another length)
# make monitoring  ten minutes of load that a real Prometheus watches: what each panel and rule shows (SECONDS as above)
# make bench  what it costs: throughput, latency and memory against bare programs that do the same, as a table (some minutes;
#             wants wrk and nginx). make bench-quick: the same, rougher, in 90 seconds
# make soak   half an hour of mixed load in which memory, tasks, sockets and files stay as they are (SECONDS=N, SEED=N)
# make audit  known vulnerabilities in what is locked, and patterns of our own (asks the network)
# make lock   etc/*.lock anew for setup.cfg: what is locked stays unless it must change (UPGRADE=1: the newest)
# make contract  ten minutes of requests made from /openapi.json, with the keys of three tenants (SEED and SECONDS as above)
# make systemd  the units on a systemd of their own: it starts, reloads, restarts, hangs (root; the README names packages)
# make unit   the tests that need no network and no model, in seconds
# make install    the server into PREFIX (/usr/local) and SYSCONFDIR (/etc), below DESTDIR: also an upgrade, edited configuration stays
#                 (OTLP=1: with what sends spans, and so will the upgrades be; OTLP=0: without again)
# make uninstall  takes it away again, without data and configuration

# The host's own Python where it will do, as `make install` takes it, else that of the PATH: a distribution builds its own
# so that it is faster than one that was built without further ado. An empty one is none: what follows it, which begins with
# a hyphen, would be a command whose failure make ignores.
ifeq ($(strip $(value PYTHON)),)
override PYTHON = $(shell for python in /usr/bin/python3 python3; do \
	"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; done; echo "$$python")
endif
VENV := .venv
BIN := $(VENV)/bin
MODEL ?=
PYTEST_ARGS ?=
JOBS ?= 3
SEED ?=
SECONDS ?= 600
UPGRADE ?=
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR ?=
OTLP ?=

.PHONY: run test tests coverage clients chaos monitoring contract bench bench-quick soak systemd unit lint types audit lock install uninstall clean

run: $(VENV)/.trial
	@exec $(BIN)/hartonomous trial --config etc/trial.yaml $(if $(MODEL),--model "$(MODEL)")

# Hundreds of processes share the cores: what fails beside them is asked once more, by itself, and fails if it fails again.
ALONE = { echo "What failed beside others is run by itself:" && \
	$(BIN)/python -m pytest -n 0 --last-failed --last-failed-no-failures none --maxfail 1 $(PYTEST_ARGS); }

# The tests often wait; the types are checked meanwhile.
test: lint
	@$(MAKE) --no-print-directory --jobs 2 types tests

tests: $(VENV)/.dev
	$(BIN)/hartonomous trial --fetch-only
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS) || $(ALONE)

coverage: $(VENV)/.dev
	$(BIN)/hartonomous trial --fetch-only
	$(BIN)/python -m pytest --cov --cov-report=term $(PYTEST_ARGS)

clients: $(VENV)/.dev $(VENV)-clients/.made
	HARTONOMOUS_TEST_CLIENTS=$(abspath $(VENV)-clients/bin/python) $(BIN)/python -m pytest tests/clients -q $(PYTEST_ARGS)

chaos: $(VENV)/.dev
	@$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

monitoring: $(VENV)/.dev
	@$(BIN)/python -m tests.monitoring --seconds $(SECONDS)

contract: $(VENV)/.dev
	@$(BIN)/python -m tests.contract --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

bench: $(VENV)/.dev
	@$(BIN)/python -m tests.bench

bench-quick: $(VENV)/.dev
	@$(BIN)/python -m tests.bench --quick

soak: $(VENV)/.dev
	@$(BIN)/python -m tests.soak $(if $(filter file,$(origin SECONDS)),,--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

systemd: $(VENV)/.dev
	HARTONOMOUS_TEST_MACHINE=$(abspath var/machine) $(BIN)/python -m pytest tests/systemd -q $(PYTEST_ARGS)

unit: $(VENV)/.dev
	$(BIN)/python -m pytest tests/unit tests/pipelines tests/layers -q $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check hartonomous tests etc/install etc/grafana
	$(BIN)/ruff format --check hartonomous tests etc/install etc/grafana

types: $(VENV)/.dev
	$(BIN)/mypy

audit: $(VENV)/.audit
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive hartonomous
	@$(BIN)/pip-audit --strict --progress-spinner off --disable-pip --require-hashes --requirement etc/requirements.lock \
		|| { echo "Not audited, or not well: the reason stands above (the index and its advisories must be reachable)."; exit 1; }

LOCK = $(BIN)/uv pip compile setup.cfg --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock'

# The server's packages alone have the versions that are tested.
lock: $(VENV)/.audit
	$(LOCK) --all-extras $(if $(UPGRADE),--upgrade) --output-file etc/requirements.lock
	$(LOCK) --extra uvloop --constraints etc/requirements.lock --upgrade --output-file etc/server.lock
	$(LOCK) --extra uvloop --extra otlp --constraints etc/requirements.lock --upgrade --output-file etc/otlp.lock
	@printf 'setuptools >=77\n' | $(subst setup.cfg,-,$(LOCK)) $(if $(UPGRADE),--upgrade) --output-file etc/build.lock

INSTALL = $(PYTHON) -B etc/install --destdir "$(DESTDIR)" --prefix "$(PREFIX)" --sysconfdir "$(SYSCONFDIR)"

# For the host's own Python; PYTHON=python3.12 is for that one.
install:
	@$(INSTALL) $(if $(filter command environment,$(origin PYTHON)),--python "$(PYTHON)") \
		$(if $(OTLP),--otlp "$(OTLP)") install

uninstall:
	@$(INSTALL) uninstall

# Installed anew only when what is installed changes. setuptools warns of what is meant: an editable installation.
$(VENV)/.trial $(VENV)/.dev $(VENV)/.audit: $(VENV)/.%: setup.cfg pyproject.toml | $(VENV)/.made
	@echo "Installing into $(VENV) (a few minutes the first time)…"
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --editable '.[$(EXTRAS.$*)]' \
		|| { echo "The packages could not be installed: pip's own words stand above."; exit 1; }
	@touch $@

EXTRAS.trial := trial,eval,uvloop
EXTRAS.dev := trial,eval,otlp,uvloop,dev
EXTRAS.audit := audit

# The pip that Python 3.11 comes with takes twice as long to choose the packages; it will do where there is no newer one.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed (make run PYTHON=python3.12)."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python cannot make environments: install the package python3-venv."; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --upgrade pip || :
	@touch $@

# They want other versions of what the tests use.
$(VENV)-clients/.made:
	@$(PYTHON) -m venv $(VENV)-clients
	@$(VENV)-clients/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: \
		'langchain-openai>=1,<2' 'llama-index-llms-openai-like>=0.5,<1'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-clients build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
