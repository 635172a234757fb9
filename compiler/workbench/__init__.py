"""Kernels by themselves: against their definitions, timed, beside what the machine can do, and listed."""
