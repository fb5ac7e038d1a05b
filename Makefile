# `make` alone lists the targets; `make demo` and `make test` do everything on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
PY := $(BIN)/python
DEMO := work_dirs/demo
DETECTOR := configs/detection/rtmdet-tiny_mini.py

# as galr_mm/utils/start.py does for tools: idle threads leave the cores to others, unless the user says how they wait
ifeq ($(origin OMP_WAIT_POLICY), undefined)
export GOMP_SPINCOUNT ?= 10000
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo clean-demo test test-all test-no-extras test-lowest lint format wheel docs docker
.DELETE_ON_ERROR:
.NOTPARALLEL:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(PY):
	$(PYTHON) -m venv .venv

# another torch: make setup TORCH="torch==2.11.0 torchvision==0.26.0" [TORCH_INDEX=<index URL>]
setup: $(PY) ## an environment in .venv, pinned; about 10 minutes the first time
	@$(PY) dev/setup_env.py $(if $(TORCH),--torch "$(TORCH)") $(if $(TORCH_INDEX),--torch-index "$(TORCH_INDEX)")

# each step leaves a file and each training resumes, so an interrupted demo goes on where it stopped;
# after a change of a config, `make clean-demo` starts it again
demo: setup $(DEMO)/galr/trained $(DEMO)/index/bank.npz ## draw a data set, train a detector and GaLR, test raw and re-ranked, index its images
	@echo "== test on the held-out split, raw and re-ranked"
	$(PY) tools/test.py configs/galr_mini.py $$(cat $(DEMO)/galr/trained) --work-dir $(DEMO)/test \
		--show-dir $(DEMO) --out $(DEMO)/scores.npz --cfg-options rerank=mr
	@echo
	@echo "== the demo is done: recalls on 100 images and 500 captions, in percent"
	@sed -n '/^ *i2t.R@1 /,/^chance/p' $$(ls -t $(DEMO)/test/*/*.log | head -1)
	@echo
	@echo "captions with their best images:  $(DEMO)/mr_hits.png (re-ranked), $(DEMO)/raw_hits.png"
	@echo "scores of both directions:        $(DEMO)/scores.npz"
	@echo "the trained model:                $$(cat $(DEMO)/galr/trained)"
	@echo "next, search its images in a browser, at http://127.0.0.1:8000/ while this runs:"
	@echo "  $(PY) tools/archive.py serve $(DEMO)/index $(SEARCH)"
	@echo "or type one of:"
	@echo "  $(PY) tools/test.py configs/galr_mini.py $$(cat $(DEMO)/galr/trained) --cfg-options \"rerank=[mr,dsl,csls]\""
	@echo "  $(PY) tools/visualization/show_graph.py configs/galr_mini.py --out-dir $(DEMO)/graphs --split test --num 5"
	@echo "your own images and captions: README.md, 'Search your own images' and 'Train on your own data'"

data/mini/dataset_mini.json: | setup
	@echo "== draw the mini data set"
	$(PY) tools/dataset_converters/make_mini_dataset.py --out data/mini

$(DEMO)/detector/epoch_20.pth: data/mini/dataset_mini.json
	@echo "== train a small detector on its boxes (about 4 minutes)"
	$(PY) tools/train.py $(DETECTOR) --work-dir $(DEMO)/detector --resume

data/mini/proposals.json: $(DEMO)/detector/epoch_20.pth
	@echo "== extract proposals with it"
	$(PY) tools/extract_proposals.py $(DETECTOR) $< data/mini/dataset_mini.json --out $@ --overwrite

$(DEMO)/galr/trained: data/mini/proposals.json
	@echo "== train GaLR (about 4 minutes)"
	$(PY) tools/train.py configs/galr_mini.py --work-dir $(DEMO)/galr --resume
	@ls -t $(DEMO)/galr/best_mR_*.pth | head -1 > $@

# GaLR with the detector inside, so that hits have objects
SEARCH = --model $(DEMO)/search.py --checkpoint $$(cat $(DEMO)/galr/trained)
$(DEMO)/search.py: | $(DEMO)/galr/trained
	@printf '%s\n' "_base_ = '$(CURDIR)/configs/galr_mini.py'" "model = dict(local=dict(detector=dict(" \
		"    type='galr_mm.ProposalGenerator', checkpoint='$(DEMO)/detector/epoch_20.pth')))" > $@

$(DEMO)/index/bank.npz: $(DEMO)/galr/trained $(DEMO)/search.py
	@echo "== index its images for the page"
	rm -rf $(DEMO)/index
	$(PY) tools/archive.py index data/mini/images --index $(DEMO)/index $(SEARCH)
	$(PY) tools/archive.py bank $(DEMO)/index data/mini/dataset_mini.json $(SEARCH)

clean-demo: ## forget the demo, so that it starts again
	rm -rf $(DEMO) data/mini

# two workers, each with its own fixtures; a file stays with one
PYTEST = -m pytest --numprocesses $(or $(WORKERS),2) --dist loadfile

test: setup ## the tests but for the slow ones
	$(PY) $(PYTEST) -m "not slow" --durations 10

test-all: setup ## all tests
	$(PY) $(PYTEST) --durations 10

# the same in an environment that lacks what the extras bring; two rooms need torch and numpy alone, whatever is installed
test-no-extras: setup ## the tests, where nothing of the extras is installed
	$(PY) dev/no_extras_env.py .venv-no-extras
	.venv-no-extras/bin/python $(PYTEST) -m "not slow and not packaging and not distributed" \
		--ignore tests/test_functional --ignore tests/test_structures

lint: setup ## ruff, codespell and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

format: setup ## ruff's fixes and layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# strict: a broken link or a missing page is an error; it needs no network, nor does the site
docs: setup ## the docs site, offline, into site/
	NO_MKDOCS_2_WARNING=1 PYTHONWARNINGS=ignore $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

# The next two have environments of their own, filled by pip alone as a user would: mmcv without compiled ops.
# CPU_TORCH="--index-url https://download.pytorch.org/whl/cpu" saves 5 GB each.
define plain_venv
rm -rf $(1)
$(PYTHON) -m venv $(1)
$(if $(CPU_TORCH),$(1)/bin/python -m pip install $(2) $(CPU_TORCH) torch torchvision)
$(1)/bin/python -m pip install $(2) $(3)
endef

# the lower bounds of setup.cfg, each at its lowest
.venv-lowest/installed: setup.cfg dev/lowest_versions.py
	$(PYTHON) dev/lowest_versions.py > .lowest-versions.txt
	$(call plain_venv,.venv-lowest,-c .lowest-versions.txt,-e ".[test]")
	touch $@

test-lowest: .venv-lowest/installed ## the tests with the lowest versions of setup.cfg
	.venv-lowest/bin/python $(PYTEST) -m "not slow and not packaging and not distributed"

# build the wheel, install it into a clean environment, and start each of its console scripts away from the checkout
wheel: setup ## build, install and start the wheel
	rm -rf dist
	$(PY) -m build --wheel --no-isolation
	$(call plain_venv,.venv-wheel,-c constraints.txt,dist/*.whl)
	cd dist && ../.venv-wheel/bin/python ../dev/check_wheel.py

docker: ## the image of docker/Dockerfile
	docker build --file docker/Dockerfile --tag galr_mm .
