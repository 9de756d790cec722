"""pyengine: a Docker-compatible container engine composed of drivers.

The rooms of this package, from the outside in:

========== ==================================================================
cli        the ``pyengine`` command; talks to a daemon as any Docker client does
engine     what the daemon does: containers, images, networks, volumes, events
supervisor the zygote that forks shims, the shims that own containers
contracts  what a driver of each kind must do
hooks      where many plugins take part in one step
drivers    finding, choosing and probing drivers
oci        OCI runtime and image types; from Docker's configuration to a spec
bases      what drivers of one shape share
archive    layers as tar streams
state      database and content store
linux      the kernel: one thin function per call
testing    conformance kits for drivers
========== ==================================================================
"""

__version__ = "0.1.0"
