"""Kernels: tensors in, tensors out. Installed as `illume_fast.kernels`; no autograd and no dispatch here."""
