"""Exit codes and one-line errors for every command line. Imports nothing heavy.

0 done, 1 the run failed, 2 bad input, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

from graftwork.errors import GraftError
from graftwork.lightning.primary import primary

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
#: seconds after which an interrupt that fell into an import is tried again
RETRY = 0.05
#: the file of the frames that import
IMPORTING = "<frozen importlib._bootstrap>"


def guarded(run: Callable[[], int | None], *, prog: str, verbose: bool = False) -> int:
    """Run a command and turn whatever it raises into an exit code and one line on stderr.

    Args:
        run: the command; returns its exit code, or `None` for 0.
        prog: the command's name, the first word of each message.
        verbose: print the traceback of a failed run (never that of a `GraftError`).
    """
    with _noticed() as interrupts:
        return _guarded(run, prog, verbose, interrupts)


def _guarded(run: Callable[[], int | None], prog: str, verbose: bool, interrupts: list[int]) -> int:
    try:
        return run() or DONE
    except KeyboardInterrupt:
        return _interrupted(prog)
    except GraftError as error:
        return _say(prog, f"error: {error}", BAD_INPUT)
    except BrokenPipeError:
        # the reader of our output went away (`medseg schema | head`): nothing is left to tell it
        sys.stdout = None
        return DONE
    except SystemExit as stop:
        if _caused_by_interrupt(stop):
            return _interrupted(prog)
        if isinstance(stop.code, str):
            return _say(prog, stop.code, FAILED)
        return stop.code or DONE
    except MemoryError:
        return _say(prog, "failed: out of memory; use a smaller batch or patch", FAILED)
    except Exception as error:
        if interrupts:
            return _interrupted(prog)
        if bad := _bad_input_below(error):
            return _say(prog, f"error: {bad}", BAD_INPUT)
        if (
            type(error).__name__ == "MisconfigurationException"
        ):  # Lightning's word for a bad setting
            return _say(prog, f"error: trainer: {error}", BAD_INPUT)
        if verbose:
            traceback.print_exc()
            return FAILED
        reason = str(error) or "no message"
        return _say(
            prog, f"failed: {type(error).__name__}: {reason} (--verbose shows where)", FAILED
        )


@contextlib.contextmanager
def _noticed() -> Iterator[list[int]]:
    """Remember each Ctrl-C, and let one that falls into an import wait for the import's end.

    There it can come out as a library's own error, be swallowed (torch takes numpy for absent then), or end the process
    (torch's C++ code). A second Ctrl-C does not wait.
    """
    seen: list[int] = []
    waits: list[bool] = []
    timers: list[threading.Timer] = []

    def again() -> None:
        waits[:] = [True]
        os.kill(os.getpid(), signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        ours_again = bool(waits)
        waits.clear()
        if not ours_again:
            seen.append(number)
        if len(seen) == 1 and _imports(frame):
            timer = threading.Timer(RETRY, again)
            timer.daemon = True
            timers[:] = [timer]
            timer.start()
            return
        signal.default_int_handler(number, frame)

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        for timer in timers:
            timer.cancel()
        if ours and signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported at this frame."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            return True
        frame = frame.f_back
    return False


def _say(prog: str, text: str, code: int) -> int:
    print(f"{prog}: {text}", file=sys.stderr, flush=True)
    return code


def _interrupted(prog: str) -> int:
    return _say(prog, "interrupted", INTERRUPTED) if primary() else INTERRUPTED


def _caused_by_interrupt(error: BaseException) -> bool:
    """Lightning answers Ctrl-C with `sys.exit(1)`; the interrupt is then the exit's context."""
    context = error.__context__
    return isinstance(context, KeyboardInterrupt) or (
        context is not None and _caused_by_interrupt(context)
    )


def _bad_input_below(error: BaseException) -> GraftError | None:
    """A `GraftError` that a library wrapped in its own exception is still the user's to mend."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, GraftError):
            return below
        below = below.__cause__
    return None
