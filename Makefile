# make demo    the main job: export the shipped networks, serve them, analyse faces over gRPC and REST
# make console the shipped networks, a gateway and its web console; prints the address, Ctrl-C ends it
# make demo-rollout   a new version out and back on three servers, under load, while one dies
# make test    the tests            make lint    ruff, mypy, import-linter, codespell and the rules of style
# make fuzz SECONDS_EACH=600   invalid input for every parser that strangers reach, and malformed requests on every port
# make docs    the documentation site, in site/
# make test-slow     the tests that take longest; CI runs them too
# make test test-slow COVERAGE=1   both, and fail if they run fewer lines than the floor in pyproject.toml
# make test-docker   the whole deployment on a Docker engine (.ci/docker-engine starts one)
# make train   both networks, from the Kaggle files named below
# make distil  three larger networks of each model, and pupils of the shipped shapes; on JAX, days without a GPU
# make soak    a month of trouble in an hour, on hosts of its own; MINUTES=60; needs root on Linux
# make leaks   what grows while versions are swapped a thousand times; SWAPS=1000
# make test-soak   short versions of both, as tests
# make bench   how fast networks, server, client and gateway are, with their targets; close everything else first
# make scaling what a face costs, measured, and the tables and pictures of docs/explanation/scaling.md; close everything else first
# make secrets audit sbom   nothing secret in the repository; known vulnerabilities; bills of materials in dist/
# make images  the images of deploy/docker in dist/, the same to the byte each time (needs buildah)
# make lock    recompile requirements.lock, the images' deploy/docker/*.lock and the scanner's (needs uv)
# make clean   remove what make has made, trained runs excepted

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SCANNER := $(VENV)/scanner/.installed
PUBLISHED := models/.pretrained

# TensorFlow 2.20 runs on Python 3.11 to 3.13 here; the first of these that is one is taken.
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,$(shell \
	$(python) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $(python))))

MIEN_DATA ?= data
EMOTION_DATA ?= $(MIEN_DATA)/fer2013/fer2013.csv.gz
VOTES ?= $(wildcard $(MIEN_DATA)/fer2013/fer2013new.csv)
EMOTION_FILES = --data $(EMOTION_DATA) $(if $(VOTES),--votes $(VOTES))
KEYPOINTS_DATA ?= $(MIEN_DATA)/facial_keypoints/training.csv.gz
PEOPLE ?= $(wildcard $(MIEN_DATA)/facial_keypoints/people.csv)

.PHONY: demo console demo-rollout test test-slow test-docker fuzz lint docs train distil bench scaling soak leaks test-soak secrets audit sbom images lock clean

demo: $(PUBLISHED)
	$(BIN)/python examples/demo.py

console: $(PUBLISHED)
	@$(BIN)/python examples/console.py

demo-rollout: $(PUBLISHED)
	$(BIN)/python examples/demo_rollout.py

test: $(INSTALLED) $(SCANNER)
	$(BIN)/pytest -n auto --dist loadfile --max-worker-restart 0 --no-loadscope-reorder -m "not docker and not soak and not slow" $(if $(COVERAGE),--cov --cov-fail-under=0)

test-slow: $(INSTALLED)
	$(BIN)/pytest -n auto --dist loadfile --max-worker-restart 0 -m "slow and not docker and not soak" $(if $(COVERAGE),--cov --cov-append)

test-docker: $(INSTALLED)
	$(BIN)/pytest -m docker -v tests/test_docker.py tests/test_docker_pod.py tests/test_docker_build.py

SECONDS_EACH ?= 60
fuzz: $(PUBLISHED)
	$(BIN)/python -m fuzz --seconds $(SECONDS_EACH)

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	git ls-files -z | xargs -0 $(BIN)/codespell
	$(BIN)/python .ci/prose.py

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

train: $(INSTALLED)
	$(BIN)/mien train emotion $(EMOTION_FILES) --out runs/emotion
	$(BIN)/mien train keypoints --data $(KEYPOINTS_DATA) $(if $(PEOPLE),--groups $(PEOPLE)) --out runs/keypoints

