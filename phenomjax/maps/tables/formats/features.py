"""Which columns of a table are features: told by their names first, so that a table need not be in
memory, and then by whether they hold numbers.

By name, the first of these rules that finds some:
  --features REGEX; what our own tables say of themselves; feature_0000 … (ours, OpenPhenom's,
  Recursion's); beside Metadata_ columns, all others (pycytominer, CytoTable, JUMP, DeepProfiler);
  names as CellProfiler gives them (Cells_AreaShape_Area, Intensity_MeanIntensity_DNA); names that
  only differ in a number (efficientnet_0 …, 0 …).
Of these, positions and bookkeeping are no measurements of cells and are left out (`BOOKKEEPING`).
So is a number that is named unlike all the features beside it (a weight, a price).
--keep_features REGEX keeps some of them. Two kinds stay, as they do in the published selection of
CPJUMP1: bounding boxes, and an object's parent (Cells_Parent_Nuclei) where no other bookkeeping of
CellProfiler stands beside it. pycytominer's block-list is of another kind, 55 noisy correlations
and granularities of nuclei; these stay, too.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from phenomjax.maps.tables.counts import COUNTS
from phenomjax.maps.tables.sources import Note, Wanted, noted
from phenomjax.system.errors import UserError, first_of

OURS = re.compile(r"feature_\d+")
# Dots stand for underscores in tables that went through R; capitals may be lost.
METADATA = re.compile(r"(?:Image[_.])?Meta(?:data)?[_. :].*", re.IGNORECASE)
_KINDS = (
    "AreaShape|Correlation|Granularity|Intensity|Neighbors|ObjectSkeleton|RadialDistribution"
    "|Texture|ImageQuality|Colocalization|Location|Number_Object|Parent|Children|TrackObjects"
)
CELL_PROFILER = re.compile(
    rf"(?:Cells|Cytoplasm|Nuclei|Image)[_.].+|(?:[\w.]+[_.])?(?:{_KINDS})[_.].+", re.IGNORECASE
)
FEW = 10  # features; of fewer it is not told which are unlike the others
NUMBERED = re.compile(r"(.*?)(\d+)")

# Names as of CellProfiler; the object's name may stand before them.
_OF_CELL_PROFILER = re.compile(
    r"(?:.*_)?(?:"
    r"(?:Image|Object|Table)_?Number(?:_\d+)?|Number_Object_Number"
    r"|Location_\w+|AreaShape_Center_[XYZ]"
    r"|Neighbors_(?:First|Second)ClosestObjectNumber_\w+"
    r"|TrackObjects_(?:Label|Parent|Trajectory|Displacement)\w*)"
    r"|(?:Cells|Cytoplasm|Nuclei|Image)_[XYZ]"
    r"|(?:Image_)?(?:FileName|PathName|URL|MD5Digest|ModuleError|ExecutionTime|ImageSet"
    r"|ProcessingStatus|Group_(?:Index|Number|Length)|Count_\w+)(?:_.*)?"
    r"|Image_(?:Frame|Series|Height|Width|Scaling|Channel)_.*",
    re.IGNORECASE,
)
_PLACE = re.compile(
    r"(?:.*_)?(?:Location_\w+|AreaShape_Center_[XYZ]|TrackObjects_\w+"
    r"|Neighbors_(?:First|Second)ClosestObjectNumber_\w+)",
    re.IGNORECASE,
)
_PARENT = re.compile(r"(?:.*_)?Parent_\w+", re.IGNORECASE)
# Names as of other programs and people, in any capitals.
_OF_OTHERS = re.compile(
    r"(?:image|plate|well|assay_plate)?[_ ]?"
    r"(?:row|col|column|site|field|fov|position|plate|well|tile|cycle|barcode|time_?point)"
    r"(?:[_ ]?(?:id|idx|index|number|num|no))?"
    r"|[xyz]|(?:.*[_ ])?(?:centroid|cent(?:er|re)|position|pos|coord|stage|loc)[_ -]?[xyz012]"
    r"(?: \[.*\])?"
    r"|[xyz][_ ]?(?:centroid|cent(?:er|re)|position|pos|coord\w*|stage|loc|um|px|pixels?)"
    r"|bbox-\d|label|(?:.*_)?c?id|(?:object|image|cell|table)[_ ]?(?:id|no|num(?:ber)?|idx|index)"
    r"|unnamed: ?\d+|index|level_\d|__index_level_\d+__"
    r"|(?:acquisition|execution|exposure)[_ ]?time.*|time_?stamp|time(?:[_ ]?(?:h|hours?))?"
    r"|(?:dose|conc(?:entration)?|replicate|batch|experiment|passage)(?:[ _(\[.-].*)?"
    r"|num_profiles",
    re.IGNORECASE,
)


def is_bookkeeping(name: str) -> bool:
    """Whether a column's name says that it is a position or bookkeeping: an image's or object's
    number, a row, a place in the image, a count of objects, a path, a running time.
    """
    return any((_is(_OF_CELL_PROFILER, name), _OF_OTHERS.fullmatch(name), COUNTS.fullmatch(name)))


def _is(pattern: re.Pattern[str], name: str) -> bool:
    return pattern.fullmatch(name.replace(".", "_")) is not None


@dataclass(frozen=True)
class Named:
    """What the names of a table's columns say.

    Attributes:
      candidates: that may be features, if they hold numbers.
      left_out: bookkeeping that would be candidates by its kind, and is metadata.
      unread: places in the image, likewise, which nothing asks for.
      unlike: a few that are named unlike all others, which are metadata of some program rather
        than features, if they hold numbers.
      notes: what is to be told of them.
      strict: the user named the candidates, so that text among them is an error.
    """

    candidates: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    strict: bool = False


def by_name(
    columns: Sequence[str],
    path: Path,
    wanted: Wanted,
    recorded: Collection[str] | None = None,
    *,
    features: bool = False,
) -> Named:
    """The columns that may be features (see the first lines of this file).

    Args:
      columns: all names, each once.
      path: of the table, for errors.
      wanted: what the user says of them.
      recorded: the features of our own table.
      features: all columns are features by what the file says.

    Raises:
      UserError: none are, or a regular expression is none.
    """
    regex = wanted.features if wanted.features != "common" else None
    keep = compiled("keep_features", wanted.keep) if wanted.keep is not None else None
    kept = {name for name in columns if keep and keep.fullmatch(name)}
    if recorded and regex is None and set(recorded) <= set(columns):
        kept |= set(recorded)
        return Named(tuple(name for name in columns if name in kept))
    if regex is not None:
        pattern = compiled("features", regex)
        found = [name for name in columns if pattern.fullmatch(name)]
    else:
        found = list(columns) if features else _by_rule(columns)
    left = [name for name in found if is_bookkeeping(name) and name not in kept]
    if any(_is(_OF_CELL_PROFILER, name) for name in left):
        left += [name for name in found if _is(_PARENT, name) and name not in kept]
    odd = [] if regex is not None or features else _unlike([n for n in found if n not in left])
    odd = [name for name in odd if name not in kept]
    chosen = (set(found) | kept) - {*left, *odd}
    candidates = tuple(name for name in columns if name in chosen)
    if not candidates:
        raise _none(columns, path, regex, left)
    parents = [name for name in candidates if _is(_PARENT, name) and name not in kept]
    notes = (*noted("bookkeeping", left), *noted("parent", parents))
    unread = tuple(name for name in left if _is(_PLACE, name))
    bookkeeping = tuple(name for name in left if name not in unread)
    return Named(candidates, bookkeeping, unread, tuple(odd), notes, regex is not None)


def _none(columns: Sequence[str], path: Path, regex: str | None, left: Sequence[str]) -> UserError:
    """What is said of a table without features."""
    if left:
        return UserError(
            f"All columns of {path} that could be features are positions or bookkeeping:"
            f" {first_of(left, 12)}. Name those that are"
            " features nevertheless with `keep_features` REGEX."
        )
    there = f"there are: {first_of(columns, 12)}."
    if regex is not None:
        return UserError(
            f"`features` {regex!r} is the whole name of no column of {path}; {there} Leave it out"
            " where features have names as the field gives them, or write another expression."
        )
    return UserError(
        f"No column of {path} is known to be a feature: they are named neither feature_0000 … nor,"
        " beside Metadata_ columns or as of CellProfiler, nor do several differ only in a number;"
        f" {there} Name them with `features` REGEX."
    )


def compiled(flag: str, regex: str) -> re.Pattern[str]:
    """A regular expression of the user.

    Raises:
      UserError: it is none.
    """
    try:
        return re.compile(regex)
    except re.error as error:
        raise UserError(
            f"`{flag}` {regex!r} is no regular expression ({error}). Example: `{flag}`"
            " 'Cells_.*|Nuclei_.*'."
        ) from None


def _by_rule(columns: Sequence[str]) -> list[str]:
    if ours := [name for name in columns if OURS.fullmatch(name)]:
        return ours
    if any(METADATA.fullmatch(name) for name in columns):
        return [name for name in columns if not METADATA.fullmatch(name)]
    if measured := [name for name in columns if CELL_PROFILER.fullmatch(name)]:
        return measured
    return _numbered(columns)


def _unlike(names: Sequence[str]) -> list[str]:
    """At most a fifth of the names, where all others are as of CellProfiler or numbered alike."""
    numbered = set(_numbered(names))
    odd = [name for name in names if not CELL_PROFILER.fullmatch(name) and name not in numbered]
    return odd if len(names) >= FEW and len(odd) <= len(names) / 5 else []


def _numbered(columns: Sequence[str]) -> list[str]:
    """The largest group of at least three columns that only differ in a number; it counts from 0 or
    1 without a gap, or they are most of the columns (a selection of a model's outputs).
    """
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in columns:
        if match := NUMBERED.fullmatch(name):
            groups.setdefault(match[1], []).append((int(match[2]), name))
    largest = max(groups.values(), key=len, default=[])
    numbers = sorted(number for number, _ in largest)
    if len(numbers) < 3:
        return []
    counts = numbers[0] <= 1 and numbers == list(range(numbers[0], numbers[-1] + 1))
    most = len(numbers) >= FEW and len(numbers) > len(columns) / 2
    return [name for _, name in largest] if counts or most else []
