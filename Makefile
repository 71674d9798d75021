# haste: plain make and cc; everything that is built lies in build/. `make help` lists the targets.
#
# Variables: CC, CXX, NVCC, CFLAGS, CXXFLAGS, CPPFLAGS, LDFLAGS, GPU_ARCH (sm_90, ...), PREFIX, DESTDIR, BUILD,
#   werror=1   warnings are errors          openmp=0, zlib=0   do without, though they are there
#   GPU_ARCH   one or more, "sm_80 sm_90a"; without it: that of the GPU found here, else sm_90a
#   only=NAMES make units: only tests whose name contains one of the words
#   JOBS=N     so many tests at a time (default 1)
#   PYTHON     that of make test-python: one with numpy, and torch where that is to be tested
#   RUN=...    put before every program that is run, such as "qemu-aarch64 -L /usr/aarch64-linux-gnu"

BUILD    ?= build
JOBS     ?= 1
PREFIX   ?= /usr/local
LIBDIR   ?= $(PREFIX)/lib
CFLAGS   ?= -O3 -fno-math-errno
CXXFLAGS ?= $(CFLAGS)
PYTHON   ?= python3
NVCC     ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc) nvcc)

WARN     := -Wall -Wextra -Wpedantic -Wconversion -Wshadow $(if $(filter 1,$(werror)),-Werror)
HEADERS  := $(wildcard haste.h haste_cuda.cuh)
VERSION  := $(shell awk '/define HASTE_VERSION_(MAJOR|MINOR|PATCH)/ { v = v s $$3; s = "." } END { print v }' haste.h 2>/dev/null)

# ---- what this machine has -----------------------------------------------------------------------------------------

# $(call probe,FLAGS): yes, where an empty program can be built with them
probe = $(shell mkdir -p $(BUILD); p=$(BUILD)/probe.$$$$; echo 'int main(void) { return 0; }' | \
          $(CC) $(CFLAGS) -x c - $(1) -o $$p >/dev/null 2>&1 && echo yes; rm -f $$p $$p.d)

ifneq ($(filter-out help clean install uninstall,$(or $(MAKECMDGOALS),all)),)
    ifneq ($(openmp),0)
        OPENMP := $(if $(call probe,-fopenmp -include omp.h),-fopenmp)
    endif
    PTHREAD := $(if $(call probe,-pthread),-pthread)
    ifneq ($(zlib),0)
        ZLIB := $(if $(call probe,-include zlib.h -lz),yes)
    endif
    HAVE_NVCC := $(shell command -v $(NVCC) 2>/dev/null)
endif
ifneq ($(filter bench,$(MAKECMDGOALS)),)
    BLAS   := $(if $(call probe,-include cblas.h -lopenblas),yes)
    DNNL   := $(if $(call probe,-include dnnl.h -ldnnl),yes)
    NATIVE := $(if $(call probe,-march=native),-march=native)
endif
ifneq ($(filter bench-cuda %/haste-bench-cuda,$(MAKECMDGOALS)),)
    # $(call nvcc_probe,HEADER,LIBRARY): yes, where nvcc finds both
    nvcc_probe = $(if $(HAVE_NVCC),$(shell mkdir -p $(BUILD); p=$(BUILD)/probe_$(2).$$$$; \
                   echo 'int main(void) { return 0; }' > $$p.cu; \
                   $(NVCC) -include $(1) $$p.cu -o $$p -l$(2) >/dev/null 2>&1 && echo yes; rm -f $$p $$p.cu))
    CUBLAS     := $(call nvcc_probe,cublas_v2.h,cublas)
    CUSPARSE   := $(call nvcc_probe,cusparse.h,cusparse)
endif

FLAGS     = -std=c99 $(WARN) $(CFLAGS) $(CPPFLAGS) $(OPENMP)
CXX_FLAGS = -std=c++17 $(WARN) $(CXXFLAGS) $(CPPFLAGS) $(OPENMP)
FOUND     = haste $(VERSION): $(CC)$(if $(OPENMP),, [no OpenMP: one thread])$(if $(ZLIB),, [no zlib: the programs read no .gz])
quote     = '$(subst ','\'',$(1))'

# ---- targets -------------------------------------------------------------------------------------------------------

