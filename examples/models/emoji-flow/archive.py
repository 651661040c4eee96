"""Reads a training set's zip without trusting it: nothing is written to disk, and no more is unpacked than allowed.

The models gemma-3-270m-base and emoji-flow hold the same copy of this file, since a model's folder is whole in itself.
"""

import zipfile
import zlib
from pathlib import PurePosixPath

# A zip of pictures or text packs to a tenth at best; a bomb to a thousandth.
RATIO_MAX = 200
# Below this a high ratio harms nobody: an empty page packs well.
RATIO_FREE_BYTES = 1_000_000
ENTRIES_MAX = 1000
ARCHIVES = {".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar"}


def read_zip(path, suffixes, files_max, bytes_max):
    """[(name, bytes)] of the files with one of `suffixes`, by name; others are named in the log and left out. What is wrong is a ValueError."""
    try:
        with zipfile.ZipFile(path) as archive:
            return read_entries(archive, suffixes, files_max, bytes_max)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"the zip file is broken: {error}") from None


def read_entries(archive, suffixes, files_max, bytes_max):
    entries = archive.infolist()
    if len(entries) > ENTRIES_MAX:
        raise ValueError(f"the zip file has {len(entries):,} entries; at most {ENTRIES_MAX:,} are allowed")
    found = []
    for entry in sorted(entries, key=lambda e: e.filename):
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"the zip file has an entry that points outside of it: {entry.filename[:100]!r}")
        # What macOS adds, and hidden files.
        if entry.is_dir() or name.name.startswith(".") or "__MACOSX" in name.parts:
            continue
        if name.suffix.lower() in ARCHIVES:
            raise ValueError(f"the zip file holds another archive, {entry.filename[:100]!r}: put the files themselves into it")
        if name.suffix.lower() not in suffixes:
            print(f"left out {entry.filename[:100]!r}: not one of {', '.join(sorted(suffixes))}")
            continue
        found.append(entry)
    if len(found) > files_max:
        raise ValueError(f"the zip file has {len(found):,} files of {', '.join(sorted(suffixes))}; at most {files_max:,} are allowed")
    files, total = [], 0
    for entry in found:
        if entry.flag_bits & 1:
            raise ValueError(f"{entry.filename[:100]!r} in the zip file is encrypted")
        # What the directory claims cannot be trusted, so one byte more than allowed is asked for.
        with archive.open(entry) as file:
            data = file.read(bytes_max - total + 1)
        total += len(data)
        is_bomb = len(data) > RATIO_FREE_BYTES and len(data) > RATIO_MAX * max(1, entry.compress_size)
        if total > bytes_max or is_bomb:
            raise ValueError(f"the zip file unpacks to more than allowed: {bytes_max // 1_000_000} MB in all, {RATIO_MAX} times its packed size")
        files.append((entry.filename, data))
    return files
