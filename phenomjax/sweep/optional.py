"""Optuna, which sweeps and ladders need and training does not."""

from collections.abc import Callable

from phenomjax.system.errors import EXIT_FAILED, UserError


def with_optuna(run: Callable[[], int]) -> int:
    """Does what needs Optuna; returns its exit code.

    Raises:
      UserError: it is not installed, or its storage does not answer any more.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(
            "Sweeps and ladders need Optuna, which is not installed. Run `pip install -e"
            " '.[sweep]'` in the checkout."
        ) from None
    try:
        return run()
    except optuna.exceptions.StorageInternalError as error:
        first = " ".join(str(error.__cause__ or error).partition("(Background")[0].split())[:300]
        raise UserError(
            f"The storage of the study does not answer any more ({first}). What the trials saved is"
            " there: run the same command again when the storage is back.",
            EXIT_FAILED,
        ) from None