UNITS    := $(filter-out tests/test_compile_%,$(wildcard tests/test_*.c))
UNITS    := $(if $(only),$(foreach t,$(UNITS),$(if $(strip $(foreach o,$(only),$(findstring $(o),$(t)))),$(t))),$(UNITS))
TESTS    := $(UNITS:tests/%.c=$(BUILD)/tests/%)
EXAMPLES := $(BUILD)/haste-train $(BUILD)/haste-predict $(BUILD)/haste-minimal $(BUILD)/haste-own_loss $(BUILD)/haste-surgery

.PHONY: all train test units examples bench cxx sanitize symbols lib install uninstall clean help FORCE
.DELETE_ON_ERROR:

all: found $(EXAMPLES) $(TESTS)        ## programs and tests

found:
	@echo $(call quote,$(FOUND))

train: $(BUILD)/haste-train            ## train on made-up data, under a minute (ARGS="..." goes to haste-train)
	$(RUN) $(BUILD)/haste-train $(ARGS)

examples: $(EXAMPLES)                  ## build/haste-train, haste-predict; haste-minimal, -own_loss, -surgery

# Runs each test, all of them even if one fails; the exit status says whether all passed. FILE.sh:NAME is one subject of a script.
run_tests = @$(SETTINGS) JOBS=$(JOBS) sh tests/run.sh $(1)

SETTINGS = CC=$(call quote,$(CC)) CXX=$(call quote,$(CXX)) NVCC=$(call quote,$(HAVE_NVCC)) GPU_ARCH=$(call quote,$(firstword $(GPU_ARCH))) \
           OPENMP=$(call quote,$(OPENMP)) ZLIB=$(call quote,$(ZLIB)) BUILD=$(call quote,$(BUILD)) RUN=$(call quote,$(RUN)) \
           PYTHON=$(call quote,$(PYTHON))

test: $(TESTS) $(EXAMPLES)             ## all tests: units, how it compiles, the programs' command lines, Python where numpy is
	@echo $(call quote,$(FOUND))$(if $(HAVE_NVCC),, '[no nvcc: haste.h in a .cu file is not tried]')
	$(call run_tests,tests/programs.sh tests/compile.sh tests/compile_cuda.sh tests/python.sh $(TESTS))

units: $(TESTS)                        ## only tests/test_*.c (only=NAMES: some of them)
	@echo $(call quote,$(FOUND))
	$(call run_tests,$(TESTS))

programs: $(EXAMPLES)                  ## only the tests of the programs
	$(call run_tests,tests/programs.sh)

compile:                               ## only the tests of how haste.h compiles
	$(call run_tests,tests/compile.sh)

test-python:                           ## only the tests of examples/python, with PYTHON, which must have numpy
	$(call run_tests,tests/python.sh:need)

disassembly:                           ## the kernels under every compiler found: vectors of the path's width, no spills
	BUILD=$(call quote,$(BUILD)) sh tests/disassembly.sh

.PHONY: found programs compile test-python disassembly

cxx: $(UNITS:tests/%.c=$(BUILD)/cxx/%) $(EXAMPLES:$(BUILD)/%=$(BUILD)/cxx/%)   ## tests and programs as C++17
	$(call run_tests,$(UNITS:tests/%.c=$(BUILD)/cxx/%) $(BUILD)/cxx/haste-minimal $(BUILD)/cxx/haste-own_loss $(BUILD)/cxx/haste-surgery)

SANITIZE := -O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all

sanitize:                              ## units and programs under AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/sanitize CFLAGS='$(SANITIZE)' sanitized
sanitized: $(TESTS) $(EXAMPLES)
	$(call run_tests,tests/programs.sh $(TESTS))
.PHONY: sanitized

# CUDA. One object holds the implementation of haste_cuda.cuh; a C program links against it, haste.o and the CUDA runtime.
GPU_FOUND  = $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
CUDA_ARCH  = $(or $(GPU_ARCH),$(if $(GPU_FOUND),sm_$(GPU_FOUND:90=90a),sm_90a))
CUDA_FLAGS = -std=c++17 -O3 $(foreach a,$(CUDA_ARCH:sm_%=%),-gencode=arch=compute_$(a),code=sm_$(a)) -I. -Xcompiler -Wall,-Wextra \
             $(if $(filter 1,$(werror)),-Werror all-warnings) $(CPPFLAGS) $(NVCCFLAGS)
