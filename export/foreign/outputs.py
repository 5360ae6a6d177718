"""Which of the tensors that a PyTorch module returns is the scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from fctl.runtime.errors import CheckpointError, InputError

_FIELDS = ("out", "logits")  # of torchvision's dictionaries, and of transformers' outputs


def chosen(output: object, name: str | None, origin: str) -> Tensor:
    """The scores among what a module returns.

    Args:
        output: What it returns: a tensor; or a tuple, list, dictionary, named tuple or object that holds tensors.
        name: The name of the scores, with dots between the names of what holds them; None where it is clear.
        origin: The name of the module in error messages.

    Returns:
        The tensor of that name; the only one; or the one that is called "out" or "logits".

    Raises:
        CheckpointError: There is no tensor.
        InputError: There are several and none is named, or there is none of that name.
    """
    found = dict(_tensors(output, ""))
    if name is not None:
        if name not in found:
            raise InputError(f"{origin} has no output {name!r}; it has {_listed(found)}", subject="`output`")
        return found[name]
    if len(found) == 1:
        return next(iter(found.values()))
    named = [tensor for key, tensor in found.items() if key.rpartition(".")[2] in _FIELDS]
    if len(named) == 1:
        return named[0]
    if not found:
        raise CheckpointError(
            subject=origin,
            expected=f"a tensor, or {' or '.join(_FIELDS)} in what the module returns",
            found=type(output).__name__,
        )
    raise InputError(
        subject=origin, expected="one output", found=f"{len(found)}", remedy=f"choose with `output`: {_listed(found)}"
    )


def _tensors(output: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """All tensors in what a module returns, by their names."""
    if isinstance(output, Tensor):
        yield name, output
    elif not isinstance(output, (str, bytes)):
        for key, part in _parts(output):
            yield from _tensors(part, f"{name}.{key}" if name else key)


def _parts(output: object) -> Iterator[tuple[str, object]]:
    """What a container holds, by names or else by numbers."""
    if isinstance(output, Mapping):
        yield from ((str(key), part) for key, part in output.items())
    elif isinstance(output, tuple) and hasattr(output, "_fields"):
        yield from zip(output._fields, output, strict=True)
    elif isinstance(output, Sequence):
        yield from ((str(index), part) for index, part in enumerate(output))
    else:
        yield from getattr(output, "__dict__", {}).items()


def _listed(tensors: Mapping[str, Tensor]) -> str:
    """Names and shapes of tensors, the batch called N."""
    return ", ".join(f"{key} (N{''.join(f', {side}' for side in tensor.shape[1:])})" for key, tensor in tensors.items())
