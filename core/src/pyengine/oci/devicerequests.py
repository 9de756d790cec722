"""``HostConfig.DeviceRequests``: ``--gpus``, and ``--device`` with a name of CDI's.

There are two drivers, as in Docker: ``cdi`` takes qualified names, and the one for graphics cards
translates indexes and counts to devices of a kind that a card's vendor describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyengine.engine.model import DeviceRequest
from pyengine.errors import InvalidParameter
from pyengine.oci.cdi import Devices

CDI = "cdi"
#: Kinds of graphics cards by the driver that asks for them; the first that is described serves
#: those who name no driver.
_GPU_KINDS = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}
_GPU_CAPABILITIES = frozenset(
    ("gpu", "nvidia", "amd", "compute", "compat32", "graphics", "utility", "video", "display")
)


def check(requests: Sequence[DeviceRequest], devices: Devices) -> None:
    """Refuse, when a container is made, what no driver here could serve: ``InvalidParameter`` in
    Docker's words. Whether the devices exist is seen at the start."""
    for request in requests:
        if request.driver == CDI and devices.directories:
            if request.count:
                raise InvalidParameter("unexpected count in CDI device request")
            if request.options:
                raise InvalidParameter("unexpected options in CDI device request")
        else:
            _gpu_kind(request, devices)
            if request.count and request.device_ids:
                raise InvalidParameter("cannot set both Count and DeviceIDs on device request")


def inject(spec: dict[str, Any], requests: Sequence[DeviceRequest], devices: Devices) -> None:
    """Put what is asked for into a runtime spec. Raises as :meth:`Devices.inject` and
    :func:`check`."""
    names: list[str] = []
    for request in requests:
        if request.driver == CDI and devices.directories:
            names += request.device_ids or []
        else:
            kind = _gpu_kind(request, devices)
            names += [id if "=" in id else f"{kind}={id}" for id in _gpu_ids(request)]
    if names:
        devices.inject(spec, names)


def _gpu_kind(request: DeviceRequest, devices: Devices) -> str:
    """The kind that serves a request for graphics cards."""
    wanted = [_GPU_KINDS[request.driver]] if request.driver in _GPU_KINDS else []
    if not request.driver and any(
        group and set(group) <= _GPU_CAPABILITIES for group in request.capabilities or ()
    ):
        wanted = list(_GPU_KINDS.values())
    if wanted:
        kinds = {kind.kind for kind, _ in devices.scan().devices.values()}
        for kind in wanted:
            if kind in kinds:
                return kind
    groups = " ".join(f"[{' '.join(group)}]" for group in request.capabilities or ())
    raise InvalidParameter(
        f'could not select device driver "{request.driver}" with capabilities: [{groups}]'
    )


def _gpu_ids(request: DeviceRequest) -> list[str]:
    if request.device_ids:
        return request.device_ids
    return ["all"] if request.count < 0 else [str(number) for number in range(request.count)]