CUDA_TESTS = $(patsubst tests/%.cu,$(BUILD)/tests/%,$(wildcard tests/test_cuda_*.cu)) $(BUILD)/tests/test_cuda_c
CUDA_PROGRAMS = $(BUILD)/haste-train-cuda $(BUILD)/haste-predict-cuda

cuda: $(BUILD)/haste_cuda.o $(CUDA_PROGRAMS) $(CUDA_TESTS)   ## the CUDA object, its tests and programs, with NVCC for GPU_ARCH

test-cuda: $(CUDA_TESTS) $(CUDA_PROGRAMS) $(EXAMPLES)   ## the tests on the device, and of the programs (without one: what needs none)
	$(call run_tests,$(CUDA_TESTS) tests/programs.sh:cuda)

# compute-sanitizer lies beside nvcc. step:small is the subject `small` of tests/test_cuda_step.cu; racecheck takes by far the
# longest. It does not follow locks, and so has programs of its own, whose wide kernels have nothing that needs one.
SUBJECTS  ?= step:small step:batches step:loss_options step:step_fast graph:replay graph:left_out backward:backward_fast finite:spared predict:top_k \
             predict:above forward:forward rewire:rewire deterministic:deterministic
SANITIZED  = $(sort $(foreach s,$(SUBJECTS),$(firstword $(subst :, ,$(s)))))
SANITIZER  = $(or $(shell command -v compute-sanitizer 2>/dev/null),$(dir $(HAVE_NVCC))compute-sanitizer)
sanitize-cuda: $(SANITIZED:%=$(BUILD)/tests/test_cuda_%) $(SANITIZED:%=$(BUILD)/tests/racecheck_cuda_%)   ## memcheck, initcheck, racecheck, synccheck on the device (SUBJECTS="step:small ..."), minutes
	@passed=0; failed=0; log=$(BUILD)/sanitize-cuda.log;                                                               \
	 for tool in memcheck initcheck racecheck synccheck; do for one in $(SUBJECTS); do                                 \
	     subject=$${one#*:}; program=$(BUILD)/tests/test_cuda_$${one%%:*};                                             \
	     [ $$tool != racecheck ] || program=$(BUILD)/tests/racecheck_cuda_$${one%%:*};                                 \
	     if HASTE_TEST_RUNS=2 $(SANITIZER) --tool $$tool --error-exitcode 1 $$program $$subject >$$log 2>&1 && ! grep -q '^no device' $$log;    \
	     then passed=$$((passed + 1)); echo "$$tool $$subject: $$(tail -n 1 $$log)";                                   \
	     else failed=$$((failed + 1)); echo "$$tool $$subject FAILED"; tail -n 20 $$log; fi;                           \
	 done; done; echo "tests: $$passed passed, $$failed failed"; [ $$failed = 0 ] && [ $$passed != 0 ]
.PHONY: cuda test-cuda sanitize-cuda

$(BUILD)/cuda_command: FORCE
	@mkdir -p $(BUILD)/tests
	@echo $(call quote,$(NVCC) $(CUDA_FLAGS)) | cmp -s - $@ || echo $(call quote,$(NVCC) $(CUDA_FLAGS)) > $@

$(BUILD)/haste_cuda.o: haste_cuda.cuh haste.h $(BUILD)/cuda_command
	$(NVCC) $(CUDA_FLAGS) -Xcompiler -fPIC,-fvisibility=hidden -DHASTE_DLL -DHASTE_CUDA_IMPLEMENTATION -x cu -c haste_cuda.cuh -o $@

$(CUDA_PROGRAMS): $(BUILD)/haste-%-cuda: examples/%_cuda.cu examples/%.c $(wildcard examples/*.h examples/*.cuh) haste_cuda.cuh haste.h \
                  $(BUILD)/haste_cuda.o $(BUILD)/command $(BUILD)/cuda_command
	$(NVCC) $(CUDA_FLAGS) -DHASTE_CUDA_LINKED $(GZ) $(OPENMP:%=-Xcompiler %) $< $(BUILD)/haste_cuda.o -o $@ $(if $(ZLIB),-lz) -lm

# The tests link with the object, but for the one that needs the inside of haste_cuda.cuh and compiles it anew.
CUDA_SHARED = tests/cuda.h tests/check.h tests/layers.h haste_cuda.cuh haste.h $(BUILD)/cuda_command
$(BUILD)/tests/test_cuda_inside: tests/test_cuda_inside.cu $(CUDA_SHARED)
	$(NVCC) $(CUDA_FLAGS) -Xcompiler -pthread $< -o $@

$(BUILD)/tests/test_cuda_%: tests/test_cuda_%.cu $(CUDA_SHARED) $(BUILD)/haste_cuda.o
	$(NVCC) $(CUDA_FLAGS) -Xcompiler -pthread $< $(BUILD)/haste_cuda.o -o $@

$(BUILD)/haste_cuda_racecheck.o: haste_cuda.cuh haste.h $(BUILD)/cuda_command
	$(NVCC) $(CUDA_FLAGS) -DHASTE_CUDA_IMPLEMENTATION -DHASTE__WIDE_RESIDENT=0 -x cu -c haste_cuda.cuh -o $@

$(BUILD)/tests/racecheck_cuda_%: tests/test_cuda_%.cu $(CUDA_SHARED) $(BUILD)/haste_cuda_racecheck.o
	$(NVCC) $(CUDA_FLAGS) -Xcompiler -pthread $< $(BUILD)/haste_cuda_racecheck.o -o $@

# The kernels on a CPU: tests/emulator.
EMULATE    = $(CXX) -x c++ -std=c++17 -O1 -g1 -w -D__CUDACC__ -D__CUDA_ARCH__=900 -D__CUDA_ARCH_FEAT_SM90_ALL -I tests/emulator -I.
EMULATED  ?= step errors graph layer shards   # the tests that are built; of them tests/emulated.sh takes what needs seconds
EMULATOR   = tests/cuda.h tests/check.h tests/layers.h haste_cuda.cuh haste.h $(wildcard tests/emulator/*.h)
test-emulated: $(EMULATED:%=$(BUILD)/emulated/test_cuda_%)   ## tests of the CUDA kernels on this CPU, a minute (EMULATED=NAMES: other ones)
	BUILD=$(call quote,$(BUILD)) sh tests/emulated.sh $(if $(filter file,$(origin EMULATED)),,$(EMULATED))
$(BUILD)/emulated/haste_cuda.o: $(EMULATOR)
	@mkdir -p $(BUILD)/emulated
	$(EMULATE) -DHASTE_CUDA_IMPLEMENTATION -c haste_cuda.cuh -o $@
$(BUILD)/emulated/test_cuda_%: tests/test_cuda_%.cu $(BUILD)/emulated/haste_cuda.o
	$(EMULATE) -c $< -o $@.o
	$(CXX) $@.o $(BUILD)/emulated/haste_cuda.o -o $@ -lm
.PHONY: test-emulated

# The programs likewise, with a stand-in for NCCL; launches of kernels are written as the emulator takes them.
EMULATED_SOURCES  = $(BUILD)/emulated/train_cuda.cu $(BUILD)/emulated/train_nccl.cu $(BUILD)/emulated/encoder_cuda.cuh
EMULATED_PROGRAMS = $(BUILD)/emulated/haste-train-cuda $(BUILD)/emulated/haste-train-nccl
$(EMULATED_SOURCES): $(BUILD)/emulated/%: examples/%
	@mkdir -p $(BUILD)/emulated
	sed 's/\([a-z_]*\)<<<\(.*\)>>>(/emulated_call(\1, \2)(/' $< > $@
$(EMULATED_PROGRAMS): $(BUILD)/emulated/haste-train-%: $(EMULATED_SOURCES) $(BUILD)/emulated/haste_cuda.o $(EMULATOR) examples/train.c \
                      $(wildcard examples/*.h examples/*.cuh) $(BUILD)/command
	$(if $(HAVE_MPICXX),OMPI_CXX=$(call quote,$(CXX)) MPICH_CXX=$(call quote,$(CXX)) $(EMULATE:$(CXX)%=$(MPICXX)%) -DPROCESSES_MPI,$(EMULATE)) \
	    -Iexamples -include cuda_runtime.h -DHASTE_CUDA_LINKED $(BUILD)/emulated/train_$*.cu -x none $(BUILD)/emulated/haste_cuda.o -o $@ -lm

$(BUILD)/tests/test_cuda_c: tests/test_compile_cuda_c.c $(BUILD)/haste_cuda.o $(BUILD)/haste.o
	$(CC) -std=c99 $(WARN) $(CFLAGS) $(CPPFLAGS) -fno-pic -c $< -o $@.o
	$(NVCC) -Xcompiler -no-pie $@.o $(BUILD)/haste_cuda.o $(BUILD)/haste.o -o $@ -lm

# What one implementation object gives and takes. No -fopenmp: its outlined functions are the compiler's affair.
symbols: $(BUILD)/haste.o              ## only haste_ names are exported, nothing is global, prints, exits, or is no matter for several threads
	@bad=$$(nm -g --defined-only $< | awk '$$3 !~ /^_?haste_[a-z]/ { print $$3 }'); [ -z "$$bad" ] || { echo "exported:" $$bad; exit 1; }
	@bad=$$(nm $< | awk '$$2 ~ /^[BbCcDdSs]$$/ { print $$3 }'); [ -z "$$bad" ] || { echo "writable:" $$bad; exit 1; }
	@bad=$$(nm -u $< | awk '$$2 ~ /^_?_?(printf|fprintf|vprintf|puts|putchar|perror|exit|_exit|_Exit|abort|assert_fail|assert_rtn|rand|srand|setlocale|strerror|strtok|getenv|localtime|gmtime)(_chk)?$$/ { print $$2 }'); \
	    [ -z "$$bad" ] || { echo "calls:" $$bad; exit 1; }
	@echo "symbols: $$(nm -g --defined-only $< | wc -l) exported, all of them haste_; no writable data"

bench: $(BUILD)/haste-bench            ## the tables of the CPU, about 15 minutes (ARGS="--csv FILE", ARGS=--full, ARGS=--help)
	@[ -n "$(BLAS)" ] || echo "bench: no OpenBLAS found (cblas.h, -lopenblas): it is not compared"
	@[ -n "$(DNNL)" ] || echo "bench: no oneDNN found (dnnl.h, -ldnnl): it is not compared"
	$(RUN) $(BUILD)/haste-bench $(ARGS)

bench-cuda: $(if $(HAVE_NVCC),$(BUILD)/haste-bench-cuda)   ## the tables of the GPU, half a minute (ARGS="--csv FILE", ARGS=--help)
	@[ -n "$(HAVE_NVCC)" ] || { echo "bench-cuda needs nvcc: $(NVCC) was not found (NVCC=... names it)"; exit 1; }
	@[ -n "$(CUBLAS)" ] || echo "bench-cuda: no cuBLAS found: nothing dense is compared"
	@[ -n "$(CUSPARSE)" ] || echo "bench-cuda: no cuSPARSE found: no sparse matrices are compared"
	$(RUN) $(BUILD)/haste-bench-cuda $(ARGS)
.PHONY: bench-cuda

# MPI: mpicc takes this compiler. mpirun comes with it.
MPICC  ?= mpicc
MPICXX ?= mpicxx
HAVE_MPICC = $(shell command -v $(MPICC) 2>/dev/null)
mpi: $(BUILD)/haste-train-mpi          ## build/haste-train-mpi: haste-train in several processes, on one machine or many (needs mpicc)

test-mpi: $(if $(HAVE_MPICC),$(BUILD)/haste-train-mpi $(BUILD)/haste-train $(BUILD)/haste-predict $(BUILD)/tests/models)   ## its tests: 1 to 4 processes (skipped without mpicc)
	$(if $(HAVE_MPICC),$(call run_tests,tests/mpi.sh),@echo "test-mpi: no $(MPICC): skipped")

$(BUILD)/haste-train-mpi: examples/train_mpi.c haste.h $(wildcard examples/*.h) examples/train.c $(BUILD)/command
	@command -v $(MPICC) >/dev/null || { echo "mpi: no $(MPICC) (Debian: libopenmpi-dev, openmpi-bin)"; exit 1; }
	OMPI_CC=$(call quote,$(CC)) MPICH_CC=$(call quote,$(CC)) $(MPICC) $(FLAGS) $(GZ) -I. $< -o $@ $(LIBS)
.PHONY: mpi test-mpi

# NCCL: nccl.h and libnccl where nvcc looks, or below NCCL_HOME (of pip's nvidia-nccl-cu13: .../site-packages/nvidia/nccl). With mpicxx
# the program can be started by mpirun, too.
HAVE_MPICXX = $(shell command -v $(MPICXX) 2>/dev/null)
NCCL_LIB   = $(firstword $(wildcard $(foreach l,lib lib64,$(foreach v,so so.2,$(NCCL_HOME)/$(l)/libnccl.$(v)))))
NCCL_LINK  = $(if $(NCCL_HOME),$(NCCL_LIB:%=-Xlinker % -Xlinker -rpath=$(abspath $(dir $(NCCL_LIB)))),-lnccl)
NCCL_BUILD = OMPI_CXX=$(call quote,$(CXX)) MPICH_CXX=$(call quote,$(CXX)) $(NVCC) $(CUDA_FLAGS) $(if $(NCCL_HOME),-I$(NCCL_HOME)/include) \
             $(if $(HAVE_MPICXX),-ccbin $(HAVE_MPICXX) -DPROCESSES_MPI)
nccl: $(BUILD)/haste-train-nccl        ## build/haste-train-nccl: haste-train-cuda on several GPUs (needs nvcc and NCCL; NCCL_HOME says where)

$(BUILD)/haste-train-nccl: examples/train_nccl.cu examples/train.c $(wildcard examples/*.h examples/*.cuh) haste_cuda.cuh haste.h \
                           $(BUILD)/command $(BUILD)/cuda_command $(if $(HAVE_NVCC),$(BUILD)/haste_cuda.o)
	@[ -n "$(HAVE_NVCC)" ] || { echo "nccl: no nvcc: $(NVCC) was not found (NVCC=... names it)"; exit 1; }
	@echo 'int main(void) { return ncclCommDestroy(0); }' > $@.probe.cu; \
	 $(NCCL_BUILD) -include nccl.h $@.probe.cu -o $@.probe $(NCCL_LINK) >/dev/null 2>&1; code=$$?; rm -f $@.probe $@.probe.cu; [ $$code = 0 ] || \
	     { echo "nccl: no nccl.h or libnccl $(if $(NCCL_HOME),below $(NCCL_HOME),where nvcc looks): libnccl-dev has them, or NCCL_HOME=.../nvidia/nccl of pip's nvidia-nccl-cu13"; exit 1; }
	$(NCCL_BUILD) -DHASTE_CUDA_LINKED $(GZ) $(OPENMP:%=-Xcompiler %) $< $(BUILD)/haste_cuda.o -o $@ $(NCCL_LINK) $(if $(ZLIB),-lz) -lm

# Its tests run it and haste-train-cuda in the emulator, whose processes share this CPU.
test-nccl: $(EMULATED_PROGRAMS) $(BUILD)/haste-predict $(BUILD)/tests/models   ## tests of haste-train-nccl on this CPU: emulated GPUs, 1 to 3 processes
	$(call run_tests,tests/nccl.sh)
.PHONY: nccl test-nccl

knn: $(BUILD)/haste-knn                ## build/haste-knn TRAIN TEST: what 20 nearest neighbours reach, as a measure for data sets
.PHONY: knn
fixed: $(BUILD)/haste-fixed            ## build/haste-fixed TRAIN: what chosen inputs, grouping and rewiring are worth where x is fixed
.PHONY: fixed

# Libraries, for programs that do not compile the implementation themselves. The name of the shared one changes with MAJOR.MINOR:
# see HASTE_CHECK_VERSION in haste.h.
SERIES    = $(word 1,$(subst ., ,$(VERSION))).$(word 2,$(subst ., ,$(VERSION)))
LIBRARIES = $(BUILD)/lib/libhaste.a $(BUILD)/lib/libhaste.so.$(SERIES)
CUDA_LIBRARY = $(BUILD)/lib/libhaste_cuda.so.$(SERIES)

lib: $(LIBRARIES) $(if $(HAVE_NVCC),$(CUDA_LIBRARY))   ## libhaste.a, libhaste.so and, with NVCC, libhaste_cuda.so in build/lib
	@[ -n "$(HAVE_NVCC)" ] || echo "lib: no nvcc: no libhaste_cuda.so"

# What is there of build/lib is installed too, with a pkg-config file and a CMake package.
PACKAGE = cmake/haste/hasteConfig.cmake cmake/haste/hasteConfigVersion.cmake pkgconfig/haste.pc
install: $(filter lib,$(MAKECMDGOALS))   ## headers, and what `make lib` built, to PREFIX (default /usr/local; DESTDIR, LIBDIR respected)
	mkdir -p $(DESTDIR)$(PREFIX)/include
	cp $(HEADERS) $(DESTDIR)$(PREFIX)/include
	@[ ! -e $(BUILD)/lib/libhaste.a ] || { set -e; to=$(DESTDIR)$(LIBDIR); echo "libraries to $$to"; \
	 mkdir -p $$to/cmake/haste $$to/pkgconfig;                                                  \
	 for f in $(LIBRARIES) $(CUDA_LIBRARY); do [ ! -e $$f ] || cp $$f $$to; done;                \
	 for f in haste haste_cuda; do [ ! -e $$to/lib$$f.so.$(SERIES) ] || ln -sf lib$$f.so.$(SERIES) $$to/lib$$f.so; done; \
	 for f in $(PACKAGE); do                                                                    \
	     sed -e 's|@HASTE_VERSION@|$(VERSION)|; s|@HASTE_PREFIX@|$(PREFIX)|; s|@HASTE_LIBDIR@|$(LIBDIR)|' \
	         -e "s|@HASTE_OPENMP_USED@|$$(cat $(BUILD)/lib/openmp)|" examples/cmake/$${f##*/}.in >$$to/$$f; done; }

