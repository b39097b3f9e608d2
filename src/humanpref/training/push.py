"""An exported model to the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from humanpref.errors import DownloadError, TrainingError, reason_of
from humanpref.training.export import CARD, SPEC


@dataclass(frozen=True)
class Pushed:
    """What went, or would go: names and sizes in bytes, and where."""

    files: tuple[tuple[str, int], ...]
    url: str


def push(folder: str | Path, repo: str, *, private: bool = False, dry_run: bool = False) -> Pushed:
    """Make the repository, if need be, and send the folder's files in one commit -> what went.

    dry_run: ask the Hub who we are and whether the repository is there, and send nothing. The token is the one of
    `hf auth login`, or HF_TOKEN. Raises `TrainingError` for a folder that is no export, `DownloadError` when the Hub
    refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    place = Path(folder).expanduser()
    if not (place / SPEC).is_file() or not (place / CARD).is_file():
        raise TrainingError(
            f"{place}: no exported model (it needs {SPEC} and {CARD}); give the export folder of a training run"
        )
    files = tuple((f.relative_to(place).as_posix(), f.stat().st_size) for f in sorted(place.rglob("*")) if f.is_file())
    api = HfApi(library_name="humanpref")
    try:
        owner = str(api.whoami()["name"])
        name = repo if "/" in repo else f"{owner}/{repo}"
        if dry_run:
            api.repo_exists(name)
        else:
            name = api.create_repo(name, private=private, exist_ok=True).repo_id
            api.upload_folder(repo_id=name, folder_path=place, commit_message="Upload a model trained by humanpref")
    except Exception as error:  # whatever the Hub client or its HTTP library raises: which ones differ by version
        raise DownloadError(
            f"the Hub did not take {place} as {repo} ({reason_of(error, 200)}); sign in with `hf auth login` or "
            "HF_TOKEN, and check the name"
        ) from error
    return Pushed(files, f"{api.endpoint}/{name}")
