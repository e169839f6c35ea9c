# make        builds build/edgewise (installs missing packages first)
# make run    the four stages on the embedded model, and its answer
# make test   the whole test suite
# make fuzz   every fuzz target for FUZZ_SECONDS each
# make asan   the tests under AddressSanitizer and UBSan; make tsan: under ThreadSanitizer
# make format clang-format over the tree
BUILD ?= build
MODEL ?= models/edge-tiny-16m
PROMPT ?= What is machine learning in one sentence?
JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 60

.PHONY: all run test asan tsan fuzz format clean deps

all: deps
	@cmake -S . -B $(BUILD) -G Ninja -DEDGEWISE_TESTS=OFF >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 2; }; rm -f $(BUILD).log
	@ninja -C $(BUILD) -j $(JOBS) edgewise

deps:
	@tools/install_deps.sh

run:
	@MAKE="$(MAKE)" tools/run_pipeline.sh "$(BUILD)" "$(MODEL)" "$(PROMPT)"

test: deps
	@tools/run_tests.sh $(JOBS)

asan tsan: deps
	@cmake --preset $@ >/dev/null && cmake --build --preset $@ -j $(JOBS) && ctest --preset $@

fuzz:
	@tools/install_deps.sh fuzz
	@tools/run_fuzz.sh $(FUZZ_SECONDS) $(JOBS)

format:
	@git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs clang-format -i

clean:
	rm -rf build build-* out
