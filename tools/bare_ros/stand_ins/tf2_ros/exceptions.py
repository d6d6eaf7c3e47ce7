"""Why a transform can't be given."""


class TransformException(Exception):
    """Any failure of a lookup."""


class ConnectivityException(TransformException):
    """Both frames exist, in trees without a connection."""


class ExtrapolationException(TransformException):
    """The time lies outside what is known of a frame on the way."""


class InvalidArgumentException(TransformException):
    """A frame id that no frame can have."""


class LookupException(TransformException):
    """A frame that nobody has named yet, or a tree with a loop."""


class TimeoutException(TransformException):
    """The answer took too long."""
