"""A container's configuration: what was asked for, over what its image says."""

from __future__ import annotations

from pyengine.engine.model import ContainerConfig


def merge_image(config: ContainerConfig, image: ContainerConfig) -> None:
    """Fill in what the request left open from the image's configuration, as Docker merges them."""
    if not config.user:
        config.user = image.user
    if not config.working_dir:
        config.working_dir = image.working_dir
    if not config.stop_signal:
        config.stop_signal = image.stop_signal
    if config.stop_timeout is None:
        config.stop_timeout = image.stop_timeout
    if config.shell is None:
        config.shell = image.shell
    if config.healthcheck is None:
        config.healthcheck = image.healthcheck
    elif image.healthcheck is not None:
        for field in config.healthcheck.__struct_fields__:
            if not getattr(config.healthcheck, field):
                setattr(config.healthcheck, field, getattr(image.healthcheck, field))
    if config.entrypoint == [""]:
        # how clients clear it, and with it the command that was meant for it
        config.entrypoint = None
    elif not config.entrypoint:
        config.cmd = config.cmd or image.cmd
        if config.entrypoint is None:
            config.entrypoint = image.entrypoint
    names_set = {item.partition("=")[0] for item in config.env or []}
    inherited = [i for i in image.env or [] if i.partition("=")[0] not in names_set]
    config.env = [*(config.env or []), *inherited]
    config.labels = {**(image.labels or {}), **(config.labels or {})}
    if image.exposed_ports:
        config.exposed_ports = {**image.exposed_ports, **(config.exposed_ports or {})}
    if image.volumes:
        config.volumes = {**image.volumes, **(config.volumes or {})}
