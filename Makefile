# make setup | build | demo | test | test-all | lint | sanitize | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONSAFEPATH := 1

# what a build depends on; .venv/.stamp-* hold checksums of these, so that a second `make setup` has nothing to do
BUILD_INPUTS = setup.py pyproject.toml CMakeLists.txt $(shell find csrc -type f | sort)
LOCKED = mkdir -p build && flock build/.lock

.PHONY: setup build demo test test-all lint sanitize clean

build:
	@$(LOCKED) env ILLUME_FAST_REQUIRE_NATIVE=1 $(BIN)/python setup.py -q build_ext --inplace

clean:
	rm -rf build dist *.egg-info kernels/_C*.so kernels/_build_report.json

# the C++ tests of the CPU kernels under the address and undefined-behaviour sanitizers
sanitize:
	@mkdir -p build && flock build/.sanitize.lock sh -ec '\
	  $(BIN)/cmake -S . -B build/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	    -DCMAKE_BUILD_TYPE=RelWithDebInfo -DILLUME_FAST_TESTS=ON -DILLUME_FAST_SANITIZE=ON >build/sanitize.log \
	    || { cat build/sanitize.log; exit 1; }; \
	  $(BIN)/cmake --build build/sanitize; \
	  $(BIN)/ctest --test-dir build/sanitize --output-on-failure --no-tests=error'