uninstall:                             ## and away again
	rm -f $(HEADERS:%=$(DESTDIR)$(PREFIX)/include/%) $(PACKAGE:%=$(DESTDIR)$(LIBDIR)/%)
	rm -f $(foreach f,$(notdir $(LIBRARIES) $(CUDA_LIBRARY)),$(DESTDIR)$(LIBDIR)/$(f) $(DESTDIR)$(LIBDIR)/$(f:.$(SERIES)=))
	rmdir $(DESTDIR)$(LIBDIR)/cmake/haste 2>/dev/null || true

clean:                                 ## removes build/
	rm -rf $(BUILD)

help:                                  ## this list
	@echo "haste $(VERSION)"; awk -F '## ' '/^[a-z-]+:.*## / { sub(/:.*/, "", $$1); printf "  make %-13s %s\n", $$1, $$2 }' Makefile

# ---- how things are built ------------------------------------------------------------------------------------------

# Remembers the command line, so that a change of compiler or flags builds everything anew.
COMMAND = $(CC) $(FLAGS) $(CXX) $(CXX_FLAGS) $(LDFLAGS) $(ZLIB) $(BLAS:yes=OpenBLAS) $(DNNL:yes=oneDNN)
$(BUILD)/command: FORCE
	@mkdir -p $(BUILD)/tests $(BUILD)/cxx
	@echo $(call quote,$(COMMAND)) | cmp -s - $@ || echo $(call quote,$(COMMAND)) > $@
