"""The keys of how first values and learning rates follow a model's size, and their checks."""

from ml_collections import ConfigDict

from phenomjax.config.ranges import Section, choice, whole
from phenomjax.system.errors import UserError

# of optimisers whose updates do not know the scale of a gradient, which the rules are for
OPTIMISERS = ("lion", "adamw", "adam")


def add_keys(m: Section, decoder: bool = False) -> None:
    """Adds them to `config.model`; `decoder`: it has one beside the encoder."""
    # how first values and learning rates follow the model's size: "standard" (they do not), "mup"
    # (the best rate is the same at every width), "complete_p" (and at every depth)
    m.parametrisation = choice("standard", ("standard", "mup", "complete_p"))
    # embed_dim at which they are as in "standard", and the optimiser's settings were found; MLP and
    # heads in proportion, head_dim the same. 0 = its own
    m.base_width = whole(0, least=0, zero="its own")
    # of "complete_p", likewise layers; 0 = its own
    m.base_depth = whole(0, least=0, zero="its own")
    if decoder:
        # decoder_dim there; 0 = in proportion to the encoder. Its own where all sizes have the same
        # decoder
        m.decoder_base_width = whole(0, least=0, zero="in proportion")
        # decoder_depth there, likewise
        m.decoder_base_depth = whole(0, least=0, zero="in proportion")


def check(c: ConfigDict, depth: str, norm: str = "pre") -> None:
    """Checks them; `depth` is the key of the number of layers, `norm` where norms are."""
    m = c.model
    read = {
        "mup": ("base_width", "decoder_base_width"),
        "complete_p": ("base_width", "decoder_base_width", "base_depth", "decoder_base_depth"),
    }.get(m.parametrisation, ())
    for key in ("base_width", "base_depth", "decoder_base_width", "decoder_base_depth"):
        value = m.get(key, 0)
        if value and key not in read:
            other = "complete_p" if "depth" in key else "mup"
            raise UserError(
                f"config.model.{key} is {value}, which config.model.parametrisation"
                f" '{m.parametrisation}' does not read. Set --config.model.parametrisation={other},"
                f" or --config.model.{key}=0."
            )
    if m.parametrisation == "standard":
        return
    if c.optimizer.name not in OPTIMISERS:
        raise UserError(
            f"config.optimizer.name is '{c.optimizer.name}', and the learning rates of"
            f" config.model.parametrisation '{m.parametrisation}' are for"
            f" {', '.join(OPTIMISERS)}. Set --config.optimizer.name=adamw, or"
            " --config.model.parametrisation=standard."
        )
    if m.parametrisation == "complete_p" and norm != "pre":
        before = "--config.model.norm=pre, or " if "norm" in m else ""
        raise UserError(
            "config.model.parametrisation 'complete_p' makes the branches of a residual smaller"
            " the deeper a model is; its rules are for norms before each branch, and in this model"
            f" they come behind the residual. Set {before}--config.model.parametrisation=mup."
        )
