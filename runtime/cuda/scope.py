"""One context of a GPU, and all that lives in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from weakref import WeakSet, finalize

from ..errors import EngineError
from .provider import Api, Context, Native


class Scope:
    """One context of a GPU, and what was made in it and is not freed yet.

    Everything that was made in the context refers to the scope, so that the scope lives as long as there is something
    to free.

    Attributes:
        api: The provider.
        context: The context.
        alive: What is to be freed when the device is closed.
    """

    def __init__(self, api: Api, context: Context) -> None:
        self.api, self.context = api, context
        self.alive: WeakSet[Owned] = WeakSet()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the context current in this thread, and restore the previous one afterwards; may be nested."""
        self.api.push(self.context.handle)
        try:
            yield
        finally:
            self.api.pop()


class Owned:
    """Something on a GPU that is freed once: by `free`, by the garbage collector or at exit, whichever comes first.

    Args:
        scope: The context that it was made in.
        native: What the provider made.
    """

    def __init__(self, scope: Scope, native: Native) -> None:
        self._scope, self._api = scope, scope.api
        self._held = [native]
        self._end = finalize(self, _free, scope, self._held)
        scope.alive.add(self)

    @property
    def _handle(self) -> object:
        """The provider's object; raises EngineError where it is freed."""
        if not self._held:
            raise EngineError(f"this {type(self).__name__.lower()} of the GPU is freed: make a new one")
        return self._held[0].handle

    def free(self) -> None:
        """Free it now; it must be idle. Idempotent."""
        self._end()


def _free(scope: Scope, held: list[Native]) -> None:
    """Free what is held; not a method, for a finalizer must not refer to what it finalizes."""
    with suppress(EngineError), scope.active():  # nothing to be done: the driver has ended, or a kernel failed
        held.pop().free()  # the only reference: PyCUDA frees what has none left, and must do so inside the context
