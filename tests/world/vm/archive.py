"""Packs trees into an initramfs (cpio "newc"), later ones over earlier ones: archive.py ARCHIVE TREE..."""

import os
import stat
import sys

# Large, and of no use to a test.
SKIPPED = ("usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/zoneinfo/", "usr/bin/node", "var/cache/")


def entry(archive, number, name, mode, owner=(0, 0), data=b"", device=(0, 0)):
    name = name.encode() + b"\0"
    fields = (number, mode, *owner, 1, 0, len(data), 0, 0, *device, len(name), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
    for part in (head, data):
        archive.write(part + b"\0" * (-len(part) % 4))


def content(path, mode):
    if stat.S_ISLNK(mode):
        return os.readlink(path).encode()
    if stat.S_ISREG(mode):
        with open(path, "rb") as file:
            return file.read()
    return b"" if stat.S_ISDIR(mode) else None


def paths(tree):
    for directory, directories, files in os.walk(tree):
        for name in directories + files:
            yield os.path.join(directory, name)


with open(sys.argv[1], "wb") as archive:
    entry(archive, 1, "dev", 0o040755)
    entry(archive, 2, "dev/console", 0o020600, device=(5, 1))
    number = 3
    for tree in sys.argv[2:]:
        for path in paths(tree):
            name = os.path.relpath(path, tree)
            status = os.lstat(path)
            data = content(path, status.st_mode)
            if data is None or name.startswith(SKIPPED):
                continue
            entry(archive, number, name, status.st_mode, (status.st_uid, status.st_gid), data)
            number += 1
    entry(archive, 0, "TRAILER!!!", 0)
