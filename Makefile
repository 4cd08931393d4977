# An active virtualenv or conda environment is used as it is; conda's base is left alone, and .venv made instead.
ifneq ($(VIRTUAL_ENV),)
ENV := $(VIRTUAL_ENV)
else ifneq ($(and $(CONDA_PREFIX),$(filter-out base,$(CONDA_DEFAULT_ENV))),)
ENV := $(CONDA_PREFIX)
else
ENV := .venv
endif
PYTHON := "$(ENV)/bin/python"
# Lies inside the environment and names what was installed from where: new pins or a moved checkout install again.
STAMP := $(ENV)/.mimicry-$(shell { cat requirements.txt pyproject.toml; echo "$(CURDIR)"; } | cksum | tr ' ' '-')
IS_RECENT := -c 'import sys; sys.exit(sys.version_info < (3, 11))'

.DEFAULT_GOAL := help
.PHONY: help demo dashboard test lint clean-env setup

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: setup  ## convert a small pretrained classifier to Hedgehog attention, start to finish
	$(PYTHON) run.py regime=finetuned attn=hedgehog

dashboard: setup  ## collate results/ and write results/dashboard.html
	$(PYTHON) -m mimicry.reporting --dashboard > /dev/null

test: setup  ## the default test suite
	$(PYTHON) -m pytest

lint: setup  ## style, types and layer rules
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	"$(ENV)/bin/lint-imports"

clean-env:  ## delete .venv (never an environment of yours)
	rm -rf .venv

setup:
	@if [ -f "$(STAMP)" ]; then exit 0; fi; found=; \
	if [ "$(ENV)" = .venv ] && [ ! -x .venv/bin/python ]; then \
		for candidate in python3.11 python3; do \
			if $$candidate $(IS_RECENT) 2>/dev/null; then found=$$candidate; break; fi; \
		done; \
		if [ -z "$$found" ]; then echo "mimicry needs Python 3.11 or newer, found neither python3.11 nor a recent python3" >&2; exit 1; fi; \
		echo "==> Creating .venv with $$found"; \
		$$found -m venv .venv || { rm -rf .venv; exit 1; }; \
	fi; \
	if ! $(PYTHON) $(IS_RECENT) 2>/dev/null; then echo "mimicry needs Python 3.11 or newer in $(ENV)" >&2; exit 1; fi; \
	echo "==> Installing the pinned dependencies into $(ENV) (once; later runs skip this)"; \
	rm -f "$(ENV)"/.mimicry-*; \
	$(PYTHON) -m pip install -r requirements.txt -e . && touch "$(STAMP)"
