"""What drivers of one shape share, so that a driver is only what is particular about it.

================ ==========================================================
``layerdirs``    directories of layers: staging, publishing, trash, sweeping
``layerquotas``  limits on the size of layers, by project quotas
``layertrees``   storage that keeps each layer as a whole tree (vfs, btrfs)
``loglines``     what a container writes, cut into lines
``stackedlinks`` networks whose links stand on one of the host's (macvlan)
================ ==========================================================
"""
