"""Kernels in C for CPUs, built where a compiler is at hand; without one everything runs in torch."""
