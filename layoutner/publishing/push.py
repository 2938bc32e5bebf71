"""Upload an export to the Hugging Face hub."""

import shlex
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from layoutner.errors import ModelError, SettingsError, first_line


def require_name(name: str) -> None:
    """Check the name of a repository, without the network.

    Raises:
        SettingsError: the hub would not take it.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise SettingsError(f"--push {name}: not a name of a repository, ORG/NAME: {first_line(error)}") from None


def push(folder: Path, name: str, public: bool) -> str:
    """Upload all files of a folder as one commit. The repository is made if it does not exist.

    Files that the repository already has under other names stay.

    Args:
        name: ORG/NAME.
        public: whether the repository may be seen by all. Does not change one that exists.

    Returns:
        Address of the repository.

    Raises:
        ModelError: not uploaded: there is no token, the hub cannot be reached or refuses, or the repository is public
            and `public` is false. The folder stays as it is.
    """
    stays = f"{folder} was not uploaded to {name}, and stays as it is"
    again = f"hf upload {name} {shlex.quote(str(folder))}{'' if public else ' --private'}"
    if get_token() is None:
        raise ModelError(f"{stays}: there is no token; run `hf auth login`, or set HF_TOKEN, then `{again}`")
    api = HfApi()
    # The library raises exceptions of the network, of its own and of the system.
    try:
        address = str(api.create_repo(name, private=not public, exist_ok=True))
        exposed = not public and not api.model_info(name).private
        if not exposed:
            api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a model of layoutner")
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{stays}: {why}; to try again, `{again}`") from None
    if exposed:
        raise ModelError(f"{stays}: {address} is public; add --public, or give the name of another repository")
    return address