FORCE:

TRACK = -MMD -MP -MF $@.d -MT $@
GZ    = $(if $(ZLIB),-DHASTE_ZLIB)
LIBS  = $(LDFLAGS) $(if $(ZLIB),-lz) -lm

$(BUILD)/tests/%: tests/%.c haste.h $(BUILD)/command
	$(CC) $(FLAGS) $(PTHREAD) $(GZ) -I. -Iexamples $(TRACK) $< -o $@ $(LIBS)

$(BUILD)/haste-%: examples/%.c haste.h $(BUILD)/command
	$(CC) $(FLAGS) $(GZ) -I. $(TRACK) $< -o $@ $(LIBS)

$(BUILD)/cxx/haste-%: examples/%.c haste.h $(BUILD)/command
	$(CXX) $(CXX_FLAGS) $(GZ) -I. $(TRACK) -x c++ $< -o $@ $(LIBS)

$(BUILD)/cxx/%: tests/%.c haste.h $(BUILD)/command
	$(CXX) $(CXX_FLAGS) $(PTHREAD) $(GZ) -I. -Iexamples $(TRACK) -x c++ $< -o $@ $(LIBS)

$(BUILD)/haste.o: haste.h $(BUILD)/command
	$(CC) -std=c99 $(WARN) $(CFLAGS) $(CPPFLAGS) -fno-pic -DHASTE_IMPLEMENTATION -x c -c haste.h -o $@

