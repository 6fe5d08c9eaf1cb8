"""The wild type that variants are of: one record of a file."""

import logging
import tempfile
from pathlib import Path

from phenomjax.data import text_files
from phenomjax.data.sequences.vocabulary import vocabulary
from phenomjax.inference.sequences import queries
from phenomjax.inference.variants.agreement import COMMAND_LINE, Wording
from phenomjax.system.errors import UserError, did_you_mean

log = logging.getLogger("phenomjax")
SETTINGS = ("wild_type_column", "wild_type_id")  # of a table


def read(
    path: Path,
    rare: str,
    wording: Wording = COMMAND_LINE,
    name: str | None = None,
    column: str | None = None,
) -> str:
    """The one sequence of a file, FASTA or a table; or that of a name.

    Args:
      path: the file.
      rare: what becomes of rare letters, a name in encode.RARE_RULES.
      wording: of errors.
      name: id of the record.
      column: of a table, with the sequences; None: found by its name.

    Raises:
      UserError: there is none, or more than one; or none or several of that name.
    """
    text_files.check_file(path, f"file of the wild type ({wording.wild_type})")
    contents = text_files.look(path)
    if contents.kind not in ("text", "parquet", "xlsx"):
        raise text_files.no_text(contents, "the wild type (FASTA, or a table)")
    # anything that is no FASTA and no table has the sequence itself in it
    kind = "fasta" if contents.head.lstrip().startswith(">") else "text"
    if contents.kind != "text" or {s.lower() for s in path.suffixes[-2:]} & {".csv", ".tsv"}:
        kind = "csv"
    with tempfile.TemporaryDirectory() as folder:
        spool = Path(folder) / "tokens"
        found = queries.read([path], "protein", rare, spool, kind, column, None, SETTINGS)
        names = found.names.to_pylist()
        if name is not None:
            places = [i for i, one in enumerate(names) if one == name]
            if len(places) != 1:
                raise UserError(
                    f"{wording.wild_type} {path} has {len(places) or 'no'} records"
                    f" '{name}'.{did_you_mean(name, names)} There are: {', '.join(names[:10])}."
                )
        else:
            places = [0]
            count = len(found) + len(found.rejected)
            if count != 1:
                raise UserError(
                    f"{wording.wild_type} {path} holds {count} records ({', '.join(names[:3])}"
                    f"{', …' if count > 3 else ''}); the wild type is one protein. Say which one"
                    f"{wording.which.format(names[0])}, or write it to a file of its own."
                )
        place = places[0]
        log.info("wild type: %s, %d residues", names[place], found.lengths[place])
        return vocabulary("protein").decode(found.sequence(place))
