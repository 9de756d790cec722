"""The processes below the daemon.

=============== ===================================================================
``records``     the values that they exchange and leave on disk
``protocol``    the messages between daemon, zygote and shim, and how they are framed
``interpreter`` Python started from a sealed copy
``zygote``      forks shims on request; single-threaded; holds no container state
``shim``        one per container: verbs, exit record, execs; outlives the daemon
``streams``     its stdio: pipes and terminals to the log and to attached clients
``link``        its connection with whichever daemon is there; ``loop``: its epoll loop
``client``      the daemon's side: :class:`~pyengine.supervisor.client.Supervisor`
``handle``      a shim as the daemon sees it; ``channel``: the connection with it
``proxy``       serves published ports on addresses the kernel cannot translate
=============== ===================================================================

``shimgroup`` is the cgroup that shims share, ``title`` what they are called in ``ps``.
"""
