"""What a model costs before it is trained: parameters, operations, memory, and where linear attention pays.

Everything is computed on the meta device, so that nothing is allocated and no data is read.
"""
