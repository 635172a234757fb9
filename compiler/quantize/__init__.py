"""Weights: which type each tensor gets, and how weights become blocks of that type.

``recipes``   plan + model → one decision a tensor
``encode``    the formats' encoders, decoders and packers in C, on rows in memory
``stream``    a tensor in pieces, through a few threads, in order
``imatrix``   importance of columns, read from a GGUF importance matrix
``error``     how far the encoded weights are from the file's
``export``    the plan's weights as an ordinary GGUF
"""
