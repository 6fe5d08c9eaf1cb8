"""What the doors to a trained model check alike."""

from typing import Any

from phenomjax.system.errors import UserError, check_folder_of


def check_arguments(args: Any, **least: int) -> None:
    """Checks numbers that must not be below their least, and that the folder of `--out` is there.

    Raises:
      UserError: one is.
    """
    for name, value in least.items():
        if getattr(args, name) < value:
            raise UserError(f"--{name} is {getattr(args, name)}; it must be at least {value}.")
    check_folder_of(args.out)
