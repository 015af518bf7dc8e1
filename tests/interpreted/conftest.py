"""Tests of the Triton kernels under Triton's interpreter, which needs a process of its own: see test_triton.py."""

import os

# collected only where the interpreter was asked for
collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
