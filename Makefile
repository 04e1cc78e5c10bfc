# make demo    train a full-attention and a MiTA segmentor side by side on generated images
# make test    the test suite, but for what test-long and bench-check run
# make test-quick      those of its tests that take no more than a second or two each
# make test-long       tests of further cases, which take long
# make bench-check     the tests that compare timings: is MiTA attention fast on the CPU?
# make lint    style, format and types
# make test-properties   1,000 drawn calls of the operator and the layers, against a definition in
#                      loops; make test draws 150
# make test-families   swapping and conversion with timm, torchvision and transformers, and those of
#                      MMSegmentation's tools that need more, in an environment inside .venv
# make test-upstream   what concerns MMSegmentation, with the upstream packages in place of the
#                      maintained ones, in an environment inside .venv; about 20 minutes
# make test-matrix     one environment after another: Python 3.10 to 3.13, the lowest and the newest
#                      torch, without Triton, without MMSegmentation; about an hour, gigabytes each
# make test-fuzz       changed checkpoints, images, label maps and annotations, for ten minutes
# make check-kernels   compile every Triton kernel for every GPU that is known; needs no GPU, and
#                      about 20 minutes on two cores
# make docs    build the documentation into site/, in an environment inside .venv
# make clean   remove everything the above made
#
# PYTHON selects the interpreter of the virtual environment: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PURELIB := -c "import sysconfig; print(sysconfig.get_path('purelib'))"
SHAPES := configs/mita_segmenter_shapes
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DELETE_ON_ERROR:
.PHONY: demo test test-quick test-long bench-check test-properties test-families test-upstream
.PHONY: test-matrix test-fuzz check-kernels lint docs clean

demo: $(VENV)/.runtime
	@echo 'Drawing 860 images:'
	$(BIN)/python tools/make_shapes_dataset.py data/shapes
	@echo 'Training a full-attention and a MiTA segmentor side by side:'
	$(BIN)/python tools/compare.py $(SHAPES)/*full*.py $(SHAPES)/*mita-encdec*.py \
	    --work-dir work_dirs/demo --jobs 2

# Two processes, and all tests of a file in one of them: files make what their tests share once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: $(VENV)/.test
	$(PYTEST) -m 'not speed and not long' $(PYTEST_ARGS)

test-quick: $(VENV)/.test
	$(PYTEST) -m 'not speed and not long and not slow' $(PYTEST_ARGS)

test-long: $(VENV)/.test
	$(PYTEST) -m long $(PYTEST_ARGS)

# In one process, so that no other test runs beside what is timed.
bench-check: $(VENV)/.test
	$(BIN)/python -m pytest -m speed $(PYTEST_ARGS)

test-properties: $(VENV)/.test
	MITA_SEG_PROPERTY_CASES=1000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS) \
	    tests/properties

# What is missing there is looked up in the normal environment. torchvision would pull in another
# build of torch.
FAMILIES := $(VENV)/families

test-families: $(FAMILIES)/.installed
	PYTHONPATH=$(CURDIR)/tests $(FAMILIES)/bin/python -m pytest -p support.torchvision_operators \
	    tests/swap tests/conversion/test_against_timm.py tests/test_stock_tools.py \
	    tests/test_examples.py::test_a_vit_of_timm_is_swapped_and_restored

$(FAMILIES)/.installed: $(VENV)/.test
	$(PYTHON) -m venv --clear $(FAMILIES)
	$(BIN)/python $(PURELIB) > "$$($(FAMILIES)/bin/python $(PURELIB))"/normal.pth
	$(FAMILIES)/bin/python -m pip install --quiet --constraint constraints.txt 'transformers>=4.57'
	$(FAMILIES)/bin/python -m pip install --quiet --no-deps 'timm>=0.9.16' torchvision \
	    'grad-cam<1.5' ttach
	$(FAMILIES)/bin/python -m pip install --quiet --constraint constraints.txt scikit-learn seaborn
	@touch $@

# All packages of the normal environment but those of the maintained family, with whose files the
# upstream family's would be mixed. mmcv-lite lacks the compiled module that mmseg imports.
UPSTREAM := $(VENV)/upstream

test-upstream: $(UPSTREAM)/.installed
	OMP_NUM_THREADS=1 $(UPSTREAM)/bin/python -m pytest -n 2 -m 'not speed' $(PYTEST_ARGS) \
	    tests/models tests/datasets tests/engine tests/checkpoint tests/conversion tests/tools \
	    tests/analysis tests/benchmarks tests/distributed tests/swap/test_mmseg.py \
	    $(wildcard tests/test_*.py)

$(UPSTREAM)/.installed: $(VENV)/.test tests/support/upstream_mmcv_ext.py
	$(PYTHON) -m venv --clear $(UPSTREAM)
	mkdir $(UPSTREAM)/normal
	ln -s "$$($(BIN)/python $(PURELIB))"/* $(UPSTREAM)/normal
	cd $(UPSTREAM)/normal && rm -r mmcv mmengine mmseg mim onedl_*
	echo "$(abspath $(UPSTREAM)/normal)" > "$$($(UPSTREAM)/bin/python $(PURELIB))"/normal.pth
	$(UPSTREAM)/bin/python -m pip install --quiet --no-deps \
	    mmcv-lite==2.1.0 mmengine==0.10.7 mmsegmentation==1.2.2
	cp tests/support/upstream_mmcv_ext.py "$$($(UPSTREAM)/bin/python $(PURELIB))"/mmcv/_ext.py
	@touch $@

# The environments of the matrix are inside .venv too; any Python 3.10 or newer runs the script.
test-matrix:
	$(PYTHON) .ci/test_matrix.py

MITA_SEG_FUZZ_SECONDS ?= 600

test-fuzz: $(VENV)/.test
	MITA_SEG_FUZZ_SECONDS=$(MITA_SEG_FUZZ_SECONDS) MITA_SEG_FUZZ_FOUND=work_dirs/fuzz \
	    OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s $(PYTEST_ARGS) tests/fuzz

check-kernels: $(VENV)/.test
	$(BIN)/python tools/check_kernels.py --json work_dirs/kernels.json

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The packages of the extra `docs` alone: the API pages are read from the source, without torch.
DOCS := $(VENV)/docs
IN_EXTRA := -c "import importlib.metadata as m; print(*(r.partition(';')[0] \
    for r in m.requires('mita_seg') if 'docs' in r.partition('extra')[2]), sep='\n')"

docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --site-dir site

$(DOCS)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --no-deps --editable .
	$(DOCS)/bin/python $(IN_EXTRA) > $(DOCS)/requirements.txt
	$(DOCS)/bin/python -m pip install --quiet --constraint constraints.txt \
	    --requirement $(DOCS)/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) data/shapes work_dirs/demo dist site .pytest_cache .mypy_cache .ruff_cache
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
