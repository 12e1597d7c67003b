"""Native CPU kernels: C++ sources in `csrc/`, built for this machine and registered as Paddle operators; and
Paddle's fused operators for GPUs (`gpu`).

`build`: compiles the library. `library`: loads it. `packing`: kernel order of quantised weights. `operators`:
the operators, in dygraph and in traced graphs.
"""
