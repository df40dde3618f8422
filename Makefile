# All targets work on a fresh machine with Python 3.11 or later, git and make.

BIN := .venv/bin
INSTALLED := .venv/installed
PEERS := .venv/peers/installed
# Three files of tests at a time, also on two cores: they mostly wait for processes and for RabbitMQ.
PYTEST := $(BIN)/python -m pytest --numprocesses 3 --dist loadfile

AUDITOR := .venv/audit/installed

.PHONY: help demo test test-all test-rabbitmq4 check audit bench chaos matrix mutations fuzz mail screenshots clean

help:
	@echo 'make demo     run RabbitMQ, a coordinator and three LLMs on a few files, then print the report'
	@echo 'make test     run the tests except the slow ones; PYTEST_ARGS="-k lease -x" is passed to pytest'
	@echo 'make test-all   run all tests: every row of the crash matrix, clusters, more random examples'
	@echo 'make test-rabbitmq4   run the tests that use a broker on RabbitMQ 4 in a container'
	@echo 'make check    check lint, format, types, import contracts and the structure of the files'
	@echo 'make audit    report known vulnerabilities of the libraries, if an index that lists them can be reached'
	@echo 'make bench    run the benchmarks and print tables'
	@echo 'make chaos    run a storm of faults and check it from outside; CHAOS_ARGS="--tasks 100000 --faults 500" for a long one'
	@echo 'make matrix   run every row of the crash matrix ten times on each database'
	@echo 'make mutations   run a storm without each safety mechanism, which must find a violation'
	@echo 'make fuzz     send malformed messages by the million; FUZZ_ARGS="--decode 10000 --wire 1000" for a short run'
	@echo 'make mail     send 10,000 messages between 20 addresses while RabbitMQ is killed, and account for each'
	@echo 'make screenshots   take docs/screenshots again from the running program'
	@echo 'make clean    remove everything that these commands created here'

$(INSTALLED): pyproject.toml constraints.txt scripts/install
	@scripts/install
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/fluffle demo

test: $(INSTALLED)
	@$(BIN)/python scripts/test_tools.py
	@$(PYTEST) $(PYTEST_ARGS)

test-all: $(INSTALLED)
	@$(BIN)/python scripts/test_tools.py
	@FLUFFLE_TEST_ALL=1 $(PYTEST) $(PYTEST_ARGS)

# Tests of private nodes, and of their death, use private nodes here, too.
test-rabbitmq4: $(INSTALLED)
	@FLUFFLE_TEST_BROKER=rabbitmq4 $(PYTEST) tests/integration tests/acceptance $(PYTEST_ARGS)

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_structure.py

$(AUDITOR): | $(INSTALLED)
	@$(BIN)/python -m venv .venv/audit
	@.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3'
	@touch $@

audit: $(AUDITOR)
	@.venv/audit/bin/python scripts/audit.py

# The systems that the benchmarks compare with Fluffle.
$(PEERS): benchmarks/requirements.txt | $(INSTALLED)
	@$(BIN)/python -m venv .venv/peers
	@.venv/peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	@touch $@

bench: $(PEERS)
	@set -e; for program in benchmarks/[!_]*.py; do echo "== $$program"; $(BIN)/python "$$program"; done

chaos: $(INSTALLED)
	@$(BIN)/python -m tests.programs.storm $(CHAOS_ARGS)

matrix: $(INSTALLED)
	@$(BIN)/python -m tests.programs.storm.matrix $(MATRIX_ARGS)

mutations: $(INSTALLED)
	@$(BIN)/python -m tests.programs.storm.mutations $(MUTATIONS_ARGS)

fuzz: $(INSTALLED)
	@$(BIN)/python -m tests.programs.fuzz $(FUZZ_ARGS)

mail: $(INSTALLED)
	@$(BIN)/python -m tests.programs.chat_load $(MAIL_ARGS)

screenshots: $(INSTALLED)
	@$(BIN)/python scripts/screenshots.py

clean:
	rm -rf .venv dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis \
	    examples/node/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
