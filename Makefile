# make demo    train a full-attention and a MiTA segmentor side by side on generated images
# make test    the whole test suite
# make lint    style and format
# make test-families   swapping and conversion with timm, torchvision and transformers, in an
#                      environment of their own inside .venv
# make check-kernels   compile every Triton kernel for every GPU that is known; needs no GPU, and
#                      about 20 minutes on two cores
# make clean   remove everything the above made
#
# PYTHON selects the interpreter of the virtual environment: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHAPES := configs/mita_segmenter_shapes
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DELETE_ON_ERROR:
.PHONY: demo test test-families check-kernels lint clean

demo: $(VENV)/.runtime
	@echo 'Drawing 860 images:'
	$(BIN)/python tools/make_shapes_dataset.py data/shapes
	@echo 'Training a full-attention and a MiTA segmentor side by side:'
	$(BIN)/python tools/compare.py $(SHAPES)/*full*.py $(SHAPES)/*mita-encdec*.py \
	    --work-dir work_dirs/demo --jobs 2

test: $(VENV)/.test
	@failed=; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not speed' $(PYTEST_ARGS) || failed=' tests'; \
	echo 'timings, with the cores to themselves:'; \
	$(BIN)/python -m pytest -m speed || failed="$$failed timings"; \
	echo "make test: failed:$${failed:- nothing}"; \
	test -z "$$failed"

# What is missing there is looked up in the normal environment. torchvision would pull in another
# build of torch.
FAMILIES := $(VENV)/families

test-families: $(FAMILIES)/.installed
	PYTHONPATH=tests/swap $(FAMILIES)/bin/python -m pytest -p torchvision_operators \
	    tests/swap tests/conversion/test_against_timm.py

$(FAMILIES)/.installed: $(VENV)/.test
	$(PYTHON) -m venv --clear $(FAMILIES)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	    > $$($(FAMILIES)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/normal.pth
	$(FAMILIES)/bin/python -m pip install --quiet --constraint constraints.txt 'transformers>=4.57'
	$(FAMILIES)/bin/python -m pip install --quiet --no-deps 'timm>=0.9.16' torchvision
	@touch $@

check-kernels: $(VENV)/.test
	$(BIN)/python tools/check_kernels.py --json work_dirs/kernels.json

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) data/shapes work_dirs/demo dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are touched last: an interrupted installation starts again. They are older than the
# files below after a change of the dependencies, and then the environment is made anew.
$(VENV)/.runtime: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	    echo '$(PYTHON) is missing: install Python 3.10 to 3.13, or name one with PYTHON=...' >&2; \
	    exit 1; }
	@$(PYTHON) .ci/check_machine.py
	@echo 'Installing PyTorch, MMSegmentation and what they need into $(VENV), once; PyTorch alone may' \
	    'be gigabytes:'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[mmseg]'
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	@echo 'Installing what the tests need:'
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[test]'
	@touch $@
