"""Seccomp: Docker's profiles compiled with libseccomp and kept compiled."""
