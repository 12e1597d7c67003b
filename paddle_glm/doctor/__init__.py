"""`paddle-glm doctor`: does this package compute the right numbers on this machine, and how fast.

`registry` holds the checks, each a small function in one of the modules that `catalog` imports; `worker`
runs them in processes of their own, which `runner` starts and watches; `report` writes what they found.
"""
