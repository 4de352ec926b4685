# The everyday commands, in front of CMake. Each first sees to it that what it
# needs is on the machine (tools/setup); everything made goes to build/.
#
#   make demo [DIR=/usr/share]      read all files there through mappings that
#                                   are shared, and unmapped by themselves; 25 s
#   make test                       build and test: release and check
#   make test-all                   ... and paranoid and the three sanitizers
#   make bench [ARGS=...]           measure beside the peers that are present
#   make check                      format, tidy, layers, headers, docs, ...
#   make install [PREFIX=/usr/local] [DESTDIR=]
#   make clean

DIR = /usr/share
PREFIX = /usr/local
DESTDIR =
ARGS =
MAKEFLAGS += --no-print-directory
export JOBS ?= $(shell nproc 2>/dev/null || echo 1)

# ninja if it is there, else make; a build directory keeps what it began with.
ifneq ($(shell command -v ninja 2>/dev/null),)
export CMAKE_GENERATOR ?= Ninja
endif

all: release

release:
	@tools/setup build
	cmake --preset release >/dev/null
	cmake --build --preset release -j $(JOBS)

demo:
	@tools/setup build
	@cmake --preset release >/dev/null
	@cmake --build --preset release -j $(JOBS) --target filecache
	build/release/examples/filecache $(DIR)

test:
	@tools/setup test
	@tools/run-tests release check

test-all:
	@tools/setup sanitize
	@tools/run-tests release check paranoid asan ubsan tsan

bench:
	@tools/setup bench
	@cmake --preset release >/dev/null
	@cmake --build --preset release -j $(JOBS) --target bench_programs
	bench/run $(ARGS)

check:
	@tools/setup check
	@tools/check

install:
	@tools/setup build
	cmake -S . -B build/install -DCMAKE_INSTALL_PREFIX="$(PREFIX)" \
	  -DWANE_TESTS=OFF -DWANE_BENCH=OFF -DWANE_EXAMPLES=OFF >/dev/null
	cmake --build build/install -j $(JOBS)
	DESTDIR="$(DESTDIR)" cmake --install build/install

clean:
	rm -rf build

.PHONY: all release demo test test-all bench check install clean
