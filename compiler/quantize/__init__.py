"""Weights: which type each tensor gets, and how weights become blocks of that type.

``recipes``   plan + model → one decision a tensor
``formats``   the block formats in NumPy: the definition of every encoder and decoder
``encode``    the same encoders in C, on two threads
``imatrix``   importance of columns, read from a GGUF importance matrix
``export``    the plan's weights as an ordinary GGUF
"""
