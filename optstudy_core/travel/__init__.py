"""Trainings that move: what PyTorch and JAX share, without either.

A training lies in one safetensors file: parameters, buffers and the states of the optimizer by
name, in PyTorch's order of axes, and the layers that they belong to.
"""
