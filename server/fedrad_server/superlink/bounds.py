"""How much one site may push, and whose request is being worked on: for the guard, for the store behind it, and for `launch`."""

from contextvars import ContextVar

MOST_PER_ANSWER = 512 * 1024 * 1024  # bytes of pieces
MOST_PER_SITE = 2 * MOST_PER_ANSWER  # bytes that lie in the store: an answer, and the one before it that nobody fetched
MOST_PARAMETERS = (MOST_PER_ANSWER - 16 * 1024 * 1024) // 4  # of a model: as float32, beside all else that is in an answer

PUSHING: ContextVar[str] = ContextVar("PUSHING", default="")  # the site; empty: the coordinator's own programs
