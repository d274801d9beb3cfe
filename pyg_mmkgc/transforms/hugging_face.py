r"""Models of the Hugging Face hub, from local files where there are any."""
import importlib
from pathlib import Path

from pyg_mmkgc.data.io import PathLike

#: What encoders read. Weights in other formats than safetensors are pickled, so they are left out.
_FILES = ['*.json', '*.txt', '*.model', '*.safetensors']


def import_transformers() -> None:
    r"""Fail early, and with the extra to install, if `transformers` is missing."""
    try:
        importlib.import_module('transformers')
    except ImportError as error:
        raise ImportError("A Hugging Face encoder needs the package 'transformers': "
                          'pip install "pyg-mmkgc[text]"') from error


def find_model(name_or_path: PathLike) -> Path:
    r"""The folder of a model: a folder itself, or a snapshot of the hub, which is downloaded only
    if the local cache of the hub lacks it.

    Args:
        name_or_path (str or os.PathLike): The folder, or the name on the hub.

    Raises:
        OSError: If there is no such model, here or there, or the hub cannot be reached.
    """
    if (path := Path(name_or_path).expanduser()).is_dir():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name = str(name_or_path)
    try:
        try:
            return Path(snapshot_download(name, local_files_only=True, allow_patterns=_FILES))
        except LocalEntryNotFoundError:
            return Path(snapshot_download(name, allow_patterns=_FILES))
    except (OSError, ValueError) as error:  # A name that cannot be one is a `ValueError`.
        raise OSError(f'There is no model {name!r}: neither a folder, nor in the local cache of '
                      f'the Hugging Face hub, nor could it be downloaded ({_first_line(error)}). '
                      f"Without network: name a folder that holds 'config.json', the tokenizer "
                      f"and 'model.safetensors'") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
