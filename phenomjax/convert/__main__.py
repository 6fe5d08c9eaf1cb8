"""`python -m phenomjax.convert openphenom IN OUT`: a state dict to flat parameters of ours (.safetensors or .npz), or back.

`--reverse` goes from ours to theirs. The configuration that the weights fit is printed as command-line overrides.
"""

import argparse
import logging

from flax import traverse_util

from phenomjax import progress
from phenomjax.convert import files, openphenom
from phenomjax.errors import exit_on_user_error

log = logging.getLogger("phenomjax")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m phenomjax.convert", description=__doc__)
    parser.add_argument("layout", choices=["openphenom"], help="the other project's layout")
    parser.add_argument("source", metavar="IN", help="a .safetensors, .npz or torch file of tensors")
    parser.add_argument("target", metavar="OUT", help="a .safetensors or .npz file to write")
    parser.add_argument(
        "--reverse", action="store_true", help="IN holds parameters of phenomjax, OUT gets the other layout"
    )
    parser.add_argument(
        "--decoder-heads", type=int, default=16, help="heads of the decoder; the shapes do not tell (default 16)"
    )
    parser.add_argument("--patch-size", type=int, default=16, help="--reverse: of the model (default 16)")
    parser.add_argument(
        "--grid", type=int, default=16, help="--reverse: patches along an image's edge, for the position tables"
    )
    options = parser.parse_args(arguments)
    progress.log_to_stderr()
    arrays = files.read_arrays(options.source)
    if options.reverse:
        params = traverse_util.unflatten_dict(arrays, sep="/")
        result = openphenom.to_state_dict(params, openphenom.model_of_params(params, options.patch_size), options.grid)
    else:
        model = openphenom.infer_model(arrays, options.decoder_heads)
        result = traverse_util.flatten_dict(openphenom.from_state_dict(arrays, model), sep="/")
        log.info("the weights fit: %s", " ".join(f"--config.model.{key}={model[key]}" for key in openphenom.INFERRED))
    files.write_arrays(options.target, result)
    log.info(
        "wrote %s: %d arrays, %.1f M numbers", options.target, len(result), sum(x.size for x in result.values()) / 1e6
    )
    return 0


if __name__ == "__main__":
    exit_on_user_error(main)
