"""Other people's autoencoders: real weights under free licences, and architectures without them.

`models.py` holds the modules that trained weights exist for, `weights.py` finds and loads these, `inputs.py` gives real
inputs; those of `architectures.py`, `keyed_nets.py` and `small_nets.py` are trained for a moment.
`python -m benchmarks.zoo` measures the first.
"""