distil: $(INSTALLED)
	mkdir -p runs
	$(BIN)/python -m mien_training.jax_backend.distil prepare --emotion $(EMOTION_DATA) --votes $(VOTES) \
		--keypoints $(KEYPOINTS_DATA) --people $(PEOPLE) --faces runs/faces.npz
	$(BIN)/python -m mien_training.jax_backend.distil train --faces runs/faces.npz --out runs

bench: $(PUBLISHED)
	@status=0; for part in networks client_size client_alone client_speed serving traffic_split gateway; do \
		echo "benchmarks/$$part.py"; $(BIN)/python -m benchmarks.$$part || status=1; echo; \
	done; exit $$status

soak: $(INSTALLED)
	$(BIN)/python -m soak --minutes $(or $(MINUTES),60)

leaks: $(INSTALLED)
	$(BIN)/python -m soak.leaks --swaps $(or $(SWAPS),1000)

test-soak: $(INSTALLED)
	$(BIN)/pytest -m soak -v tests/test_soak.py

scaling: $(PUBLISHED)
	$(BIN)/python -m benchmarks.scaling

# What looks like a secret and is none: checksums, and what tests show to servers of their own.
NO_SECRETS := "(groups_|votes_)?sha256"|(user|somebody):secret@|that-nobody-sees|nothing secret|"-----BEGIN PRIVATE KEY-----",|1234abc5678
secrets: $(INSTALLED)
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --exclude-files 'requirements\.lock$$' --exclude-lines '$(NO_SECRETS)'

audit: $(INSTALLED)
	$(BIN)/python .ci/audit.py

sbom: $(INSTALLED)
	$(BIN)/python .ci/sbom.py dist

images:
	.ci/images dist

lock:
	uv pip compile -q pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		--no-emit-package mien-client --no-emit-package mien-gateway --no-emit-package mien-serving --no-emit-package mien-training \
		-o requirements.lock
	uv pip compile -q serving/pyproject.toml --extra s3 --extra signing deploy/docker/requirements.in --override deploy/docker/requirements.in \
		-c requirements.lock --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		--no-emit-package mien-client -o deploy/docker/requirements.lock
	uv pip compile -q gateway/pyproject.toml deploy/docker/gateway.in --override deploy/docker/gateway.in \
		-c requirements.lock --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		--no-emit-package mien-client -o deploy/docker/gateway.lock
	uv pip compile -q tests/scanner.in --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" -o tests/scanner.lock

clean:
	rm -rf $(VENV) models demo site soak-report leaks-report .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis

# uv, itself installed from the lock, installs the rest several times as fast as pip, which does it where uv cannot. Byte code
# is compiled now, as pip does, or every process would do it where PYTHONDONTWRITEBYTECODE is set.
DISTRIBUTIONS := -e client -e gateway -e serving -e training
$(INSTALLED): requirements.lock client/pyproject.toml gateway/pyproject.toml serving/pyproject.toml training/pyproject.toml client/src/mien_client/_version.py
	@test -n "$(PYTHON)" || { echo "Mien needs Python 3.11, 3.12 or 3.13; none was found. Install one, or name it: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@install_all() { "$$@" --require-hashes -r requirements.lock && "$$@" --no-deps --no-build-isolation $(DISTRIBUTIONS); }; \
	pip="$(BIN)/pip install --quiet --disable-pip-version-check"; \
	sed -n '/^uv==/,/# via/p' requirements.lock > $(VENV)/uv.lock; \
	{ $$pip --only-binary :all: --require-hashes -r $(VENV)/uv.lock && install_all $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python; } || \
	{ echo "uv did not install the packages; pip does." >&2; install_all $$pip; }
	touch $@

# The scanner of the tests needs other versions of some packages.
$(SCANNER): tests/scanner.lock | $(INSTALLED)
	$(BIN)/python -m venv $(VENV)/scanner
	$(VENV)/scanner/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

# A version is never changed once published, so newer weights become the next version.
$(PUBLISHED): $(wildcard training/src/mien_training/pretrained/*/*) | $(INSTALLED)
	$(BIN)/mien export --pretrained --repository models
	touch $@
