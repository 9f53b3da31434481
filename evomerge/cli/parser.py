"""Every command, its options and its help."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from evomerge import __version__
from evomerge.cli import models, placement, rounds, runs, scores
from evomerge.errors import did_you_mean, one_of
from evomerge.visible import visible

EPILOG = """\
start here:
  evomerge demo                       a real search on tiny models, no download
  evomerge new runs/mine --base M --source chat=M --source other=M
                                      write a first run.yaml
  evomerge search runs/mine           search; again, it resumes after a stop
  evomerge merge runs/mine -o merged  the winner, as a model folder

exit status: 0 done, 1 failed at run time (resume it), 2 the input is wrong, 130 stopped by you
"""


class Wrapped(argparse.RawDescriptionHelpFormatter):
    """Paragraphs as wide as the terminal; one that begins with a space is an example, and stays as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        found = []
        for paragraph in text.split("\n\n"):
            whole = paragraph if "\n " in f"\n{paragraph}" else textwrap.fill(paragraph, width)
            found.append(whole)
        return "\n\n".join(found)


class Parser(argparse.ArgumentParser):
    """Options are spelled whole; what is misspelled is answered with what was meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """A word where one of several is expected."""
        if action.choices is not None and value not in action.choices:
            name = "/".join(action.option_strings) or str(action.metavar or action.dest)
            known = [str(choice) for choice in action.choices]
            what = "no such command" if name == "COMMAND" else "no such choice"
            raise argparse.ArgumentError(
                None, f"{name} {value!r}: {what}{did_you_mean(value, known)}; {one_of(known)}"
            )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            option = unknown[0].partition("=")[0]
            hint = did_you_mean(option, known)
            self.error(
                f"{unknown[0]}: no such option{hint}"
                if option.startswith("-")
                else f"{unknown[0]}: one argument too many"
            )
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """One message, and where the help is."""
        self.exit(2, f"{self.prog}: {visible(message)}\nsee: {self.prog} --help\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser; parsed arguments hold the command to run as ``run``."""
    parser = Parser(
        prog="evomerge",
        description="Find the best merge of a few descendants of one language model.",
        epilog=EPILOG,
        formatter_class=Wrapped,
    )
    parser.add_argument("--version", action="version", version=f"evomerge {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(
        name: str,
        run: Callable[[argparse.Namespace], None],
        short: str,
        more: str = "",
        *,
        looks: bool = False,
        makes: Sequence[str] = (),
    ) -> Any:
        """A command that only ``looks`` at what it is given has a wall around it; it ``makes`` what these options
        name, besides what it is to write."""
        sub = commands.add_parser(
            name,
            help=short,
            description=f"{short[0].upper()}{short[1:]}.\n\n{more}".strip(),
            formatter_class=Wrapped,
        )
        sub.set_defaults(run=run, looks=looks, makes=makes)
        return sub

    def allow(sub: Any) -> None:
        sub.add_argument(
            "--allow",
            metavar="TOPIC",
            nargs="+",
            default=[],
            help="merge models whose configs give weights another meaning in TOPIC, as `allow` in the recipe does: "
            "rope, window, activation, ...",
        )

    sub = command(
        "demo",
        runs.demo,
        "search over three tiny models that come with evomerge",
        "A base, a chat parent that follows instructions in English only, and a parent that knows\n"
        "Indonesian, Vietnamese and Thai. Neither answers instructions in those languages; a good\n"
        "merge does. Takes a few minutes on two cores and downloads nothing.",
    )
    sub.add_argument(
        "--run",
        dest="run_dir",
        metavar="DIR",
        default="runs/demo",
        help="folder of the run (default: %(default)s)",
    )
    placement.add_options(sub)

    sub = command(
        "new",
        models.new,
        "write a first run.yaml from what the models are",
        "Reads the models' configs, tokenizers, names and, of folders, cards (of the hub no weights), chooses a search\n"
        "space, a fitness file, a tokenizer and a budget, says why, and writes DIR/run.yaml, which `evomerge check`\n"
        "accepts. It is commented and short: change what you know better.\n\n"
        "  evomerge new runs/mine --base org/base --source chat=org/chat\n"
        "  evomerge new runs/mine --base ./base --source a=./a --source b=./b \\\n"
        "    --texts code=code.txt --texts law=law.jsonl\n"
        "  evomerge new --list\n\n"
        "Call the source that follows instructions `chat`, one that reasons at length `long`, one of a language by its\n"
        "code (`th`): fitness files know them by these names.",
        looks=True,
        makes=("folder",),
    )
    sub.add_argument(
        "folder", metavar="DIR", nargs="?", help="folder to make, with a run.yaml in it"
    )
    sub.add_argument("--base", metavar="MODEL", help="what the sources were trained from")
    sub.add_argument(
        "--source",
        metavar="NAME=MODEL",
        action="append",
        default=[],
        help="a model to merge: a folder, hub id, MODEL+ADAPTER or recipe.yaml; once for each",
    )
    sub.add_argument("--space", metavar="NAME|FILE", help="search space (default: chosen)")
    sub.add_argument("--fitness", metavar="NAME|FILE", help="fitness file (default: chosen)")
    sub.add_argument(
        "--texts",
        metavar="NAME=FILE",
        action="append",
        default=[],
        help="instead: texts that a good merge finds likely (bits per byte), .jsonl or passages separated by blank "
        "lines; once for each skill",
    )
    sub.add_argument(
        "--evaluations",
        type=int,
        metavar="N",
        help="merges to score (default: by the models' size)",
    )
    sub.add_argument("--force", action="store_true", help="replace an existing run.yaml")
    sub.add_argument(
        "--list",
        action="store_true",
        help="show the search spaces, fitness files and runs that come with evomerge",
    )

    sub = command(
        "search",
        runs.search,
        "start a search, or resume it if it was started before",
        "RUN_DIR holds run.yaml, the whole job. Progress is kept in RUN_DIR/journal.jsonl after every\n"
        "evaluation: stop at any time (Ctrl-C, kill, power cut) and run the same command to go on. The\n"
        "options below place the work; none of them can change the result.",
    )
    sub.add_argument("run_dir", metavar="RUN_DIR", help="folder with a run.yaml, or that file")
    placement.add_options(sub)

    sub = command(
        "resume",
        runs.resume,
        "resume a search, also with more budget; refuses if there is nothing to resume",
        "With more budget the search goes on, also one that had ended: then another shortlist and another\n"
        "table follow. That is a second look at the report items, and the table says so. The extension is\n"
        "written into the journal; run.yaml stays as it is.",
    )
    sub.add_argument("run_dir", metavar="RUN_DIR", help="folder of a started search")
    more = sub.add_argument_group("more budget: +N for so much more, or N for a new total")
    for name in runs.BUDGETS:
        more.add_argument(f"--{name}", metavar="+N", help=f"of the budget of {name}")
    placement.add_options(sub)

    sub = command(
        "add-parent",
        runs.add_parent,
        "go on from a search with another model to merge: a new run that starts from its best merges",
        "RUN_DIR stays as it is: a source more is another search, as every score is relative to the parents. The\n"
        "new folder has its run.yaml with NAME among the sources, and its best merges as known recipes, scored\n"
        "first: the winner, the shortlist, then the best by search score. RUN_DIR need not be finished. What it\n"
        "has is read when the new search starts. The space stands in the new run.yaml: look it over.\n\n"
        "  evomerge add-parent runs/mine maths=org/maths-model\n\n"
        "With --method opcm nothing is searched: one recipe adds the model to the winner, without the part of it\n"
        "that lies where the winner already is strong (opcm; see `evomerge methods opcm`).",
    )
    sub.add_argument("run_dir", metavar="RUN_DIR", help="folder of a started search")
    sub.add_argument(
        "parent",
        metavar="NAME=MODEL",
        help="a name that is free, and a folder, hub id or recipe.yaml",
    )
    sub.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="folder to make (default: RUN_DIR-NAME beside RUN_DIR)",
    )
    sub.add_argument(
        "--best",
        type=int,
        metavar="N",
        help="merges of RUN_DIR to score first (default: 8)",
    )
    sub.add_argument(
        "--method", choices=("opcm",), help="write a recipe instead, which merges by this method"
    )

    sub = command(
        "rounds",
        rounds.rounds,
        "train branches by a command of yours, search for their best merge, and go on from that",
        "FILE is a rounds.yaml (see docs/rounds.md): where to start, the branches, the training command with {model},\n"
        "{branch}, {round} and {out} in it, how many rounds, and the search that merges what comes of it. The command is\n"
        "executed once for each branch and round; `evomerge check FILE` shows it. Stop at any time and run the same\n"
        "command to go on: no training that ended well is repeated.",
    )
    sub.add_argument("file", metavar="FILE", help="a rounds.yaml, or its folder")
    placement.add_options(sub)

    sub = command(
        "status",
        runs.status,
        "show how far a search is and whether it runs, from its folder alone",
        "Works while the search runs, and without its models or tasks at hand.",
        looks=True,
    )
    sub.add_argument("run_dir", metavar="RUN_DIR")
    sub.add_argument("--json", action="store_true", help="machine-readable")
    sub.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=5.0,
        metavar="SECONDS",
        help="show it again every so many seconds (5) until the search ends; Ctrl-C ends the watching only",
    )

    sub = command(
        "report",
        runs.report,
        "show what a search found, as text or as one page with pictures",
        "From the record alone, also while the search runs. Without -o the text of report.md is printed. The\n"
        "page needs no network and runs no script: mail it, print it, put it on any server.\n\n"
        "--ablate N scores first: the winner, and up to N - 1 variants of it without a parent or a part, on the\n"
        "select items. It executes what the search did, keeps what it finds in RUN_DIR/ablation.json, and every\n"
        "report of the run has it from then on.\n\n"
        "  evomerge report runs/mine -o mine.html\n"
        "  evomerge report runs/mine --ablate 8 -o mine.html\n"
        "  evomerge report runs/mine --serve       # looks again while the search goes on",
        looks=True,
    )
    sub.add_argument("run_dir", metavar="RUN_DIR")
    sub.add_argument(
        "-o", "--output", metavar="FILE", help="file to write: .html is the page, .md the text"
    )
    sub.add_argument(
        "--serve",
        type=int,
        nargs="?",
        const=8750,
        metavar="PORT",
        help="serve the page to this machine's browsers alone (default port: %(const)s)",
    )
    sub.add_argument(
        "--ablate",
        type=int,
        metavar="N",
        help="measure first why the winner won, by at most N evaluations of the select items",
    )
    sub.add_argument("--device", help="of --ablate: cpu or cuda (default: cuda if there is any)")
    sub.add_argument(
        "--force", action="store_true", help="replace an existing file, and an ablation.json"
    )

    sub = command(
        "export",
        runs.export,
        "write a recipe of a search as YAML, or all its evaluations for other tools",
        "By default the winner (before the end: the best so far, by its search score). For mergekit\n"
        "(0.1.5) the models keep the names given in run.yaml; where methods differ between layers or\n"
        "roles the file holds several merges, for mergekit-multi. What mergekit would merge to other\n"
        "tensors is refused with the reason.\n\n"
        "csv and parquet have a row an evaluation: genes, objectives with their errors, score, cost. optuna\n"
        "is a study in an SQLite file, which optuna-dashboard opens.",
        looks=True,
    )
    sub.add_argument(
        "run_dir", metavar="RUN_DIR|RECIPE.yaml", help="a run; or a recipe, with --format mergekit"
    )
    sub.add_argument(
        "-o", "--output", metavar="FILE", help="file to write (default: standard output)"
    )
    sub.add_argument(
        "--format",
        choices=("evomerge", "mergekit", *runs.TABLES),
        default="evomerge",
        help="default: %(default)s",
    )
    sub.add_argument("--candidate", type=int, metavar="ID", help="another candidate, by its number")
    sub.add_argument(
        "--pareto",
        metavar="DIR",
        help="write the confirmed front into DIR instead: its recipes, a table (front.md), a slider (slider.yaml)",
    )
    sub.add_argument(
        "--unconfirmed",
        metavar="DIR",
        help="write the front as search estimates say it is: best of many noisy scores",
    )
    sub.add_argument("--force", action="store_true", help="replace existing files")

    sub = command(
        "import",
        models.convert,
        "turn a mergekit file into a recipe, or a mergekit-evolve file into a run.yaml",
        "The recipe gives the tensors that mergekit 0.1.5 gives, within rounding: what it does counts,\n"
        "not what its file seems to say. Unknown keys are refused. What is not carried over stands in\n"
        "comments at the top of the result. Merges that the file merges once more become recipes of\n"
        "their own, beside FILE.",
        looks=True,
    )
    sub.add_argument("file", metavar="MERGEKIT.yaml")
    sub.add_argument(
        "-o", "--output", metavar="FILE", help="file to write (default: standard output)"
    )
    sub.add_argument(
        "--layers", type=int, metavar="N", help="depth of the models, if they are not at hand"
    )
    sub.add_argument("--force", action="store_true", help="replace an existing file")

    sub = command(
        "merge",
        models.merge,
        "materialize a recipe as a Hugging Face model folder, or adapters as an adapter",
        "Written shard by shard beside DIR and renamed at the end: DIR appears whole or not at all. With it come the\n"
        "recipe (evomerge.yaml) and a card (README.md) for the hub: see docs/sharing.md.\n\n"
        "With --as-adapter DIR is a PEFT adapter (LoRA) of the one model that all models of the recipe are\n"
        "adapters of. A sum of adapters (linear, task_arithmetic, also with a line over depth) and methods on\n"
        "factors (robustmerge, lego) are exact, at the sum of the ranks at most; any other merge is brought\n"
        "to --rank R, and what that loses is told. Base + DIR is the float32 merge, before the recipe's dtype\n"
        "rounds it.\n\n"
        "--compress compeft keeps the signs of each factor's largest entries, at least 8 times smaller than in\n"
        "bfloat16, and tells what they lack. Only evomerge reads such a folder, as MODEL+DIR wherever a model\n"
        "is named; --as-adapter of a recipe that names it makes it one for peft.\n\n"
        "--experts R writes the merge as DIR/shared, what each source knows beyond it as DIR/experts/NAME of\n"
        "rank R, and DIR/router.yaml, which says how a server adds them up (Twin-Merging; of a recipe by twin\n"
        "what is shared is the sum that it begins with, and its weights are the router's).",
        looks=True,
    )
    sub.add_argument(
        "recipe", metavar="RECIPE.yaml|RUN_DIR", help="a recipe, a mergekit file, or a run's winner"
    )
    sub.add_argument("-o", "--output", metavar="DIR", required=True, help="folder to make")
    sub.add_argument("--force", action="store_true", help="replace DIR if it exists")
    sub.add_argument(
        "--as-adapter", action="store_true", help="write an adapter, where all models are adapters"
    )
    sub.add_argument(
        "--rank", type=int, metavar="R", help="of the adapter (default: as large as is exact)"
    )
    sub.add_argument(
        "--experts",
        type=int,
        metavar="R",
        help="write several adapters: what is shared, and an expert of rank R for each source",
    )
    sub.add_argument(
        "--compress",
        metavar="compeft[=DENSITY]",
        help="of the adapter: keep signs of this share of entries alone (compeft is compeft=0.2)",
    )
    sub.add_argument(
        "--shard-size",
        metavar="GB",
        type=float,
        default=4.0,
        help="largest weight file (default: %(default)s)",
    )
    sub.add_argument("--device", help="where kernels run: cpu, cuda, cuda:1 (default: cpu)")
    sub.add_argument(
        "--license",
        metavar="ID",
        help="of the merge, for its card (default: that of all parents, where it is one)",
    )
    allow(sub)

    sub = command(
        "push",
        models.push,
        "upload a merge to the Hugging Face hub, with its card and recipe",
        "DIR is what `evomerge merge` wrote: a model, an adapter, or experts. Sent are weights (safetensors alone),\n"
        "configs, tokenizer, card and recipe, in one commit; of folders of this machine that these name, the last part\n"
        "of the path is left. A new repository is private unless --public is given. Somebody has to say what licence\n"
        "the merge is under: its card does where all parents agree, else --license. The token is that of\n"
        "`hf auth login`, or HF_TOKEN.\n\n"
        "  evomerge push merged-model me/merged-model --dry-run",
        looks=True,
    )
    sub.add_argument("folder", metavar="DIR", help="what `evomerge merge` wrote")
    sub.add_argument("repository", metavar="OWNER/NAME", help="on the hub; made if it is new")
    sub.add_argument("--license", metavar="ID", help="of the merge (default: as its card says)")
    seen = sub.add_mutually_exclusive_group()
    seen.add_argument("--public", action="store_true", help="all may see it")
    seen.add_argument(
        "--private", action="store_true", help="only you, and the members of OWNER (default)"
    )
    sub.add_argument(
        "--revision",
        metavar="BRANCH",
        default="main",
        help="default: %(default)s; made if it is new",
    )
    sub.add_argument(
        "--dry-run", action="store_true", help="show what would be sent, and send nothing"
    )

    sub = command(
        "compare",
        models.compare,
        "compare models with the base they grew from, and with each other, by their weights",
        "Kinship, norms, sparsity, ranks, conflicts of signs, entries that one model or several need (TALL masks),\n"
        "what a dtype takes, and a verdict by the rules of What Matters for Model Merging at Scale: see\n"
        "docs/compare.md. Weights are read tensor by tensor. Of models of more than 4 billion parameters together a\n"
        "sample of entries is looked at, unless --exact is given.\n\n"
        "  evomerge compare chat=org/chat sea=org/sea --base org/base -o c.html",
        looks=True,
    )
    sub.add_argument(
        "models",
        metavar="[NAME=]MODEL",
        nargs="+",
        help="folders, hub ids, MODEL+ADAPTER or recipe.yaml",
    )
    sub.add_argument("--base", metavar="MODEL", required=True, help="what they grew from")
    sub.add_argument("--json", action="store_true", help="machine-readable")
    sub.add_argument(
        "-o", "--output", metavar="FILE", help="file to write instead: .html, .json or .md"
    )
    sub.add_argument("--force", action="store_true", help="replace an existing file")
    sub.add_argument("--layers", action="store_true", help="with a table by layer")
    sub.add_argument(
        "--limit",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="of the verdict, may be given again: parents, equal, redundant, far, conflict, rounding",
    )
    sub.add_argument(
        "--mask-lambda",
        metavar="X",
        type=float,
        default=0.4,
        help="how far an entry must stand out for a model to need it (default: %(default)s)",
    )
    sub.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="the model whose vocabulary all are brought to (default: base)",
    )
    sub.add_argument(
        "--exact", action="store_true", help="look at all entries, however large the models are"
    )
    allow(sub)

    sub = command("score", scores.score, "score one model or recipe on a fitness file")
    sub.add_argument(
        "model", metavar="MODEL|RECIPE", help="a folder, hub id, MODEL+ADAPTER or recipe.yaml"
    )
    sub.add_argument(
        "--fitness",
        metavar="NAME|FILE",
        required=True,
        help="fitness YAML (see fitness/README.md), or the name of one that comes with evomerge",
    )
    sub.add_argument(
        "--split",
        choices=("probe", "search", "select", "report"),
        default="select",
        help="default: %(default)s; keep report for the end: each look at it is recorded",
    )
    sub.add_argument(
        "--again", action="store_true", help="look at report items that were looked at before"
    )
    sub.add_argument("--device", help="cpu or cuda (default: cuda if there is any)")
    sub.add_argument(
        "--num-gpus", type=int, metavar="N", help="GPUs that a model is spread over (default: 1)"
    )
    sub.add_argument("--json", action="store_true", help="machine-readable")

    sub = command(
        "measure",
        models.measure,
        "collect a statistic of a model, such as its Fisher information, into the cache",
        "Methods such as fisher weigh what each model knows, which the model and some texts tell. Prints\n"
        "where the statistic is kept, and the lines that name its texts in a recipe. A search collects what\n"
        "it needs by itself: `calibration: {file: FILE}` in run.yaml.",
    )
    sub.add_argument(
        "model", metavar="MODEL", help="a folder, hub id, MODEL+ADAPTER or recipe.yaml"
    )
    sub.add_argument("--statistic", metavar="NAME", required=True, help="which one: fisher")
    sub.add_argument(
        "--data",
        metavar="FILE",
        required=True,
        help="texts: .jsonl with a text in each line, or passages separated by blank lines",
    )
    sub.add_argument("--items", type=int, metavar="N", help="the first N texts (default: all)")
    sub.add_argument("--device", help="cpu or cuda (default: cpu)")

    sub = command(
        "reduce",
        scores.reduce,
        "choose a few search items that stand for all, and write a fitness file with them",
        "The models answer the whole search split; items are clustered by their answers, and one of each\n"
        "cluster stands for it. Prints the expected error of each objective, measured on models left out\n"
        "of the choice. Name models that differ as candidates will: base, parents, some merges.",
    )
    sub.add_argument("fitness", metavar="NAME|FILE", help="fitness YAML to reduce")
    sub.add_argument(
        "--models",
        metavar="MODEL",
        nargs="+",
        required=True,
        help="folders, hub ids or recipe files",
    )
    sub.add_argument("-o", "--output", metavar="FILE", required=True, help="fitness file to write")
    sub.add_argument(
        "--items",
        type=int,
        metavar="N",
        help="items per task (default: what a candidate of the last generation is asked)",
    )
    sub.add_argument("--device", help="cpu or cuda (default: cuda if there is any)")
    sub.add_argument(
        "--num-gpus", type=int, metavar="N", help="GPUs that a model is spread over (default: 1)"
    )
    sub.add_argument("--force", action="store_true", help="replace an existing file")

    sub = command("methods", models.methods, "list the merge methods, or explain one", looks=True)
    sub.add_argument("name", metavar="NAME", nargs="?")
    sub.add_argument("--json", action="store_true", help="machine-readable")

    sub = command(
        "check",
        models.check,
        "check a run, fitness file, search space, recipe or model before anything is started",
        "Opens the models, reads the tasks and reports every problem at once, then what it will cost.\n"
        "Of a fitness file: tasks, metrics, near-duplicates, and what it will download. Nothing that the\n"
        "file or the folders it names hold is executed; what a search would execute is listed.\n\n"
        "With --measure a worker merges and scores a few items of a run, which executes what a search does:\n"
        "then the time to the final table and the memory of a worker are those of this machine.",
        looks=True,
    )
    sub.add_argument(
        "file",
        metavar="FILE",
        help="run.yaml or its folder, a fitness file, a search space, a recipe, a mergekit file, or a model's folder",
    )
    sub.add_argument(
        "--measure", action="store_true", help="of a run: try it, and say how long all of it takes"
    )
    allow(sub)
    return parser
