# make run, make test, make docs and make lab each install into .venv first, if it is absent.
PYTHON ?= python3
PIP_ARGS ?=  # such as --extra-index-url URL, for a build of torch without CUDA (pytorch.org names it)
BIN := .venv/bin
INSTALLED := .venv/.installed
TABLE := from golf.lab.arms import show_arms; from golf.lab.records import newest_record; \
	record = newest_record("ttt_reset"); \
	print(show_arms(record), record.folder, sep="\n\n")

ifeq ($(OMP_WAIT_POLICY)$(GOMP_SPINCOUNT),)  # of torch's threads; see nbs/lab/10_surface.ipynb
export OMP_WAIT_POLICY = passive
export GOMP_SPINCOUNT = 1000
endif

.PHONY: run bench export test docs lab readme venv clean

run: venv  ## the main experiment with its defaults, then its table
	$(BIN)/papermill nbs/ttt_reset.ipynb $(ARGS)
	@$(BIN)/python -c '$(TABLE)'

bench: venv  ## the benchmarks, then what got slower since the published record
	$(BIN)/papermill nbs/benchmarks.ipynb $(ARGS)
	@$(BIN)/python tools/bench.py

export: venv  ## golf/ from the notebooks, as plain classes
	$(BIN)/python tools/export.py

test: venv  ## the notebooks' cells and the tests, as many files at a time as there are cores
	$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

docs: venv  ## the site, in _docs/
	$(BIN)/python docs/notebooks.py
	$(BIN)/python -m sphinx -q -W --keep-going -E -c docs -d _proc/doctrees _proc/site _proc/html
	rm -rf _docs && mv _proc/html _docs
	@echo "open _docs/index.html"

lab: venv  ## JupyterLab in the notebooks
	$(BIN)/jupyter lab --notebook-dir nbs

readme: venv  ## README.md from nbs/index.ipynb
	$(BIN)/python docs/readme.py

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv: 2.4 GB, or about 7 GB where pip brings torch with CUDA (Linux's default)"
	@echo "a machine without a GPU needs no CUDA: stop here and give PIP_ARGS, as README says"
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev,docs]"
	@touch $@

clean:  ## what can be made again, .venv apart
	rm -rf _proc _docs .pytest_cache .ruff_cache .hypothesis
