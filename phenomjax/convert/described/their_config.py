"""Settings that change what a model computes and that its arrays do not show: which they are, and
their names in the configurations of other projects.

Names and values are those of Hugging Face's config.json (TransfoXLConfig, XLNetConfig), of
zihangdai/xlnet's xlnet_config.json and of the options.json of bilm-tf and allennlp.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from phenomjax.system.errors import UserError

# {model: {setting: a usual value, for the message that asks}}; the first that were published where
# there are such.
TEXT = {"alphabet": "protein", "boundary": "eos", "rare": "x"}
ASKED: dict[str, dict[str, object]] = {
    "transformer_xl": {
        "norm": "post",
        "mem_len": 128,
        "clamp_len": 0,
        "same_length": "none",
        **TEXT,
    },
    "xlnet": {
        "gelu": "exact",
        "mem_len": 96,
        "clamp_len": 0,
        "attention_type": "bi",
        "same_length": False,
        **TEXT,
    },
    "elmo": {
        "cell_clip": 3.0,
        "projection_clip": 3.0,
        "skip_connections": True,
        "max_characters": 50,
        **TEXT,
        "boundary": "bos_eos",
    },
    "densenet": {"standardise": "image", "crop_size": 256},
    "openphenom": {
        "bias_order": "timm_legacy",
        "decoder_num_heads": 16,
        "gelu": "exact",
        "norm_eps": 1e-6,
        "decoder_norm_eps": 1e-5,
        "crop_size": 256,
    },
}


class Name(NamedTuple):
    """A setting of theirs.

    Attributes:
      path: its name in their configuration, parts of it with dots between.
      ours: our setting.
      read: their value to ours.
      write: ours to theirs.
    """

    path: str
    ours: str
    read: Callable = lambda value: value
    write: Callable = lambda value: value


def _limit(path: str, ours: str) -> Name:
    """A length that is -1, 0 or null where there is none."""
    return Name(path, ours, lambda value: max(int(value or 0), 0), lambda value: value or -1)


def _or_null(path: str, ours: str) -> Name:
    """A number that is null where there is none."""
    return Name(path, ours, lambda value: value or 0, lambda value: value or None)


SIZES = (
    Name("d_model", "embed_dim"),
    Name("n_layer", "num_layers"),
    Name("n_head", "num_heads"),
    Name("d_head", "head_dim"),
    Name("d_inner", "mlp_dim"),
)
ACTIVATIONS = {"gelu": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
NAMES: dict[str, tuple[Name, ...]] = {
    "transformer_xl": (
        *SIZES,
        Name("vocab_size", "vocab_size"),
        Name("untie_r", "untie_bias"),
        Name("div_val", "div_val"),
        Name("cutoffs", "cutoffs", tuple, list),
        Name("pre_lnorm", "norm", lambda v: "pre" if v else "post", lambda v: v == "pre"),
        _limit("clamp_len", "clamp_len"),
        Name(
            "same_length",
            "same_length",
            lambda v: "kimiyoung" if v else "none",
            lambda v: v != "none",
        ),
        _or_null("mem_len", "mem_len"),
    ),
    "xlnet": (
        *SIZES,
        Name("vocab_size", "vocab_size"),
        Name("untie_r", "untie_bias"),
        Name(
            "ff_activation",
            "gelu",
            lambda v: ACTIVATIONS.get(v, f"{v}, which is none of ours"),
            lambda v: "gelu" if v == "exact" else "gelu_new",
        ),
        Name("attn_type", "attention_type"),
        _limit("clamp_len", "clamp_len"),
        Name("same_length", "same_length", bool),
        _or_null("mem_len", "mem_len"),
    ),
    "elmo": (
        Name("lstm.dim", "cell_dim"),
        Name("lstm.projection_dim", "projection_dim"),
        Name("lstm.n_layers", "num_layers"),
        Name("char_cnn.embedding.dim", "char_dim"),
        Name("char_cnn.n_highway", "num_highway"),
        Name("char_cnn.filters", "filters", lambda v: tuple(map(tuple, v)), list),
        Name("lstm.cell_clip", "cell_clip", lambda v: float(v or 0), lambda v: v or None),
        Name("lstm.proj_clip", "projection_clip", lambda v: float(v or 0), lambda v: v or None),
        Name("lstm.use_skip_connections", "skip_connections", bool),
        Name("char_cnn.max_characters_per_token", "max_characters"),
    ),
    "densenet": (),
    "openphenom": (),
}
# zihangdai/xlnet's own names, where they differ
TENSORFLOW = {"vocab_size": "n_token"}
# What our models have fixed: another value computes something else.
FIXED: dict[str, dict[str, tuple[object, ...]]] = {
    "transformer_xl": {
        "layer_norm_epsilon": (1e-5,),
        "attn_type": (0,),
        "tie_word_embeddings": (True,),
        "tie_weight": (True,),
        "model_type": ("transfo-xl",),
    },
    "xlnet": {"layer_norm_eps": (1e-12,), "model_type": ("xlnet",)},
    "elmo": {"char_cnn.activation": ("relu",), "char_cnn.n_characters": (261, 262)},
    "densenet": {},
    "openphenom": {},
}
# Of their configuration, beside the settings: what their readers look for.
EXTRA: dict[str, dict[str, object]] = {
    "transformer_xl": {
        "model_type": "transfo-xl",
        "architectures": ["TransfoXLLMHeadModel"],
        "adaptive": True,
        "tie_word_embeddings": True,
        "layer_norm_epsilon": 1e-5,
        "attn_type": 0,
    },
    "xlnet": {
        "model_type": "xlnet",
        "architectures": ["XLNetLMHeadModel"],
        "layer_norm_eps": 1e-12,
    },
    "elmo": {"char_cnn.activation": "relu", "char_cnn.n_characters": 262},
    "densenet": {},
    "openphenom": {},
}


def read(name: str, theirs: Mapping[str, object], where: str) -> dict[str, object]:
    """Our settings in a configuration of theirs.

    Args:
      name: of the model, a key of NAMES.
      theirs: their configuration.
      where: it stands, for errors.

    Raises:
      UserError: a setting that our model does not have, or a value of another kind.
    """
    for path, known in FIXED[name].items():
        value = _get(theirs, path)
        if value is not None and value not in known:
            raise UserError(
                f"{where} says {path} {value!r}, and this model has"
                f" {' or '.join(map(repr, known))}: it would compute something else. These weights"
                " cannot be used here, or the configuration is not theirs."
            )
    found: dict[str, object] = {}
    for one in NAMES[name]:
        path = TENSORFLOW.get(one.path, one.path)
        for candidate in {one.path, path}:
            if _has(theirs, candidate):
                try:
                    found[one.ours] = one.read(_get(theirs, candidate))
                except (TypeError, ValueError, OverflowError, AttributeError) as error:
                    raise UserError(
                        f"{where} says {candidate} {_get(theirs, candidate)!r}, which cannot be"
                        f" ({error}). Correct it."
                    ) from error
    return found


def write(name: str, layout: str, model: ConfigDict) -> dict[str, object]:
    """A configuration of theirs, as far as it has words for our settings."""
    theirs: dict[str, object] = {}
    values = {path: value for path, value in EXTRA[name].items() if layout != "tensorflow"}
    for one in NAMES[name]:
        path = TENSORFLOW.get(one.path, one.path) if layout == "tensorflow" else one.path
        values[path] = one.write(model[one.ours])
    if name == "transformer_xl":
        values["d_embed"] = model.embed_dim
    for path, value in values.items():
        place: dict = theirs
        *parents, leaf = path.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    return theirs


def unsaid(name: str, model: ConfigDict) -> list[str]:
    """What the other project's programs would do otherwise, in words."""
    said = []
    if name == "transformer_xl" and model.same_length == "nvidia":
        said.append("same_length=nvidia (theirs sees mem_len keys, not mem_len + 1)")
    if name == "transformer_xl" and model.eval_mem_len not in (0, model.mem_len):
        said.append(f"eval_mem_len={model.eval_mem_len} (theirs has one mem_len)")
    if name in ("transformer_xl", "xlnet", "elmo"):
        said.append(
            f"the tokens of {model.alphabet or 'protein'} (listed under `tokens`) and those around"
            f" a sequence, boundary={model.boundary or 'eos'}"
        )
    if name == "densenet":
        said.append(
            f"standardise={model.standardise}: what is done to pixels before the first layer"
        )
    return said


def _has(content: Mapping[str, object], path: str) -> bool:
    first, _, rest = path.partition(".")
    if first not in content:
        return False
    inner = content[first]
    return not rest or (isinstance(inner, Mapping) and _has(inner, rest))


def _get(content: Mapping[str, object], path: str) -> object:
    value: object = content
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
