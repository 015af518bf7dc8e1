#!/usr/bin/env bash
# Builds, tests and times everything that runs on an NVIDIA GPU, in under nine minutes:
#
#   bash bench/gpu.sh [OUT]              the ops; OUT defaults to bench/results
#   bash bench/gpu.sh engine [OUT]       whole generation at ILLUME+'s shapes, beside transformers where it is installed
#   bash bench/gpu.sh prepare            where there is a network: brings what Python lacks into build/gpu/extra
#   bash bench/gpu.sh [engine] rehearse  the same steps on the CPU, briefly, into build/gpu/rehearsal
#
# Needs torch, nvcc, cmake, ninja and pybind11, and neither pip nor a network; pytest, hypothesis, tyro and rich where they are
# not in build/gpu/extra; `engine` also tokenizers and Pillow. Writes OUT/<device>/<date>.json (every contestant of every case), OUT/<device>/<date>.txt (what
# the tests and compute-sanitizer said) and the report's page. Exits 1 if a test failed or a result was wrong; what could
# be timed is timed all the same.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
extra=build/gpu/extra

if [ "${1:-}" = prepare ]; then
  # pure Python alone, so that it serves any interpreter and hides no compiled package of the machine with the GPU
  pure=(--only-binary :all: --platform any --implementation py --abi none --python-version 3.11)
  pip=("$python" -m pip install -q --upgrade --no-compile --target "$extra" "${pure[@]}")
  rm -rf "$extra" && mkdir -p "$extra"
  "${pip[@]}" pytest pytest-timeout pytest-xdist hypothesis tyro rich || exit 1
  "${pip[@]}" --no-deps flash-kmeans liger-kernel tqdm || echo "bench/gpu.sh: without flash-kmeans and Liger"
  git rev-parse --short HEAD >build/gpu/commit 2>/dev/null
  exit 0
fi

part=ops
if [ "${1:-}" = engine ]; then part=engine; shift; fi
kind=cuda backends=(cuda triton reference) seconds=0.25 calls=20 chosen=() generated=(--device cuda --seconds 2)
limit=530 build=240 tests=150  # seconds: in all, and at most
if [ "${1:-}" = rehearse ]; then
  kind=cpu backends=(cpu reference) seconds=0.02 calls=3 chosen=(--op linear paged_attention) generated=(--rehearse --seconds 0.1)
  limit=1800 build=900 tests=600
  set -- build/gpu/rehearsal
fi
out=${1:-bench/results}
started=$SECONDS
# seconds until the end, at least 1: to `timeout` 0 is for ever
left() { local n=$((limit - SECONDS + started)); echo $((n > 1 ? n : 1)); }
no_more_than() { local n; n=$(left); echo $((n < $1 ? n : $1)); }
step() { echo; echo "== $1 ($((SECONDS - started)) s)"; }
failed=0

export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=passive
export PYTHONPATH="$PWD:$PWD/$extra${PYTHONPATH:+:$PYTHONPATH}"
ILLUME_FAST_COMMIT=${ILLUME_FAST_COMMIT:-$(cat build/gpu/commit 2>/dev/null)}
export ILLUME_FAST_COMMIT
mkdir -p build/gpu

for module in pytest hypothesis tyro rich pybind11 setuptools; do
  "$python" -c "import $module" 2>/dev/null ||
    { echo "bench/gpu.sh: $python has no $module; where there is a network: bash bench/gpu.sh prepare"; exit 2; }
