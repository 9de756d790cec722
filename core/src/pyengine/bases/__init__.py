"""What drivers of one shape share, so that a driver is only what is particular about it.

================ ==========================================================
``layerdirs``    directories of layers: staging, publishing, trash, sweeping
``layerquotas``  limits on the size of layers, by project quotas
``layertrees``   storage that keeps each layer as a whole tree (vfs, btrfs)
``logcompress``  compressing a rotated log beside the writing of the next
``logdriver``    logging drivers that keep files which rotate
``logfiles``     the files of such a log, for its reader
``loglines``     what a container writes, cut into lines
``logoptions``   what ``--log-opt`` takes for every driver
``logreader``    a cursor over the files
``logrotation``  the files for the writer
``logwriter``    lines into the files, and what a full disk takes
``stackedlinks`` networks whose links stand on one of the host's (macvlan)
================ ==========================================================
"""