# One object for both libraries. Only the functions of the API are exported.
$(BUILD)/lib/haste.o: haste.h $(BUILD)/command
	@mkdir -p $(BUILD)/lib
	$(CC) -std=c99 $(WARN) $(CFLAGS) $(CPPFLAGS) $(OPENMP) -fPIC -fvisibility=hidden -DHASTE_DLL -DHASTE_IMPLEMENTATION -x c -c haste.h -o $@
	@echo $(call quote,$(OPENMP)) > $(BUILD)/lib/openmp
$(BUILD)/lib/libhaste.a: $(BUILD)/lib/haste.o
	rm -f $@
	$(AR) rcs $@ $<
$(BUILD)/lib/libhaste.so.$(SERIES): $(BUILD)/lib/haste.o
	$(CC) $(CFLAGS) $(OPENMP) -shared -Wl,-soname,$(notdir $@) $< -o $@ $(LDFLAGS) -lm
	ln -sf $(notdir $@) $(BUILD)/lib/libhaste.so
$(CUDA_LIBRARY): $(BUILD)/haste_cuda.o $(BUILD)/lib/libhaste.so.$(SERIES)
	$(NVCC) -shared -Xlinker -soname,$(notdir $@) $< -o $@ -L$(BUILD)/lib -lhaste
	ln -sf $(notdir $@) $(BUILD)/lib/libhaste_cuda.so

