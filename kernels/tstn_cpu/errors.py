"""What can go wrong with a kernel on a CPU."""


class UnsupportedOperationError(NotImplementedError):
    """A kernel has an operation that cannot be run on a CPU."""


class OutOfBoundsError(IndexError):
    """In checked mode: a kernel would access memory outside of a tensor."""
