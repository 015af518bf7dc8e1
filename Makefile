# make setup | build | demo | test | test-all | lint | sanitize | bench-ops | bench-engine | train-demo | clean
#
# Everything lives in .venv, which `make setup` fills; a second run sees that nothing changed and does nothing.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
export PYTHONSAFEPATH := 1
test test-all lint sanitize: export OMP_WAIT_POLICY := passive

LOCKED := mkdir -p build && $(if $(shell command -v flock),flock build/.lock,)

# stamps are named after a checksum of what they were made from; a compiler that appears counts as a change
DEPENDENCIES := $(shell cat pyproject.toml constraints.txt | cksum | tr ' ' -)
SOURCES := setup.py CMakeLists.txt $(sort $(shell find csrc -type f -not -path 'csrc/tests/*'))
NATIVE := $(shell { cat $(SOURCES); echo $(SOURCES); command -v c++ g++ clang++ nvcc; env | grep -E "^ILLUME_FAST_(CUDA|WERROR|REQUIRE)"; } | cksum | tr ' ' -)

.PHONY: setup build demo test test-all lint sanitize bench-ops bench-engine train-demo clean

setup: .venv/.installed-$(DEPENDENCIES)-$(NATIVE)

.venv/.created:
	@python="$(PYTHON)"; test -n "$$python" || \
	  { echo "make: illume_fast needs Python 3.11 or newer (make PYTHON=/path/to/python)"; exit 1; }; \
	echo "setup: creating .venv with $$python"; \
	test -x $(BIN)/python || $$python -m venv .venv
	@touch $@

.venv/.dependencies-$(DEPENDENCIES): .venv/.created
	@echo "setup: installing torch and the build tools (versions in constraints.txt)"
	@$(BIN)/pip install -q -c constraints.txt torch setuptools cmake ninja pybind11
	@rm -f .venv/.dependencies-* && touch $@

.venv/.installed-$(DEPENDENCIES)-$(NATIVE): .venv/.dependencies-$(DEPENDENCIES)
	@echo "setup: building the kernels, and installing illume_fast with what it, its tests and its linters need"
	@$(LOCKED) $(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[train,test,lint]'
	@rm -f .venv/.installed-* && touch $@
	@$(BIN)/illume-fast info

# for work on csrc: rebuilds what changed, and fails where `make setup` would go on without kernels
build: .venv/.dependencies-$(DEPENDENCIES)
	@$(LOCKED) env ILLUME_FAST_REQUIRE_NATIVE=1 $(BIN)/python setup.py -q build_ext --inplace

demo: setup
	$(BIN)/illume-fast generate examples/prompts.txt --model demo --out demo_out
	@echo "The pictures are in demo_out/images, all on one sheet in demo_out/contact_sheet.png."

test: setup
	$(BIN)/pytest -q

test-all: setup
	$(BIN)/pytest -q -m 'slow or not slow'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# measure on this machine, which should have nothing else to do, and draw the page of results and README.md's tables anew;
# docs/benchmarks.md says how long it takes, and what the variables are for
RESULTS ?= bench/results/cpu
TABLES ?= README.md
MEASURED := build/bench
bench-ops: setup
	$(BIN)/pip install -q -c constraints.txt faiss-cpu
	@mkdir -p $(MEASURED) && rm -f $(MEASURED)/ops.jsonl
	$(BIN)/illume-fast bench $(if $(OPS),--op $(OPS)) $(OPTIONS) --json $(MEASURED)/ops.jsonl
	$(if $(OPS),,$(BIN)/illume-fast bench --curves $(OPTIONS) --json $(MEASURED)/ops.jsonl)
	cat $(MEASURED)/ops.jsonl >>$(RESULTS)/ops.jsonl
	$(BIN)/illume-fast bench report $(RESULTS)/*.jsonl --out $(RESULTS) --tables $(TABLES)

bench-engine: setup
	@mkdir -p $(MEASURED) && rm -f $(MEASURED)/engine.jsonl
	$(BIN)/illume-fast bench engine --seconds 10 $(OPTIONS) --json $(MEASURED)/engine.jsonl
	$(BIN)/illume-fast bench engine --curves --seconds 3 $(OPTIONS) --json $(MEASURED)/engine.jsonl
	cp $(MEASURED)/engine.jsonl $(RESULTS)/engine.jsonl
	$(BIN)/illume-fast bench report $(RESULTS)/*.jsonl --out $(RESULTS) --tables $(TABLES)

# the stages of docs/training.md one after the other; started again, it goes on where it stopped
DATA ?= ../shared/data/noto_emoji
RUN ?= runs/demo
# glibc's malloc in huge pages, and freed memory kept: training steps take a fifth less time
train-demo: export GLIBC_TUNABLES := glibc.malloc.hugetlb=1
train-demo: export MALLOC_MMAP_MAX_ := 0
train-demo: export MALLOC_TRIM_THRESHOLD_ := 8000000000
train-demo: export MALLOC_TOP_PAD_ := 268435456
train-demo: setup
	$(BIN)/illume-fast train prepare --data $(DATA) --out $(RUN)/prepared
	$(BIN)/illume-fast train semantic --data $(DATA) --prepared $(RUN)/prepared --out $(RUN)/semantic
	$(BIN)/illume-fast train tokenizer --data $(DATA) --prepared $(RUN)/prepared --semantic $(RUN)/semantic \
	  --out $(RUN)/tokenizer
	$(BIN)/illume-fast train mllm --data $(DATA) --prepared $(RUN)/prepared --semantic $(RUN)/semantic \
	  --tokenizer $(RUN)/tokenizer --out $(RUN)/mllm
	$(BIN)/illume-fast evaluate emoji --data $(DATA) --split val_combo --model $(RUN)/mllm/checkpoint \
	  --guidance 1 1.5 2 3 4 5 --json $(RUN)/sweep.json

# the C++ tests of the CPU kernels under the address and undefined-behaviour sanitizers
sanitize: .venv/.dependencies-$(DEPENDENCIES)
	@mkdir -p build
	@$(BIN)/cmake -S . -B build/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DILLUME_FAST_TESTS=ON -DILLUME_FAST_SANITIZE=ON >build/sanitize.log \
	  || { cat build/sanitize.log; exit 1; }
	@$(BIN)/cmake --build build/sanitize
	@$(BIN)/ctest --test-dir build/sanitize --output-on-failure --no-tests=error

clean:
	rm -rf build dist demo_out *.egg-info kernels/_C*.so kernels/_build_report.json .venv/.installed-*
