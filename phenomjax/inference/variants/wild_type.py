"""The wild type that variants are of: one record of a file."""

import logging
import tempfile
from pathlib import Path

from phenomjax.data import text_files
from phenomjax.data.sequences.formats.letters import Letters
from phenomjax.data.sequences.formats.recognise import Unclear, find_format
from phenomjax.data.sequences.vocabulary import vocabulary
from phenomjax.inference.sequences import queries
from phenomjax.inference.sequences.table_queries import Wanted
from phenomjax.inference.variants.agreement import COMMAND_LINE, Wording
from phenomjax.system.errors import UserError, did_you_mean

log = logging.getLogger("phenomjax")
NUCLEOTIDES = 0.95  # the share of their letters that no protein has


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
    try:
        kind = None if find_format(path).kind != "text" else "text"
    except Unclear:  # anything else that is text has the sequence itself in it
        kind = "text"
    with tempfile.TemporaryDirectory() as folder:
        spool = Path(folder) / "tokens"
        wanted = Wanted(column, None, True, "wild_type_column", "wild_type_id")
        found = queries.read([path], "protein", rare, spool, kind, wanted)
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
        sequence = vocabulary("protein").decode(found.sequence(place))
        if Letters.of([sequence]).nucleotides > NUCLEOTIDES:
            raise UserError(
                f"{wording.wild_type} {path}: over {NUCLEOTIDES:.0%} of the letters of"
                f" '{names[place]}' are A, C, G, T, U or N. Is this DNA or RNA? Positions and"
                " letters of variants are those of a protein: name a file with the protein"
                " (transeq of EMBOSS translates)."
            )
        return sequence
