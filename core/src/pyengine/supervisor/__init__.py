"""The processes below the daemon.

============ ======================================================================
``protocol`` the messages between daemon, zygote and shim, and how they are framed
``zygote``   forks shims on request; single-threaded; holds no container state
``shim``     one per container: stdio, log, exit record, exec; outlives the daemon
``client``   the daemon's side: :class:`~pyengine.supervisor.client.Supervisor`
``proxy``    serves published ports on addresses the kernel cannot translate
============ ======================================================================
"""
