"""Uploads an export to the Hugging Face hub: the one place that talks to it."""

import logging
import os
from pathlib import Path

from phenomjax.system.errors import EXIT_FAILED, UserError

log = logging.getLogger("phenomjax")


def push(path: Path, repository: str, public: bool = False) -> str:
    """Uploads a file, or all files of a folder; makes the repository, private unless `public`, if
    it is not there.

    The token is what `hf auth login` stored, or HF_TOKEN; HF_ENDPOINT names another hub. No token
    is ever printed.

    Returns:
      The address of the repository.

    Raises:
      UserError: a bad name, huggingface_hub is missing, nobody answers, or the hub refuses.
    """
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UserError(f"`push` {repository}: name the repository as OWNER/NAME.")
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            "huggingface_hub is not installed. Install it with `pip install huggingface_hub`."
        ) from error
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    hub = huggingface_hub.HfApi(endpoint=endpoint)
    try:
        hub.create_repo(repository, private=not public, exist_ok=True)
        if path.is_dir():
            hub.upload_folder(
                repo_id=repository, folder_path=path, commit_message="phenomjax export"
            )
        else:
            hub.upload_file(
                repo_id=repository,
                path_or_fileobj=path,
                path_in_repo=path.name,
                commit_message="phenomjax export",
            )
    except Exception as error:  # requests, httpx, and the hub's own, by version
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} is written, but could not be uploaded to {repository} at {endpoint}: {first}."
            " See that the network reaches it and that `hf auth login` was done with a token that"
            " may write there; then run the same command with another `out`.",
            EXIT_FAILED,
        ) from error
    log.info("uploaded %s to %s/%s", path, endpoint, repository)
    return f"{endpoint}/{repository}"
