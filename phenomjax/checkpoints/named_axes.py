"""Which axes of which parameters stand for names (channels, classes, cell types, tokens) or for the
pixels of a patch: what `init_from` takes by name, and what it resamples.
"""

import dataclasses
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from phenomjax.data.sequences.vocabulary import SPECIALS, vocabulary
from phenomjax.models import classifier


@dataclass(frozen=True)
class Names:
    """Entries that belong to something with a name.

    Attributes:
      what: they are.
      names: of the entries, in order.
      summed: inputs of a kernel, whose products are added up.
      known: of these, those that a new one begins with the mean of; () = all.
      alone: each has layers of its own, whose mean would be no network: a new one begins as the
        first.
    """

    what: str
    names: tuple[Hashable, ...]
    summed: bool = False
    known: tuple[Hashable, ...] = ()
    alone: bool = False

    @property
    def size(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Pixels:
    """The pixels of a square patch, row by row; `summed`: inputs of a kernel."""

    edge: int
    summed: bool

    @property
    def size(self) -> int:
        return self.edge**2


# {axis: what it is made of, the last the fastest}
Axes: TypeAlias = dict[int, tuple[Names | Pixels, ...]]
# (parameter, axis, its parts)
RULES = (
    (r"encoder/patch_embed/kernel", 0, ("pixels seen", "channels seen")),
    (r"decoder/predict/kernel", 1, ("pixels", "channels")),
    (r"decoder/predict/bias", 0, ("pixels", "channels")),
    (r"decoder/(channel_tokens|channel_blocks/.*)", 0, ("vocabulary of channels",)),
    (r"backbone/conv0/kernel", 2, ("channels seen",)),
    (r"neck/(norm_0/.*|dense_0/kernel)", 0, ("features",)),
    (r"head/(classifier/kernel|arcface_kernel)", 1, ("classes",)),
    (r"head/(classifier/kernel|arcface_kernel)", 0, ("features of a head",)),
    (r"head/classifier/bias", 0, ("classes",)),
    (r"vocabulary/bin_0_(embedding|bias)", 0, ("tokens",)),
    (r"word_embedding/embedding|output_bias|softmax/bias", 0, ("tokens",)),
    (r"softmax/kernel", 1, ("tokens",)),
)


def renamed(axes: Axes, theirs: Mapping[Hashable, Hashable]) -> Axes:
    """Axes with the names that another run has for some."""
    return {
        axis: tuple(
            dataclasses.replace(part, names=tuple(theirs.get(n, n) for n in part.names))
            if isinstance(part, Names)
            else part
            for part in parts
        )
        for axis, parts in axes.items()
    }


def axes_of(name: str, shape: tuple[int, ...], config: ConfigDict) -> Axes:
    """What the axes of a parameter of a resolved configuration are made of; those that are plain
    features are left out.
    """
    found = {}
    for pattern, axis, parts in RULES:
        if axis < len(shape) and re.fullmatch(pattern, name):
            made = tuple(part for kind in parts if (part := _part(kind, config)))
            # of a model from outside the same name can mean something else
            if made and np.prod([part.size for part in made]) == shape[axis]:
                found[axis] = made
    return found


def _part(kind: str, config: ConfigDict) -> Names | Pixels | None:
    m = config.model
    agnostic = "channel_agnostic" in m and m.channel_agnostic
    if kind.startswith("pixels") and "patch_size" in m:
        return Pixels(m.patch_size, kind.endswith("seen"))
    by_channel = kind == "vocabulary of channels" or (kind.startswith("channels") and not agnostic)
    if by_channel and "channels" in m:
        alone = kind == "vocabulary of channels"
        return Names("channels", tuple(m.channels), kind.endswith("seen"), alone=alone)
    if kind == "classes" and "classes" in m:
        return Names("classes", tuple(m.classes))
    if kind == "tokens" and "alphabet" in m and not ("cutoffs" in m and m.cutoffs):
        letters = vocabulary(m.alphabet or "protein").tokens
        unused = tuple(range(len(letters), m.vocab_size))
        return Names("tokens", (*letters, *unused), known=letters[len(SPECIALS) :])
    if kind.startswith("features") and "cell_type" in m and m.cell_type:
        if kind == "features of a head" and m.neck_dim:
            return None
        pooled = classifier.pooled_dim(m) - len(m.cell_types)
        return Names("cell types", (*range(pooled), *m.cell_types), True, tuple(m.cell_types))
    return None


def converted(x: Array, theirs: Axes, mine: Axes, fresh: Array | None) -> Array:
    """A parameter of one configuration as that of another.

    Pixels of a kernel's input are resampled so that it answers to a resized patch as it did to the
    patch: the pseudo-inverse resize of FlexiViT (Beyer et al. 2023,
    https://arxiv.org/abs/2212.08013, equation 3); pixels that a kernel makes are resized. Of names
    those that are the same are taken. A new one has the mean of the known, or where there is none
    among those of `mine`, and their products are added up, as much of it as leaves the sum for an
    image that is alike in all channels as it was.

    Args:
      x: the parameter.
      theirs, mine: of `axes_of`, with the same kinds of parts.
      fresh: of the new configuration, from which new names are taken instead.
    """
    # of axes from the last on, so that the numbers of others stay
    new: list[tuple[int, Bool[np.ndarray, " size"]]] = []
    for axis in sorted(mine, reverse=True):
        rows = [np.zeros(part.size, bool) for part in mine[axis]]
        shape = x.shape
        x = x.reshape(*shape[:axis], *[part.size for part in theirs[axis]], *shape[axis + 1 :])
        for place, (old, part) in enumerate(zip(theirs[axis], mine[axis], strict=True)):
            if isinstance(part, Names) and isinstance(old, Names):
                x, rows[place] = _by_name(x, axis + place, old, part)
            elif isinstance(part, Pixels) and isinstance(old, Pixels) and old != part:
                x = jnp.moveaxis(
                    jnp.tensordot(resampling(old, part), x, (1, axis + place)), 0, axis + place
                )
        x = x.reshape(*shape[:axis], -1, *shape[axis + 1 :])
        marked = rows[0]
        for row in rows[1:]:
            marked = (marked[:, None] | row).reshape(-1)
        new.append((axis, marked))
    if fresh is not None:
        for axis, marked in new:
            if marked.any():
                marked = marked.reshape(-1, *[1] * (x.ndim - axis - 1))
                x = jnp.where(marked, fresh, x)
    return x


def _by_name(
    x: Array, axis: int, theirs: Names, mine: Names
) -> tuple[Array, Bool[np.ndarray, " size"]]:
    place = {name: index for index, name in enumerate(theirs.names)}
    new = np.array([name not in place for name in mine.names], bool)
    taken = jnp.take(x, np.array([place.get(name, 0) for name in mine.names], int), axis)
    if not new.any():
        return taken, new
    known = [place[name] for name in theirs.known or theirs.names][: 1 if theirs.alone else None]
    mean = jnp.take(x, np.array(known, int), axis).mean(axis, keepdims=True)
    if new.all() and mine.summed:
        mean = mean * (theirs.size / mine.size)
    marked = new.reshape(-1, *[1] * (x.ndim - axis - 1))
    return jnp.where(marked, mean, taken), new


def resampling(theirs: Pixels, mine: Pixels) -> Float[np.ndarray, "mine theirs"]:
    """The matrix that pixels of a parameter are multiplied with; see `converted`."""
    identity = np.eye(theirs.edge, dtype=np.float32)
    # along one edge; bilinear, where pixels become fewer with a wider kernel
    with jax.ensure_compile_time_eval():
        resized = jax.image.resize(identity, (mine.edge, theirs.edge), "linear")
    along = np.asarray(resized)
    if mine.summed:
        along = np.asarray(np.linalg.pinv(along.T.astype(np.float64)))
    return np.kron(along, along).astype(np.float32)