$(BUILD)/haste-knn $(BUILD)/haste-fixed: $(BUILD)/haste-%: bench/%.c haste.h $(wildcard examples/*.h) $(BUILD)/command
	$(CC) $(FLAGS) $(GZ) -I. $< -o $@ $(LIBS)

# The benchmark's own code as its user would build it; what it is compared with gets all that the compiler can do.
BASELINE = -O3 -ffast-math $(NATIVE) $(or $(OPENMP),-Wno-unknown-pragmas)
$(BUILD)/haste-bench: bench/bench_cpu.c bench/baseline.c bench/baseline.h haste.h $(BUILD)/command
	$(CC) -std=gnu99 $(WARN) $(BASELINE) $(CPPFLAGS) $(BLAS:yes=-DBENCH_BLAS) $(DNNL:yes=-DBENCH_DNNL) \
	    -c bench/baseline.c -o $(BUILD)/baseline.o
	$(CC) $(FLAGS) $(if $(OPENMP),,-Wno-unknown-pragmas) -DBENCH_FLAGS=$(call quote,"$(strip $(CFLAGS) $(OPENMP))") \
	    -DBENCH_BASELINE=$(call quote,"$(strip $(BASELINE))") -I. bench/bench_cpu.c $(BUILD)/baseline.o -o $@ \
	    $(LDFLAGS) $(BLAS:yes=-lopenblas) $(DNNL:yes=-ldnnl) -lm

# What it counts the bytes of: the linker sends these calls to functions of its own.
COUNTED = cudaMalloc cudaFree cudaMallocHost
# Whether there are cuBLAS and cuSPARSE is part of the command, so that finding them builds anew.
BENCH_CUDA = $(NVCC) $(CUDA_FLAGS) $(if $(CUBLAS),-DBENCH_CUBLAS) $(if $(CUSPARSE),-DBENCH_CUSPARSE)
$(BUILD)/bench_cuda_command: FORCE
	@mkdir -p $(BUILD)
	@echo $(call quote,$(BENCH_CUDA)) | cmp -s - $@ || echo $(call quote,$(BENCH_CUDA)) > $@

$(BUILD)/haste-bench-cuda: bench/bench_cuda.cu haste_cuda.cuh haste.h $(BUILD)/haste_cuda.o $(BUILD)/bench_cuda_command
	$(BENCH_CUDA) -DBENCH_FLAGS=$(call quote,"-O3 $(CUDA_ARCH)") bench/bench_cuda.cu $(BUILD)/haste_cuda.o -o $@ \
	    $(if $(CUBLAS),-lcublas) $(if $(CUSPARSE),-lcusparse) -lm $(COUNTED:%=-Xlinker --wrap=%)

-include $(wildcard $(BUILD)/*.d $(BUILD)/tests/*.d $(BUILD)/cxx/*.d)
