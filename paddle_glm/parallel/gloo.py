"""Make Paddle's gloo process groups reliable on CPU.

In Paddle 3.3.1 every gloo group rendezvouses in the default TCPStore under the bare keys "0", "1", ...:
later groups read the addresses of an earlier one and fail or hang (nearly always with 4 ranks). Here a
group of all ranks reuses the default group's connections, and any other group has its own store.
"""

import os
import socket
from typing import Any

_stores: list[Any] = []  # rank 0 of a group serves its store, which must live as long as the process


def patch_new_group() -> None:
    """Patch the rendezvous of Paddle's `new_group` (and so of `fleet.init`); CPU only, idempotent."""
    from paddle.distributed import collective

    os.environ.setdefault("PADDLE_DISTRI_BACKEND", "gloo")
    _use_interface_of(own_host())
    original: Any = collective._new_process_group_impl
    if getattr(original, "_paddle_glm", False):
        return

    def new_process_group(
        backend: str, store: Any, rank: int, world_size: int, group_name: str, pg_options: Any, **kwargs: Any
    ) -> Any:
        group_id = kwargs.get("group_id", 0)
        if backend == "gloo" and group_id != 0:
            default = collective._get_default_group()
            if world_size == default.nranks:
                return default.process_group
            store = _private_store(store, rank, f"{group_name}_{group_id}")
        return original(backend, store, rank, world_size, group_name, pg_options, **kwargs)

    new_process_group._paddle_glm = True  # type: ignore[attr-defined]
    collective._new_process_group_impl = new_process_group  # type: ignore[assignment]


def _use_interface_of(host: str) -> None:
    """Have gloo listen where other machines reach this one; its default is what the host name stands for."""
    import psutil

    for interface, addresses in psutil.net_if_addrs().items():
        if any(one.address == host for one in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def own_host() -> str:
    """The address at which the launcher's processes reach this machine."""
    return os.environ.get("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:0").rpartition(":")[0]


def _private_store(default: Any, rank: int, name: str) -> Any:
    """A TCPStore for one group: its rank 0 serves it and publishes the address in the default store."""
    from paddle.base import core

    key = f"paddle_glm/gloo/{name}"
    if rank == 0:
        host = own_host()
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        store = core.TCPStore(host, port, True, 1)
        default.set(key, f"{host}:{port}")
    else:
        address = default.get(key)
        text = bytes(address).decode() if isinstance(address, (bytes, bytearray, list)) else address
        host, _, port = text.rpartition(":")
        store = core.TCPStore(host, int(port), False, 1)
    _stores.append(store)
    return store
