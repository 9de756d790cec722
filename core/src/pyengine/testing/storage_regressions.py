"""The storage kit: what broke Docker's drivers.

The numbers are issues of github.com/moby/moby.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from pyengine.testing.storage_bench import (
    Bench,
    directory,
    file,
    make_directory,
    write,
)


class RegressionTests:
    """Old bugs of others."""

    def test_issue_21555_same_size_same_second(self, bench: Bench) -> None:
        def first(root: Path) -> None:
            make_directory(root / "etc", 0o700)
            write(root / "etc/hosts", "10.0.0.1 example")
            write(root / "etc/profile", "PATH=/bin")

        def second(root: Path) -> None:
            write(root / "etc/hosts", "10.0.0.2 example")
            write(root / "etc/profile", "PATH=/bin", 0o666)
            make_directory(root / "root", 0o700)

        for _ in range(3):
            time.sleep(1.001 - time.time() % 1)  # so that both layers fall into one second
            bench.stack(first, second)

    def test_issue_25244_a_directory_made_anew_stays_empty(self, bench: Bench) -> None:
        def first(root: Path) -> None:
            make_directory(root / "lib", 0o700)
            write(root / "lib/hidden", "")

        def second(root: Path) -> None:
            shutil.rmtree(root / "lib")
            make_directory(root / "lib", 0o700)
            write(root / "lib/shown", "")

        def third(root: Path) -> None:
            assert os.listdir(root / "lib") == ["shown"]
            write(root / "lib/newest", "")

        bench.stack(first, second, third)

    def test_issues_20240_24913_28391_chown_of_a_tree(self, bench: Bench) -> None:
        paths = ("opt", "opt/a", "opt/a/b", "opt/a/b/file")

        def first(root: Path) -> None:
            for path in paths[:-1]:
                make_directory(root / path, 0o700)
            write(root / paths[-1], "hello")

        def second(root: Path) -> None:
            for path in paths:
                os.chown(root / path, 1, 1)

        bench.stack(first, second)

    def test_issue_25409_renaming_over_a_lower_file(self, bench: Bench) -> None:
        def first(root: Path) -> None:
            make_directory(root / "files", 0o700)
            write(root / "files/one", "was here before")
            write(root / "files/two", "moves on")

        def second(root: Path) -> None:
            write(root / "files/fresh", "takes its place")
            os.rename(root / "files/fresh", root / "files/one")
            os.rename(root / "files/two", root / "files/three")

        bench.stack(first, second)

    def test_issue_25409_renaming_a_lower_directory(self, bench: Bench) -> None:
        def first(root: Path) -> None:
            make_directory(root / "before", 0o700)
            write(root / "before/file", "x")

        def second(root: Path) -> None:
            # overlay without redirect_dir answers EXDEV, and mv(1) then copies
            subprocess.run(["mv", str(root / "before"), str(root / "after")], check=True)

        bench.stack(first, second)

    def test_issue_27298_owner_of_directories_survives_commit(self, bench: Bench) -> None:
        def first(root: Path) -> None:
            for number, uid in ((1, 1), (2, 1), (3, 1), (4, 0), (5, 1)):
                make_directory(root / f"dir{number}", 0o700, uid)
            for number in (4, 5):
                write(root / f"dir{number}/f1", "...")

        def second(root: Path) -> None:
            os.chown(root / "dir2", 0, 0)
            shutil.rmtree(root / "dir3")
            os.chown(root / "dir4", 1, 1)
            os.chown(root / "dir4/f1", 1, 1)

        def third(root: Path) -> None:
            make_directory(root / "dir3", 0o700, 1)
            shutil.rmtree(root / "dir5")
            make_directory(root / "dir5", 0o700, 1)

        bench.stack(first, second, third)

    def test_issue_24309_removing_what_was_just_committed(self, bench: Bench) -> None:
        container, merged = bench.writable(None)
        write(merged / "file", "x")
        image = bench.commit(container, None)
        bench.driver.remove(container)
        bench.driver.sweep()
        assert set(bench.view(image)) == {"file"}

    def test_issue_12080_unix_sockets(self, bench: Bench) -> None:
        _, merged = bench.writable(bench.apply(directory("run")))
        there = os.open(merged / "run", os.O_RDONLY | os.O_DIRECTORY)
        try:
            address = f"/proc/self/fd/{there}/s"  # merged's own path may exceed 108 bytes
            with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
                server.bind(address)
                server.listen()
                client.connect(address)
        finally:
            os.close(there)

    def test_issue_19647_directories_keep_their_inode(self, bench: Bench) -> None:
        _, merged = bench.writable(bench.apply(directory("dir"), file("dir/file")))
        before = os.stat(merged / "dir").st_ino
        (merged / "dir/new").write_text("x")
        (merged / "dir").chmod(0o700)
        assert os.stat(merged / "dir").st_ino == before