done
device=cpu architecture=80
if [ "$kind" = cuda ]; then
  device=$("$python" -c 'import re, torch
print(re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))') ||
    { echo "bench/gpu.sh: torch sees no GPU"; exit 2; }
  architecture=$("$python" -c 'import torch
major, minor = torch.cuda.get_device_capability()
print(f"{major}{minor}" + "a" * (major >= 9))')
fi
name=$(date -u +%Y-%m-%dT%H%M%SZ)
page="$out/$device"
if [ "$part" = engine ]; then name=engine-$name page="$out/$device/engine"; fi
mkdir -p "$out/$device" || exit 2
log="$out/$device/$name.txt"
rows=$(mktemp)
trap 'rm -f "$rows"' EXIT

step "build for sm_$architecture"
# a build folder that was made elsewhere is of no use
grep -qsF "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" build/native/CMakeCache.txt || rm -rf build/native
if [ "$kind" = cuda ]; then
  export ILLUME_FAST_CUDA=1 ILLUME_FAST_CUDA_ARCHITECTURES="$architecture"
fi
ILLUME_FAST_REQUIRE_NATIVE=1 timeout "$build" "$python" setup.py -q build_ext --inplace >build/gpu/build.log 2>&1 ||
  { tail -n 40 build/gpu/build.log; echo "bench/gpu.sh: the build failed, or took more than $build s"; exit 1; }
{ nvidia-smi -L 2>/dev/null; "$python" -m illume_fast.cli info; } | tee "$log"

test_ops() {
  step "tests of the ops"
  # Triton compiles a kernel for every shape, which several processes share; what its interpreter does is tested elsewhere
  parallel=()
  "$python" -c 'import xdist' 2>/dev/null && parallel=(-n 6)
  OMP_NUM_THREADS=2 ILLUME_FAST_RANDOM_CALLS=$calls timeout "$(no_more_than "$tests")" "$python" -m pytest -q -rfE --maxfail=20 \
    "${parallel[@]}" -p no:cacheprovider tests/ops -m "not slow" -k "not when_interpreted" 2>&1 | tee -a "$log" | tail -n 30
  code=${PIPESTATUS[0]}
  if [ "$code" -eq 124 ]; then echo "tests: stopped, not all ran" | tee -a "$log"; fi
  [ "$code" -eq 0 ] || failed=1
}

sanitize_ops() {
  if [ "$kind" = cuda ] && command -v compute-sanitizer >/dev/null; then
    # every op with CUDA kernels, at odd shapes and strides; tensors get memory of their own, that overruns are seen
    for tool in memcheck racecheck synccheck; do
      step "compute-sanitizer, $tool"
      PYTORCH_NO_CUDA_MEMORY_CACHING=1 ILLUME_FAST_RANDOM_CALLS=8 timeout "$(no_more_than 35)" \
        compute-sanitizer --tool "$tool" --kernel-name kns=illume_fast --error-exitcode 9 \
        "$python" -m pytest -q -x -p no:cacheprovider tests/ops/test_random_calls.py \
        -k "some_random and not cross_entropy" 2>&1 | tee -a "$log" | tail -n 5
      code=${PIPESTATUS[0]}
      if [ "$code" -eq 124 ]; then echo "$tool: stopped, not all ran" | tee -a "$log"
      elif [ "$code" -ne 0 ]; then failed=1; fi
    done
  fi
}

time_cases() {
  timeout "$(left)" "$python" -m illume_fast.cli bench "$@" --json "$rows" 2>&1 | tee -a "$log"
  local code=${PIPESTATUS[0]}
  if [ "$code" -eq 124 ]; then echo "benchmarks: stopped, not all ran" | tee -a "$log"
  elif [ "$code" -ne 0 ]; then failed=1; fi
}

if [ "$part" = engine ]; then
  step "benchmarks of the engine"
  time_cases engine "${generated[@]}"
else
  test_ops
  sanitize_ops
  step "benchmarks"
  ops=(--device "$kind" --backend "${backends[@]}" --seconds "$seconds" "${chosen[@]}")
  time_cases "${ops[@]}"
  if [ "$(left)" -gt 40 ]; then time_cases "${ops[@]}" --curves; fi
fi

"$python" - "$rows" "$out/$device/$name.json" <<'PYTHON' || failed=1
import json, sys
lines = open(sys.argv[1]).read().splitlines()
rows = [json.loads(line) for line in lines if line.endswith("}")]  # the last may have been cut off
open(sys.argv[2], "w").write("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
print(f"{len(rows)} rows in {sys.argv[2]}")
sys.exit(not rows)
PYTHON
if "$python" -c 'import matplotlib' 2>/dev/null; then
  "$python" -m illume_fast.cli bench report "$out/$device/$name.json" --out "$page" || failed=1
fi
step "done: $([ "$failed" -eq 0 ] && echo 'everything passed' || echo 'SOMETHING FAILED, see above')"
exit "$failed"
