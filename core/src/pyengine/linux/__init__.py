"""The kernel, one thin function per call; nothing here knows what a container is."""
