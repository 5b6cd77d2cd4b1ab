"""The shared command line of all scripts: flags, help and errors.

Import this module before Keras: it silences TensorFlow's start-up messages.
"""

import dis
import errno
import inspect
import os
import sys
import textwrap
import types
import zipfile
from collections.abc import Callable

import quiet_tensorflow  # noqa: F401, first: it silences TensorFlow

# isort: split

import keras
from absl import app, flags

import keras_resadapt

FLAGS = flags.FLAGS
EXAMPLES = os.path.dirname(os.path.abspath(__file__))
HELP = {"--help", "-help", "-h", "-?", "--helpshort", "--helpfull"}
# Errors of the operating system that a user can mend, wherever they occur
USER_ERRNOS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.EEXIST),
    *(errno.ENOTDIR, errno.EISDIR),
}
PACKAGE = os.path.dirname(os.path.abspath(keras_resadapt.__file__))


def run(main: Callable[[], None], argv: list[str] | None = None) -> None:
    """Parses the flags and calls the script's main function.

    `--help` prints all flags of the script and exits with code 0. An error
    that the user can correct is printed in one line, without a traceback. The
    exit code is then 1, or 2 for an error of the command line.

    Args:
        main: The script's main function.
        argv: The command line, including the name of the script; by default
            `sys.argv`.
    """
    parse_flags(sys.argv if argv is None else argv, inspect.getmodule(main))
    try:
        main()
    except app.UsageError as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        fail("interrupted.", 130)
    except Exception as error:
        if not is_user_error(error):
            raise
        fail(str(error), 1)


def fail(message: str, code: int) -> None:
    """Exits with a message of one line on stderr and an exit code."""
    print("error:", *message.split(), file=sys.stderr)
    sys.exit(code)


def parse_flags(argv: list[str], script: types.ModuleType) -> None:
    """Parses the flags of a command line, which has no other arguments."""
    if HELP.intersection(argv[1:]):
        print_help(script)
        sys.exit(0)
    try:
        _, *rest = FLAGS(argv)
    except flags.Error as error:
        fail(str(error), 2)
    if rest:
        before = argv[argv.index(rest[0]) - 1]
        hint = f" Did you mean {before}={rest[0]}?" if before.startswith("-") else ""
        fail(
            "flags must be written as --NAME=VALUE, and there are no other "
            f"arguments. Received: {rest[0]!r}.{hint}",
            2,
        )


def own_flags() -> list[flags.Flag]:
    """Returns the flags that the modules in this folder define."""
    modules = [
        sys.argv[0] if name == "__main__" else name
        for name, module in list(sys.modules.items())
        if os.path.dirname(os.path.abspath(getattr(module, "__file__", None) or ""))
        == EXAMPLES
    ]
    by_module = FLAGS.flags_by_module_dict()
    return [flag for name in modules for flag in by_module.get(name, ())]


def print_help(script: types.ModuleType) -> None:
    """Prints a script's docstring and all its flags."""
    print(script.__doc__)
    for flag in own_flags():
        print_flag(flag)


def print_flag(flag) -> None:
    """Prints the name, the values, the default and the help of a flag."""
    print(f"  --[no]{flag.name}" if flag.boolean else f"  --{flag.name}")
    text = flag.help
    if flag.default is not None:
        text += f" [default: {flag.default_as_str}]"
    print(textwrap.fill(text, 80, initial_indent=" " * 6, subsequent_indent=" " * 6))


def is_user_error(error: Exception) -> bool:
    """Returns whether an exception reports an error that the user can correct.

    These are the exceptions that the package and its scripts raise themselves,
    and those of the operating system about files. All others are faults of the
    program, whose traceback matters.
    """
    if isinstance(error, OSError) and error.errno in USER_ERRNOS:
        return True
    kinds = ValueError | TypeError | OSError | ImportError | RuntimeError
    if not isinstance(error, kinds):
        return False
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    path = os.path.abspath(code.co_filename)
    return (
        path.startswith((PACKAGE + os.sep, EXAMPLES + os.sep))
        # By a `raise` statement, not by an operation that failed
        and dis.opname[code.co_code[traceback.tb_lasti]] == "RAISE_VARARGS"
    )


def load_network(flag: str, path: str, **kwargs) -> keras.Model:
    """Loads the network of a flag.

    Args:
        flag: The name of the flag, for the message.
        path: The `.keras` file.
        **kwargs: Further arguments of `keras.saving.load_model`.

    Raises:
        app.UsageError: If the file is missing or is no network of this
            package.
    """
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        raise app.UsageError(
            f"--{flag} must be an existing .keras file. Received: --{flag}={path}"
        )
    model = keras.saving.load_model(path, **kwargs)
    if not hasattr(model, "operating_points"):
        raise app.UsageError(
            f"--{flag} must be a network of keras_resadapt. "
            f"Received: --{flag}={path}, which holds a {type(model).__name__}"
        )
    return model
