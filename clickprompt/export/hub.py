"""Push the folder of an export to a repository of the Hugging Face Hub, whose README.md is the model card."""

import os
from typing import Any

from clickprompt.errors import InputError, RunError
from clickprompt.export.model_card import CARD
from clickprompt.io import storage

__all__ = ["hub_token", "push"]


def hub_token(repo: str) -> str:
    """Return the token to push to `repo` with: that of HF_TOKEN, or what `hf auth login` has stored.

    Raises InputError if there is none, or `repo` is no name of a repository. Nothing is asked of the Hub.
    """
    from huggingface_hub import get_token  # takes a second to import
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"--push {repo}: not the name of a repository; give NAME or OWNER/NAME") from error
    token = get_token()
    if token is None:
        raise InputError(
            f"--push {repo}: no token for the Hugging Face Hub; set HF_TOKEN to one that may write"
        )
    return token


def push(folder: str, repo: str, token: str, *, public: bool = False) -> dict[str, Any]:
    """Upload the files of an export to a model repository as one commit; return {"url", "commit"}.

    A repository that isn't there is created, private unless `public`; one that is keeps its visibility, and
    files of other names. HF_ENDPOINT is the Hub's address. Raises RunError if the Hub refuses or isn't
    reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    assert storage.exists(storage.join(folder, CARD)), folder
    with storage.local_copy(folder) as local:
        try:
            url = api.create_repo(repo, private=not public, exist_ok=True)
            commit = api.upload_folder(
                repo_id=url.repo_id, folder_path=local, commit_message="clickprompt export"
            )
        except Exception as error:  # the client's own errors, those of its HTTP library, and the system's
            said = " ".join(str(error).split()).replace(token, "***")[:300]
            raise RunError(
                f"--push {repo}: {said or type(error).__name__}; {folder} is whole, so "
                f"hf upload {repo} {folder} does the rest"
            ) from error
    return {"url": str(url), "commit": commit.oid}
