"""CUDA kernels in C++ (csrc/cuda)."""
