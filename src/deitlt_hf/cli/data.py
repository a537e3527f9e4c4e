"""`deitlt data`: build a data set that the package knows by name, or look at one's own before training."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitlt_hf.cli.console import OneLineParser
from deitlt_hf.cli.next_steps import say_next

if TYPE_CHECKING:
    from deitlt_hf.cards.dataset_card import BuiltDataset
    from deitlt_hf.data.benchmarks import Benchmark


def run(argv: Sequence[str]) -> None:
    """Run `deitlt data build` or `deitlt data inspect` with the arguments in `argv`."""
    parser = OneLineParser(prog="deitlt data", description="Build a data set that has a name, or inspect any.")
    parser.add_argument("action", choices=("build", "inspect"), help="`deitlt data ACTION --help` says more")
    if argv[:1] == ["inspect"]:
        from deitlt_hf.cli import data_inspect

        data_inspect.run(argv[1:])
        return
    parser.parse_args(argv[:1])
    _build(argv[1:])


def _build(argv: Sequence[str]) -> None:
    from deitlt_hf.data.benchmarks import BENCHMARKS

    parser = _build_parser(BENCHMARKS)
    args = parser.parse_args(argv)
    benchmark = BENCHMARKS[args.name]
    if args.out is None and args.push_to_hub is None:
        parser.error("pass --out DIR, --push_to_hub REPO, or both")
    if args.private and args.push_to_hub is None:
        parser.error("--private goes with --push_to_hub REPO")
    settings = _settings(parser, args, BENCHMARKS)

    import datasets

    from deitlt_hf.cards.dataset_card import BuiltDataset
    from deitlt_hf.data.loading import class_counts
    from deitlt_hf.files import check_is_free
    from deitlt_hf.hub.dataset_directory import has_references, push_dataset, write_dataset
    from deitlt_hf.hub.repository import check_hub

    datasets.disable_progress_bars()
    if args.out is not None:
        check_is_free(args.out)
    if args.push_to_hub is not None:
        args.push_to_hub = check_hub(args.push_to_hub, kind="dataset", private=args.private)
        if not args.private and benchmark.licence == "other":  # printed before hours of building
            note = f"anyone will see these images; {benchmark.licence_note} --private keeps them to you"
            print(f"deitlt data: {note}", file=sys.stderr)
    splits = benchmark.build(args.data_dir, **settings)
    built = BuiltDataset(
        benchmark=benchmark,
        splits=splits,
        class_counts=class_counts(splits["train"]),
        # On the hub, a path on this machine is of no use.
        embedded=args.embed or args.push_to_hub is not None or not has_references(splits["train"]),
        selection=_selection(benchmark, **settings) if benchmark.imbalance_factor is not None else "",
    )
    with tempfile.TemporaryDirectory() as scratch:
        directory = args.out or Path(scratch) / args.name
        write_dataset(built, directory, location=args.push_to_hub)
        _print_summary(built)
        if args.out is not None:
            print(f"saved to {args.out}")
        if args.push_to_hub is not None:
            print(f"pushed to {push_dataset(directory, args.push_to_hub, args.private)}")
    place = args.out or args.push_to_hub
    say_next(["data", "inspect", place], ["teacher", "--data", place])


def _settings(parser: OneLineParser, args: argparse.Namespace, benchmarks: dict[str, Benchmark]) -> dict[str, Any]:
    """The arguments of `Benchmark.build` from the flags; refuses flags that the data set does not use."""
    of_selection = {"imbalance_factor": args.imbalance_factor, "profile": args.imbalance_profile, "seed": args.seed}
    of_lists = {"lists_dir": args.lists_dir, "check_lists": False if args.no_check else None}
    selected = [name for name, benchmark in benchmarks.items() if benchmark.imbalance_factor is not None]
    listed = [name for name, benchmark in benchmarks.items() if benchmark.published]
    for flags, settings, names in (
        ("--imbalance_factor, --imbalance_profile and --seed", of_selection, selected),
        ("--lists_dir and --no_check", of_lists, listed),
    ):
        if args.name not in names and any(value is not None for value in settings.values()):
            parser.error(f"{flags} go with {', '.join(names)}, not with {args.name}")
    return {name: value for name, value in (of_selection | of_lists).items() if value is not None}


def _selection(benchmark: Benchmark, imbalance_factor: float | None = None, profile: str = "exp", seed: int = 0) -> str:
    return f"imbalance factor {imbalance_factor or benchmark.imbalance_factor:g}, profile {profile}, seed {seed}"


def _print_summary(built: BuiltDataset) -> None:
    counts = built.class_counts
    sizes = ", ".join(f"{name} {split.num_rows}" for name, split in built.splits.items())
    print(
        f"{built.benchmark.title}: {sizes} images, {len(counts)} classes, largest {max(counts)}, "
        f"smallest {min(counts)} training images{'' if built.embedded else '; images are referenced, not copied'}"
    )


def _build_parser(benchmarks: dict[str, Benchmark]) -> OneLineParser:
    factors = {name: each.imbalance_factor for name, each in benchmarks.items() if each.imbalance_factor is not None}
    defaults = ", ".join(f"{name} {factor:g}" for name, factor in factors.items())
    parser = OneLineParser(
        prog="deitlt data build",
        description="Build a long-tailed data set as Parquet files with a card and a picture of its class counts.",
        epilog=f"Images: {'; '.join(f'{name}: {each.origin}' for name, each in benchmarks.items())}.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("name", metavar="NAME", choices=list(benchmarks), help=", ".join(benchmarks))
    add("--out", metavar="DIR", type=Path, help="directory to make")
    add("--push_to_hub", metavar="REPO", help="data set on the hub; embeds the images")
    add("--private", action="store_true", help="make it a private one")
    add("--data_dir", metavar="DIR", type=Path, help="where the source's images are")
    add("--lists_dir", metavar="DIR", type=Path, help="where its lists are, if elsewhere")
    factor_help = f"largest class count / smallest (default: {defaults})"
    add("--imbalance_factor", metavar="F", type=float, help=factor_help)
    add("--imbalance_profile", choices=("exp", "step"), help="of the class counts (default: exp)")
    add("--seed", type=int, help="of the selection of training images (default: 0)")
    add("--embed", action="store_true", help="copy the images into the files, byte by byte")
    add("--no_check", action="store_true", help="take lists that are not the published ones")
    return parser
