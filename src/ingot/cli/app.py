"""The command `ingot`: its verbs, and what stands in `ingot --help`."""

from __future__ import annotations

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import Verbs
from ingot.cli.registry.group import registry
from ingot.cli.verbs.demo import demo
from ingot.cli.verbs.doctor import doctor
from ingot.cli.verbs.export_lora import export_lora
from ingot.cli.verbs.extract import extract
from ingot.cli.verbs.imatrix import imatrix
from ingot.cli.verbs.init import init
from ingot.cli.verbs.inspect import inspect
from ingot.cli.verbs.merge import merge
from ingot.cli.verbs.plan import plan
from ingot.cli.verbs.quantize import quantize
from ingot.cli.verbs.release import release
from ingot.cli.verbs.validate import validate
from ingot.cli.verbs.verify import verify
from ingot.version import __version__

_EXAMPLES = (
    ("ingot demo", "A small model and two adapters: released, checked and traced, in a minute."),
    ("ingot plan ./llama-3.1-8b ./support-lora", "What a merge would do and cost; writes nothing."),
    ("ingot merge ./llama-3.1-8b ./support-lora -o ./llama-3.1-8b-support", "The same plan, executed."),
    ("ingot merge org/base@main ./style=0.7 ./facts=0.3 -o ./both", "Two adapters, each with a weight."),
    ("ingot merge ./llama-3.1-8b ./support-lora -o ./gguf --to gguf:Q4_K_M", "The same, as one GGUF, in one pass."),
    ("ingot verify ./llama-3.1-8b-support --read", "Every byte against the artifact's record."),
    ("ingot validate ./llama-3.1-8b-support --reference ./llama-3.1-8b+./support-lora --samples tests.jsonl",
     "Is it the model that was trained?"),
    ("ingot release release.yaml", "All of that from one recipe, which `ingot init` writes."),
    ("ingot registry trace ./served/model-Q4_K_M.gguf", "From a served file back to the training run."),
)  # fmt: skip
_EPILOG = (
    "Exit codes: 0 ok, 1 a check failed, 2 usage, 10 base, 11 adapter, 12 they do not fit, 13 not finite, "
    "14 disk or memory, 15 output, 16 unsafe input, 17 input changed, 18 component missing, 70 a bug, 130 interrupted."
)


@click.group(cls=Verbs, examples=_EXAMPLES, epilog=_EPILOG, invoke_without_command=True, subcommand_metavar="VERB ...")
@click.version_option(__version__, prog_name="ingot", message="%(prog)s %(version)s")
@output_flags
@click.pass_context
def app(context: click.Context) -> None:
    """Casts a base model and its LoRA adapters into one artifact: streamed, accounted for, proven, recorded."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _verb in (
    plan, merge, quantize, verify, validate, init, release, registry, extract, imatrix, export_lora, inspect, demo,
    doctor,
):  # fmt: skip
    app.add_command(_verb)
