#!/usr/bin/env bash
# Builds, tests and times everything that runs on an NVIDIA GPU, in under nine minutes:
#
#   bash bench/gpu.sh [OUT]        OUT defaults to bench/results
#   bash bench/gpu.sh prepare      where there is a network: brings pytest and hypothesis into build/gpu/extra
#
# Needs torch, nvcc, cmake, ninja and pybind11, and neither pip nor a network. Writes OUT/<device>/<date>.json (every
# contestant of every case), OUT/<device>/<date>.txt (what the tests and compute-sanitizer said) and the report's page.
# Exits 1 if a test failed or a result was wrong; what could be timed is timed all the same.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

if [ "${1:-}" = prepare ]; then
  exec "$python" -m pip install -q --upgrade --no-compile --target build/gpu/extra pytest pytest-timeout hypothesis matplotlib
fi

out=${1:-bench/results}
started=$SECONDS
left() { echo $((530 - SECONDS + started)); }
step() { echo; echo "== $1 ($((SECONDS - started)) s)"; }
failed=0

# ---- the package as it would be installed, by links ----
site=build/gpu/site
rm -rf "$site" && mkdir -p "$site/illume_fast"
for path in illume_fast/*; do ln -s "$PWD/$path" "$site/illume_fast/"; done
ln -s "$PWD/kernels" "$PWD/bench" "$site/illume_fast/"
export PYTHONPATH="$PWD/$site:$PWD/build/gpu/extra${PYTHONPATH:+:$PYTHONPATH}"

device=$("$python" -c 'import re, torch; print(re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))') ||
  { echo "bench/gpu.sh: torch sees no GPU"; exit 2; }
architecture=$("$python" -c 'import torch; a, b = torch.cuda.get_device_capability(); print(f"{a}{b}" + "a" * (a >= 9))')
name=$(date -u +%Y-%m-%dT%H%M%SZ)
mkdir -p "$out/$device"
log="$out/$device/$name.txt"
rows=$(mktemp)

step "build for sm_$architecture"
ILLUME_FAST_REQUIRE_NATIVE=1 ILLUME_FAST_CUDA=1 ILLUME_FAST_CUDA_ARCHITECTURES="$architecture" \
  "$python" setup.py -q build_ext --inplace >build/gpu/build.log 2>&1 || { tail -n 40 build/gpu/build.log; exit 1; }
{ nvidia-smi -L; "$python" -m illume_fast.cli info; } | tee "$log"

step "tests of the ops"
# Triton compiles a kernel for every shape: several processes at once would help, and are not needed to be right
timeout 200 "$python" -m pytest -q -x --maxfail=20 -p no:cacheprovider tests/ops -m "not slow" 2>&1 | tee -a "$log" | tail -n 30
[ "${PIPESTATUS[0]}" -eq 0 ] || failed=1

if command -v compute-sanitizer >/dev/null; then
  step "compute-sanitizer"
  small="(ragged or one-element or one-number or few-numbers or own-keys) and cuda and not compile"
  for tool in memcheck racecheck; do
    timeout 60 compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" -m pytest -q -x -p no:cacheprovider \
      tests/ops -k "$small" 2>&1 | tail -n 5 | tee -a "$log"
    code=${PIPESTATUS[0]}
    if [ "$code" -eq 124 ]; then echo "$tool: stopped after 60 s" | tee -a "$log"; elif [ "$code" -ne 0 ]; then failed=1; fi
  done
fi

step "benchmarks"
timeout "$(left)" "$python" -m illume_fast.cli bench --device cuda --backend cuda triton reference --seconds 0.5 \
  --json "$rows" 2>&1 | tee -a "$log"
[ "${PIPESTATUS[0]}" -eq 0 ] || failed=1
if [ "$(left)" -gt 40 ]; then
  timeout "$(left)" "$python" -m illume_fast.cli bench --device cuda --curves --backend cuda triton --seconds 0.3 \
    --json "$rows" 2>&1 | tee -a "$log"
fi

"$python" - "$rows" "$out/$device/$name.json" <<'PYTHON'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
json.dump(rows, open(sys.argv[2], "w"), indent=0)
print(f"{len(rows)} rows in {sys.argv[2]}")
PYTHON
if "$python" -c 'import matplotlib' 2>/dev/null; then
  "$python" -m illume_fast.cli bench report "$out/$device/$name.json" --out "$out/$device"
fi
rm -f "$rows"
step "done: $([ "$failed" -eq 0 ] && echo 'everything passed' || echo 'SOMETHING FAILED, see above')"
exit "$failed"
