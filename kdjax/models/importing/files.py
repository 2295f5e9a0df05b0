"""Files of named tensors."""

import os
import zipfile
from pathlib import Path

import numpy as np


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors in an ``.npz`` or ``.safetensors`` file, by name.

    A ``.pth`` file is a pickle, and loading a pickle can run any code in it. So it is not read; the
    error says how to convert it with PyTorch.

    Args:
      path: the path of the file.

    Raises:
      ValueError: if the file is of another kind or damaged, or safetensors is not installed.
      OSError: if it cannot be opened.
    """
    path = Path(os.path.expanduser(path))
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    raise ValueError(
        f"{path} is neither .npz nor .safetensors. PyTorch converts a state_dict with: "
        'python -c "import numpy, torch; '
        f"s = torch.load({path.name!r}, weights_only=True, map_location='cpu'); "
        f'numpy.savez({path.stem + ".npz"!r}, **{{k: v.numpy() for k, v in s.items()}})"'
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        # Opened here, because NumPy leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    # NumPy takes a file that is no archive for a pickle, or for a single array.
    except (zipfile.BadZipFile, AttributeError, EOFError, TypeError, ValueError) as error:
        reason = str(error)
        if isinstance(error, (AttributeError, TypeError)):
            reason = "it holds a single array"
        if "pickle" in reason:  # NumPy's message suggests to unpickle it.
            archive = zipfile.is_zipfile(path)
            reason = "it holds other objects" if archive else "it is no npz archive"
        raise ValueError(f"{path} is not an .npz file of numbers: {reason}") from None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        raise ValueError(
            f"reading {path} needs safetensors: pip install safetensors, or save it as .npz"
        ) from None
    with open(path, "rb"):  # Unlike safetensors' error, this one names the file.
        pass
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
