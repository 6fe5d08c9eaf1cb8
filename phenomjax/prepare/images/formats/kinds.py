"""Which kind of image a file is, by its first bytes."""

from phenomjax.prepare.images.records import BadFile


def kind_of(data: bytes) -> str:
    """png, tiff or jpeg2000, by the first bytes of a file.

    Raises:
      BadFile: it is none of them.
    """
    if not data:
        raise BadFile("truncated", "is empty (0 bytes): a copy was interrupted, copy it again")
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n" or data[:4] == b"\xff\x4f\xff\x51":
        return "jpeg2000"
    if data.startswith(b"version https://git-lfs"):
        raise BadFile("undecodable", "is a Git LFS pointer, not the image: run `git lfs pull`")
    raise BadFile(
        "undecodable",
        f"is no PNG, TIFF or JPEG 2000: it begins with {data[:8]!r}; copy it again, or move it out"
        " of the folder",
    )


def samples(head: bytes) -> int:
    """Samples of each pixel that a PNG or a JPEG 2000 file gives, by its first bytes; 1 when they
    do not say.
    """
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) > 25:
        return {2: 3, 3: 3, 4: 2, 6: 4}.get(head[25], 1)
    start = head.find(b"\xff\x4f\xff\x51")  # JPEG 2000: its codestream, with the size segment
    if start >= 0 and len(head) > start + 42:
        return int.from_bytes(head[start + 40 : start + 42], "big")
    return 1


def first_line(error: Exception) -> str:
    """What a library says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
