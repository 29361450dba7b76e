"""Compiled kernels that run side-networks on a CPU."""
