"""The command line's frame: global flags, the commands by groups, and how failures leave (DESIGN 3, 9).

Commands import what they need when they run: the answer to `rrnode status` must not wait for libp2p.
Exit codes: 0 done, 1 refused or failed, 2 the command line itself, 3 no node answers, 4 a fault of ours, 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rrnode.cli import audit, chain, channels, extras, node, payments, relays, setup, wallet, watchers
from rrnode.cli.context import Session, emit, say
from rrnode.errors import ChainUnavailable, StorageFailed, UserError, leaves

# Typer brings its own copy of click since 0.21; its public exception leads to the kinds that it raises, in every version.
_UsageError: type[Any]
_ClickException: type[Any]
_UsageError, _ClickException = typer.BadParameter.__mro__[1:3]

EXIT_FAILED, EXIT_USAGE, EXIT_NO_NODE, EXIT_FAULT, EXIT_INTERRUPTED = 1, 2, 3, 4, 130

app = typer.Typer(
    name="rrnode",
    help="A peer-to-peer node for reactive payment routing over Bitcoin payment channels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (setup, node, payments, watchers, audit, extras):
    group.register(app)
app.add_typer(channels.app, name="channel")
app.add_typer(wallet.app, name="wallet")
app.add_typer(chain.app, name="chain")
app.add_typer(relays.app, name="relay")


def _version(wanted: bool) -> None:
    if wanted:
        from rrnode.version import VERSION

        say(f"rrnode {VERSION}")
        raise typer.Exit


@app.callback()
def _global(
    context: typer.Context,
    datadir: Annotated[
        Path | None,
        typer.Option(envvar="RRNODE_DATADIR", help="The node's directory [default: by network, in your home]."),
    ] = None,
    network: Annotated[
        str, typer.Option(envvar="RRNODE_NETWORK", help="regtest, signet, testnet4 or mainnet [default: regtest].")
    ] = "",
    debug: Annotated[bool, typer.Option(envvar="RRNODE_DEBUG", help="Show where a failure came from.")] = False,
    _v: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    from bootstrap.networks import NETWORKS
    from rrnode.datadir import default_data_dir

    now = context.find_object(Session)
    assert now is not None
    now.debug = debug
    if network and network not in NETWORKS:
        raise UserError(f"there is no network {network[:40]!r}", "known are: " + ", ".join(NETWORKS))
    now.network = network
    now.data_dir = (datadir.expanduser() if datadir else default_data_dir(network or "regtest")).absolute()


def _fail(now: Session, sentence: str, hint: str, code: int) -> int:
    if now.as_json:
        emit({"error": sentence, "try": hint})
    else:
        sys.stderr.write(f"rrnode: {sentence}\n" + (f"try: {hint}\n" if hint else ""))
    return code


def _command_line_error(now: Session, error: Any) -> int:
    if not isinstance(error, _UsageError):
        return _fail(now, error.format_message(), "", EXIT_FAILED)
    if type(error).__name__ == "NoArgsIsHelpError":  # a bare `rrnode` or `rrnode channel`: its help is the answer
        say(error.format_message())
        return EXIT_USAGE
    where = error.ctx.command_path if error.ctx else "rrnode"
    return _fail(now, error.format_message().rstrip("."), f"{where} --help", EXIT_USAGE)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a person must know of several failures: a fault of ours before what can be helped."""
    return min(leaves(group), key=lambda leaf: isinstance(leaf, UserError | ChainUnavailable | StorageFailed))


def _told(now: Session, error: BaseException) -> int:
    """One failure as a sentence, and its exit code."""
    match error:
        case UserError():
            away = type(error).__name__ == "NodeAway"  # by name: the client is loaded only where it is used
            return _fail(now, str(error), error.hint, EXIT_NO_NODE if away else EXIT_FAILED)
        case ChainUnavailable():
            return _fail(
                now, str(error), "check that the chain runs and that [chain] in the configuration names it", EXIT_FAILED
            )
        case StorageFailed():
            return _fail(now, str(error), "check the disk: space, rights; nothing that was agreed is lost", EXIT_FAILED)
        case KeyboardInterrupt():
            return _fail(now, "interrupted", "", EXIT_INTERRUPTED)
        case _:
            return _fail(
                now,
                f"this command failed by a fault of its own ({type(error).__name__}: {error})",
                "run it again with: rrnode --debug ..., and report what it shows",
                EXIT_FAULT,
            )


def _hoisted(words: list[str]) -> list[str]:
    """Global flags to the front, wherever they were typed; `chain serve` has a `--datadir` of its own."""
    front: list[str] = []
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        own = [named for named in rest if not named.startswith("-")][:2] == ["chain", "serve"]
        if word == "--":
            return front + rest + [word, *left]
        if word.partition("=")[0] in ("--datadir", "--network") and not own:
            if "=" in word:
                front.append(word)
            elif left:
                front += [word, left.pop(0)]
            else:
                rest.append(word)
        elif word == "--debug":
            front.append(word)
        else:
            rest.append(word)
    return front + rest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; `sys.argv` when None.

    Returns:
        The exit code.
    """
    now = Session()
    words = list(sys.argv[1:] if arguments is None else arguments)
    now.as_json = "--json" in words  # so that even a wrong command line is answered in JSON
    try:
        result = app(_hoisted(words), prog_name="rrnode", standalone_mode=False, obj=now)
        return result if isinstance(result, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        return _fail(now, "interrupted", "", EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit is silent too
        return EXIT_FAILED
    except BaseExceptionGroup as group:
        if now.debug:
            raise
        return _told(now, _first(group))
    except Exception as error:  # the last frame before the user: no traceback unless asked for
        if isinstance(error, _ClickException):
            return _command_line_error(now, error)
        if now.debug:
            raise
        return _told(now, error)
