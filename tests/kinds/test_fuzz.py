"""No input ends in a traceback: mutated small files at every door that reads files.

A run tries the same inputs each time. More of them, or others:

  PHENOMJAX_FUZZ=50 PHENOMJAX_FUZZ_SEED=7 python -m pytest tests/kinds/test_fuzz.py -k table

tries 50 times as many from another seed. What fails is kept in PHENOMJAX_FUZZ_KEEP (else in
phenomjax_fuzz below the folder for temporary files), and the message has the line that tries this
input alone again.
"""

import logging
import os
import random
import shutil
import tempfile
import time
import traceback
import warnings
import zlib
from pathlib import Path

import pytest

from phenomjax.system.errors import UserError
from tests.kinds import fuzz_doors, fuzz_images

TIMES = float(os.environ.get("PHENOMJAX_FUZZ", "1"))
SEED = int(os.environ.get("PHENOMJAX_FUZZ_SEED", "0"))
ONLY = os.environ.get("PHENOMJAX_FUZZ_ONLY", "")  # the number of one input
DOORS = [*fuzz_doors.DOORS, *fuzz_images.DOORS]
KEEP = Path(os.environ.get("PHENOMJAX_FUZZ_KEEP", f"{tempfile.gettempdir()}/phenomjax_fuzz"))
INPUTS = 12  # of a door of weight 1
SECONDS = 20.0  # an input may take, on a busy machine
LONGEST = 4000  # characters of an error


def attempt(door, folder: Path) -> str:
    """What is wrong with how a door takes a folder; "" if nothing is."""
    start = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            door.call(folder)
    except UserError as error:
        if not 10 < len(str(error)) < LONGEST or "Traceback" in str(error):
            return f"an error of {len(str(error))} characters: {str(error)[:300]}"
    except Exception:
        return traceback.format_exc(limit=-6)
    spent = time.monotonic() - start
    return f"it took {spent:.0f} s" if spent > SECONDS else ""


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_no_traceback(door, tmp_path, caplog):
    caplog.set_level(logging.CRITICAL, "phenomjax")  # thousands of lines else
    good = tmp_path / "good"
    good.mkdir()
    door.make(good)
    trial = tmp_path / "trial"
    shutil.copytree(good, trial)
    assert attempt(door, trial) == "", "the input that is mutated is not read"
    found = []
    for number in [int(ONLY)] if ONLY else range(max(1, round(INPUTS * door.weight * TIMES))):
        shutil.rmtree(trial)
        shutil.copytree(good, trial)
        key = zlib.crc32(f"{door.name} {SEED} {number}".encode())
        door.mutate(trial, door.mutated, random.Random(key))
        kept = tmp_path / "kept"
        shutil.copytree(trial, kept)
        if wrong := attempt(door, trial):
            place = KEEP / f"{door.name}-{SEED}-{number}"
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(kept, place)
            again = f"PHENOMJAX_FUZZ_SEED={SEED} PHENOMJAX_FUZZ_ONLY={number} python -m pytest"
            found.append(f"{place}\n{again} {__file__} -k '[{door.name}]'\n{wrong}")
        shutil.rmtree(kept)
    assert not found, f"{len(found)} inputs\n" + "\n".join(found)
